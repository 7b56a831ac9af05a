"""Mixing: golden values, the SNR asked for, draws that nothing disturbs."""

import copy
import csv
import logging
import math
import pickle

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.data.mixing import (
    MixRecipe,
    NoiseMixer,
    _WavCache,
    align_noise,
    mean_power,
    mix_at_snr,
    write_recipes,
)
from merit_modules.errors import InputError


def gaussian(n_samples, seed, scale=0.05):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.normal(0, scale, n_samples)).float()


def snr_db_of(clean, noisy):
    return 10 * math.log10(mean_power(clean) / mean_power(noisy - clean))


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Manifest of five noise files, 0.1 to 0.5 s, other than the speech."""
    folder = tmp_path_factory.mktemp("noise")
    manifest = {}
    for i in range(1, 6):
        path = folder / f"n{i}.wav"
        soundfile.write(path, gaussian(1600 * i, i).numpy(), 16000)
        manifest[f"n{i}"] = {"wav": str(path), "duration": 0.1 * i}
    return manifest


def test_released_code(golden):
    reference = torch.load(golden / "noise_mixing.pt", weights_only=True)
    for case in reference["cases"]:
        speech = case["speech"]
        aligned = align_noise(case["noise"], len(speech), case["roll"])
        assert torch.equal(aligned, case["aligned_noise"])
        mixture, _ = mix_at_snr(speech, aligned, case["snr_db"])
        assert torch.allclose(mixture, case["mixture"], rtol=0, atol=1e-6)


@given(
    n_noise=st.integers(1, 30),
    n_samples=st.integers(1, 100),
    offset=st.integers(-50, 50),
)
def test_aligned_noise_is_periodic(n_noise, n_samples, offset):
    noise = torch.arange(n_noise)
    aligned = align_noise(noise, n_samples, offset)
    repeated = torch.roll(noise, offset).repeat(n_samples // n_noise + 1)
    assert torch.equal(aligned, repeated[:n_samples])
    assert torch.equal(aligned[n_noise:], aligned[:-n_noise])


@given(
    snr_db=st.floats(-20, 40),
    speech_scale=st.floats(1e-3, 0.3),
    noise_scale=st.floats(1e-3, 0.3),
    seed=st.integers(0, 2**31),
)
def test_the_mixture_has_the_snr_asked_for(
    snr_db, speech_scale, noise_scale, seed
):
    speech = gaussian(2000, seed, speech_scale)
    noise = gaussian(2000, seed + 1, noise_scale)
    mixture, gain = mix_at_snr(speech, noise, snr_db)
    assert snr_db_of(speech, mixture) == pytest.approx(snr_db, abs=0.01)
    assert torch.allclose(mixture - speech, gain * noise, atol=1e-5)


def test_mixing_refuses_what_has_no_snr():
    with pytest.raises(ValueError, match=r"speech \(3,\), got \(2,\)"):
        mix_at_snr(torch.ones(3), torch.ones(2), 0)
    with pytest.raises(ValueError, match="noise: silent"):
        mix_at_snr(torch.ones(3), torch.zeros(3), 0)
    with pytest.raises(ValueError, match=r"noise: expected shape \(M,\)"):
        align_noise(torch.zeros(0), 4, 0)


@given(
    level=st.floats(1e-3, 3.0), snr_db=st.floats(-20, 20), seed=st.integers(0)
)
def test_no_mixture_exceeds_full_scale(noise, level, snr_db, seed):
    speech = gaussian(3000, 0, 0.3) * level
    noisy, clean, recipe = NoiseMixer(noise, snr_db, seed)("u", speech)
    assert noisy.abs().max() <= 1.0
    assert snr_db_of(clean, noisy) == pytest.approx(snr_db, abs=0.01)
    assert torch.equal(clean, speech * recipe.mixture_gain)
    unscaled_peak = noisy.abs().max().item() / recipe.mixture_gain
    if recipe.mixture_gain == 1.0:
        assert unscaled_peak <= 1.0
    else:
        assert unscaled_peak > 1.0
        assert noisy.abs().max().item() == pytest.approx(0.99, abs=1e-6)


def test_a_recipe_makes_the_mixture_again(noise):
    speech = gaussian(4000, 7)
    noisy, _, recipe = NoiseMixer(noise, (-5, 5), seed=3)("utt", speech)
    samples, _ = soundfile.read(noise[recipe.noise_id]["wav"], dtype="float32")
    aligned = align_noise(
        torch.from_numpy(samples), len(speech), recipe.offset_samples
    )
    again = recipe.mixture_gain * (speech + recipe.noise_gain * aligned)
    assert torch.allclose(noisy, again, atol=1e-7)
    assert recipe.utt_id == "utt"
    assert -5 <= recipe.snr_db <= 5


def test_fixed_conditions_share_noise_and_offset(noise):
    speech = gaussian(4000, 7)
    for utt_id in ("a", "b", "c", "d"):
        recipes = [
            NoiseMixer(noise, snr_db, seed=3)(utt_id, speech)[2]
            for snr_db in (-5, 5.0, (0, 20))
        ]
        assert len({recipe[:3] for recipe in recipes}) == 1
        assert recipes[0].snr_db == -5.0 and recipes[1].snr_db == 5.0


def recipes_of(mixer, ids):
    speech = gaussian(1000, 7)
    return {utt_id: mixer(utt_id, speech)[2] for utt_id in ids}


@settings(max_examples=20)
@given(
    ids=st.lists(st.text(max_size=5), min_size=1, max_size=8, unique=True),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
    data=st.data(),
)
def test_draws_depend_on_seed_epoch_and_id_alone(noise, ids, seed, epoch, data):
    mixer = NoiseMixer(noise, (-5, 20), seed)
    mixer.set_epoch(epoch)
    expected = recipes_of(mixer, ids)
    other = NoiseMixer(dict(reversed(noise.items())), (-5, 20), seed)
    recipes_of(other, ids)  # an earlier epoch leaves no trace
    other.set_epoch(epoch)
    order = data.draw(st.permutations(ids))
    assert recipes_of(other, order) == expected
    copied = pickle.loads(pickle.dumps(mixer))
    assert recipes_of(copied, order) == expected


def test_epoch_and_seed_change_the_draws(noise):
    ids = [f"u{i}" for i in range(10)]
    mixer = NoiseMixer(noise, (-5, 20), seed=1)
    first = recipes_of(mixer, ids)
    mixer.set_epoch(1)
    second = recipes_of(mixer, ids)
    third = recipes_of(NoiseMixer(noise, (-5, 20), seed=2), ids)
    for other in (second, third):
        assert all(first[i].snr_db != other[i].snr_db for i in ids)
    mixer.set_epoch(0)
    assert recipes_of(mixer, ids) == first


def test_draws_are_uniform(noise):
    n = 2000
    recipes = recipes_of(
        NoiseMixer(noise, (-5, 15), seed=1), [f"u{i}" for i in range(n)]
    ).values()
    for noise_id in noise:
        share = sum(r.noise_id == noise_id for r in recipes) / n
        assert share == pytest.approx(0.2, abs=0.04)
    snrs_db = [r.snr_db for r in recipes]
    assert np.mean(snrs_db) == pytest.approx(5, abs=0.6)
    assert np.std(snrs_db) == pytest.approx(20 / 12**0.5, abs=0.4)
    offsets = [r.offset_samples / 8000 for r in recipes if r.noise_id == "n5"]
    assert np.mean(offsets) == pytest.approx(0.5, abs=0.06)
    assert 0 <= min(offsets) and max(offsets) < 1


def test_global_random_state_is_untouched(noise):
    state = torch.get_rng_state()
    recipes_of(NoiseMixer(noise, (-5, 20), seed=1), "abc")
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_of_another_rate_and_shorter_than_speech(tmp_path):
    path = tmp_path / "n.wav"
    soundfile.write(path, gaussian(2000, 1).numpy(), 20000)
    mixer = NoiseMixer({"n": {"wav": str(path)}}, 0, seed=1)
    speech = gaussian(4000, 2)
    noisy, clean, _ = mixer("u", speech)
    added = noisy - clean
    # 0.1 s at 20 kHz is 1600 samples at 16 kHz, repeated.
    assert torch.allclose(added[1600:], added[:-1600], atol=1e-6)


def test_clean_condition_leaves_speech_alone():
    speech = gaussian(1000, 3)
    noisy, clean, recipe = NoiseMixer(None, None, seed=1)("u", speech)
    assert torch.equal(noisy, speech) and torch.equal(clean, speech)
    assert recipe == MixRecipe("u", None, 0, None, 0.0, 1.0)


def test_silent_speech_is_named(noise):
    for mixer in (NoiseMixer(noise, 5, seed=1), NoiseMixer(None, None, 1)):
        with pytest.raises(InputError, match="'u9': the speech is silent"):
            mixer("u9", torch.full((1000,), 1e-6))


def silent_noise(tmp_path, n_files):
    manifest = {}
    for i in range(n_files):
        path = tmp_path / f"silent{i}.wav"
        soundfile.write(path, np.zeros(3200), 16000)
        manifest[f"s{i}"] = {"wav": str(path), "duration": 0.2}
    return manifest


def test_silent_noise_is_skipped_and_named_once(tmp_path, noise, caplog):
    silent = silent_noise(tmp_path, 1)
    mixer = NoiseMixer({**noise, **silent}, 5, seed=1)
    recipes = recipes_of(mixer, [f"u{i}" for i in range(100)])
    assert {r.noise_id for r in recipes.values()} == set(noise)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert silent["s0"]["wav"] in warnings[0].getMessage()


def test_only_silent_noise_is_an_error(tmp_path):
    silent = silent_noise(tmp_path, 2)
    with pytest.raises(InputError, match="all 20 noises drawn") as error:
        NoiseMixer(silent, 5, seed=1)("u9", gaussian(1000, 1))
    for entry in silent.values():
        assert entry["wav"] in str(error.value)
    assert "'u9'" in str(error.value)


def test_unreadable_noise_is_named():
    mixer = NoiseMixer({"n": {"wav": "gone.wav"}}, 5, seed=1)
    with pytest.raises(InputError, match="gone.wav"):
        mixer("u", gaussian(1000, 1))


@pytest.mark.parametrize(
    "snr_db",
    ["5", True, [1], [1, 2, 3], (5, -5), float("nan"), [0, None], 101],
)
def test_bad_snr_is_named(noise, snr_db):
    with pytest.raises(InputError, match="snr_db: expected null") as error:
        NoiseMixer(noise, snr_db, seed=1)
    assert repr(snr_db) in str(error.value)


@pytest.mark.parametrize("noise", [None, {}])
def test_noise_is_needed_for_an_snr(noise):
    with pytest.raises(InputError, match="noise: expected a noise manifest"):
        NoiseMixer(noise, 5, seed=1)


def test_cache_is_bounded_and_left_behind_on_pickling(noise):
    paths = [noise[f"n{i}"]["wav"] for i in (1, 2, 3)]  # 6.4, 12.8, 19.2 kB
    cache = _WavCache(max_bytes=20_000)
    first = cache.get(paths[0], 16000)
    cache.get(paths[1], 16000)
    assert cache.get(paths[0], 16000) is first
    cache.get(paths[2], 16000)  # pushes out both
    assert list(cache._wavs) == paths[2:]
    assert cache._n_bytes == 19_200
    assert len(_WavCache(max_bytes=10).get(paths[0], 16000)) == 1600
    mixer = NoiseMixer(noise, 5, seed=1)
    recipes_of(mixer, "abcdefgh")
    assert mixer._cache._n_bytes > 0
    copied = pickle.loads(pickle.dumps(mixer))
    assert copied._cache._n_bytes == 0
    assert copied._cache.max_bytes == mixer._cache.max_bytes


def test_a_file_is_decoded_once(noise, monkeypatch):
    from merit_modules.data import mixing

    asked = []

    def spy(path, *args, **kwargs):
        asked.append(path)
        return read_audio(path, *args, **kwargs)

    read_audio = mixing.read_audio
    monkeypatch.setattr(mixing, "read_audio", spy)
    recipes_of(NoiseMixer(noise, 5, seed=1), [f"u{i}" for i in range(50)])
    assert sorted(asked) == sorted(entry["wav"] for entry in noise.values())


def test_a_deep_copy_hears_of_the_epoch(noise):
    mixer = NoiseMixer(noise, 5, seed=1)
    copied = copy.deepcopy({"mixer": mixer})["mixer"]
    mixer.set_epoch(4)
    assert copied.epoch == 4


def test_recipes_are_written_sorted(tmp_path):
    recipes = [
        MixRecipe("u2", "n1", 12, 2.5, 0.123456789012345, 0.9),
        MixRecipe("u1", None, 0, None, 0.0, 1.0),
    ]
    path = tmp_path / "recipes.csv"
    write_recipes(path, recipes, {"n1": {"wav": "a, b.wav"}})
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["utt_id"] for row in rows] == ["u1", "u2"]
    assert rows[0]["noise_wav"] == rows[0]["snr_db"] == ""
    assert rows[1]["noise_wav"] == "a, b.wav"
    assert float(rows[1]["noise_gain"]) == 0.123456789012345
    assert rows[1]["offset_samples"] == "12"


@pytest.mark.parametrize("offset", [0.05, 0.2, -0.3])
@pytest.mark.parametrize("side", ["speech", "noise"])
def test_an_offset_is_no_power_unless_asked_for(tmp_path, offset, side):
    path = tmp_path / "noise.wav"
    noise = gaussian(16000, 3) * 0.05 + (offset if side == "noise" else 0)
    soundfile.write(path, noise.numpy(), 16000, subtype="FLOAT")
    speech = gaussian(16000, 4) * 0.02 + (offset if side == "speech" else 0)
    for about_mean in (True, False):
        mixer = NoiseMixer(
            {"n": {"wav": str(path)}}, 0, seed=1, about_mean=about_mean
        )
        noisy, clean, _ = mixer("u", speech)
        heard = 10 * math.log10(
            mean_power(clean, True) / mean_power(noisy - clean, True)
        )
        raw = snr_db_of(clean, noisy)
        assert abs(heard if about_mean else raw) < 0.01
        assert abs(raw if about_mean else heard) > 1


def test_noise_that_is_kept_is_not_decoded_again(noise, monkeypatch):
    expected = NoiseMixer(noise, 5, seed=1)("u", gaussian(500, 0))[0]
    mixer = NoiseMixer(noise, 5, seed=1)
    mixer.keep_noise()
    bounded = NoiseMixer(noise, 5, seed=1, cache_bytes=20_000)
    bounded.keep_noise()
    assert not bounded._cache._wavs  # not all of it fits

    def refuse(path, *args, **options):
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr("merit_modules.data.mixing.read_audio", refuse)
    assert torch.equal(mixer("u", gaussian(500, 0))[0], expected)

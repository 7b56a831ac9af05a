"""Several noise corpora: each one's form, no recording in two splits."""

import re
import json
import logging
import random
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml

from merit_modules.data.audio import read_audio
from merit_modules.data.manifest import read_manifest
from merit_modules.data.mixing import NoiseMixer
from merit_modules.data.noise.choice import NoiseChoice
from merit_modules.data.noise.corpora import (
    noise_manifests,
    noise_stamp,
    prepare_noise,
    prepare_noise_corpora,
)
from merit_modules.data.noise.corpus import (
    prepare_noise_folder,
    usable_durations,
)
from merit_modules.data.noise.forms import FORMS, find_noise
from merit_modules.data.preparation import split_digest
from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams
from tests.conftest import ROOT


def fill(folder, names, rate_hz=16000, n_channels=1, duration_s=0.12):
    shape = (round(duration_s * rate_hz), n_channels)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wav = np.random.default_rng(len(name)).normal(0, 0.1, shape)
        soundfile.write(path, wav, rate_hz)
    return folder


#: A small tree of each corpus's form: {form: (names, rate, channels)}.
TREES = {
    "dns": (
        [
            *(
                f"datasets_fullband/noise_fullband/{name}.wav"
                for name in (
                    "-0bZfk_tUW4",
                    "_8xMUkPPnE0",
                    "a1b2c3d4e5f",
                    "door_Freesound_validated_393871_0",
                    "door_Freesound_validated_393871_1",
                    "air_conditioner_Freesound_66123",
                )
            ),
            "datasets_fullband/clean_fullband/speech.wav",
        ],
        48000,
        1,
    ),
    "freesound": (
        ["393871.flac", "11__jan__wind in trees.wav", "12_0.wav", "12_1.wav",
         "x/13.wav"],
        44100,
        2,
    ),
    "crss": (["car/a.wav", "car/b.wav", "fan/c.wav"], 16000, 1),
    "musan": (
        [
            *(f"noise/free-sound/noise-free-sound-{i}.wav" for i in range(3)),
            "noise/sound-bible/noise-sound-bible-0.wav",
            "speech/librivox/speech-librivox-0.wav",
            "music/fma/music-fma-0.wav",
        ],
        16000,
        1,
    ),
    "esc50": (
        [
            "audio/1-100032-A-0.wav",
            "audio/1-100032-B-0.wav",
            "audio/2-66123-A-14.wav",
            "audio/3-7-A-0.wav",
        ],
        44100,
        1,
    ),
    "demand": (
        [f"{e}/ch{c:02}.wav" for e in ("DKITCHEN", "TBUS", "TCAR")
         for c in (1, 2, 16)],
        48000,
        1,
    ),
    "folder": (["n1.wav", "n2.wav", "more/n3.wav"], 20000, 1),
}  # fmt: skip
N_USED = {"dns": 6, "musan": 4}  # of the others: all


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """All trees, each in a folder of its form's name."""
    folder = tmp_path_factory.mktemp("corpora")
    for form, (names, rate_hz, n_channels) in TREES.items():
        fill(folder / form, names, rate_hz, n_channels)
    (folder / "esc50" / "meta").mkdir()
    (folder / "esc50" / "meta" / "esc50.csv").write_text(
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
        "2-66123-A-14.wav,2,14,chirping_birds,False,66123,A\n"
    )
    return folder


def corpora_of(disk, **settings):
    """Settings of the named corpora, each of the form of its name."""
    return {
        name: {"folder": disk / name, "form": name, **more}
        for name, more in settings.items()
    }


def test_every_form_is_tried():
    assert set(TREES) == set(FORMS)


@pytest.mark.parametrize("form", TREES)
def test_each_form_alone(disk, tmp_path, form):
    manifests = prepare_noise(corpora_of(disk, **{form: {}}), tmp_path, seed=1)
    used = {}
    for split in ("train", "valid", "test_unseen"):
        assert manifests[split]
        assert not used.keys() & manifests[split].keys()
        used |= manifests[split]
    assert manifests["test_seen"] == manifests["train"]
    names, rate_hz, _ = TREES[form]
    assert len(used) == N_USED.get(form, len(names))
    for name, entries in manifests.items():
        path = tmp_path / f"noise_{name}.json"
        assert read_manifest(path, "elsewhere") == entries
    for item, entry in used.items():
        assert item.startswith(f"{form}/")
        assert set(entry) == {"wav", "duration", "noise_type", "corpus"}
        assert entry["corpus"] == form
        assert entry["duration"] == 0.12
        # Any rate, one channel or two: 0.12 s of one channel at 16 kHz.
        assert read_audio(entry["wav"]).shape == (1920,)


def origins_of(disk, form, **options):
    found = find_noise(disk / form, form, **options)
    return {name: origin for name, (_, origin) in found.items()}


def test_dns_names_tell_clip_and_type(disk):
    origins = origins_of(disk, "dns")
    by_stem = {name.split("/")[-1]: o for name, o in origins.items()}
    assert len(origins) == 6  # and not the clean speech beside them
    pieces = [
        by_stem[f"door_Freesound_validated_393871_{i}.wav"] for i in (0, 1)
    ]
    assert {o.clip for o in pieces} == {"freesound:393871"}
    assert {o.noise_type for o in pieces} == {"door"}
    other = by_stem["air_conditioner_Freesound_66123.wav"]
    assert other[1:] == ("air_conditioner", "freesound:66123")
    assert by_stem["-0bZfk_tUW4.wav"][1:] == (
        "audioset",
        "audioset:-0bZfk_tUW4",
    )


def test_dns_is_found_in_all_its_places(tmp_path):
    for place in ("datasets/noise", "noise_fullband", "noise", "."):
        root = tmp_path / place.replace("/", "_").replace(".", "here")
        fill(root / place, ["-0bZfk_tUW4.wav"])
        assert len(find_noise(root, "dns")) == 1
    fill(tmp_path / "no", ["datasets_fullband/clean_fullband/speech.wav"])
    with pytest.raises(InputError, match="found neither, but speech"):
        find_noise(tmp_path / "no", "dns")


def test_musan_parts(disk):
    types = {o.noise_type for o in origins_of(disk, "musan").values()}
    assert types == {"noise/free-sound", "noise/sound-bible"}
    music = origins_of(disk, "musan", parts=["music", "noise/sound-bible"])
    assert {o.noise_type for o in music.values()} == {
        "music/fma",
        "noise/sound-bible",
    }
    with pytest.raises(InputError, match="gone: there is no such folder"):
        origins_of(disk, "musan", parts=["gone"])


def test_esc50_categories_and_takes(disk, tmp_path):
    origins = list(origins_of(disk, "esc50").values())
    assert [o.noise_type for o in origins] == [
        "dog",
        "dog",
        "chirping_birds",
        "dog",
    ]
    assert origins[0].clip == origins[1].clip == "freesound:100032"
    # Without the corpus's table, and with a broken one.
    folder = fill(tmp_path / "esc", ["audio/1-100032-A-17.wav"])
    found = find_noise(folder, "esc50")
    assert found["audio/1-100032-A-17.wav"][1].noise_type == "esc50_17"
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("filename,class\n")
    with pytest.raises(InputError, match="line 1, column target: .*filename, class"):
        find_noise(folder, "esc50")


@pytest.mark.parametrize("form", ["esc50", "demand"])
def test_names_of_another_form_are_refused(disk, form):
    with pytest.raises(InputError, match="expected a name of .*, such as"):
        find_noise(disk / "folder", form)
    with pytest.raises(InputError, match="form: expected one of dns, free"):
        find_noise(disk / "folder", "dsn")


def test_both_rates_of_demand_are_one_recording(tmp_path):
    fill(tmp_path, ["TBUS_16k/ch01.wav", "TBUS_48k/ch01.wav", "TBUS/ch02.wav"])
    clips = {o.clip for _, o in find_noise(tmp_path, "demand").values()}
    assert clips == {"demand:TBUS"}


def test_freesound_clips_by_number(disk):
    origins = origins_of(disk, "freesound")
    assert {name: o.clip for name, o in origins.items()} == {
        "11__jan__wind in trees.wav": "freesound:11",
        "12_0.wav": "freesound:12",
        "12_1.wav": "freesound:12",
        "393871.flac": "freesound:393871",
        "x/13.wav": "freesound:13",
    }
    types = [origin.noise_type for origin in origins.values()]
    assert types == ["freesound"] * 4 + ["x"]


@pytest.mark.parametrize("seed", range(8))
def test_clips_that_corpora_share_stay_in_one_split(disk, tmp_path, seed):
    corpora = corpora_of(disk, dns={}, demand={})
    corpora["clips"] = clips_of_dns_and_three(tmp_path)
    manifests = prepare_noise_corpora(corpora, tmp_path, seed)
    place = {}
    for split in ("train", "valid", "test_unseen"):
        for item in manifests[split]:
            number = next((n for n in ("393871", "66123") if n in item), None)
            if number:
                place.setdefault(number, []).append(split)
    assert {number: len(files) for number, files in place.items()} == {
        "393871": 3,  # two pieces in DNS, the clip in the other corpus
        "66123": 2,
    }
    assert all(len(set(splits)) == 1 for splits in place.values())
    demand = [
        {item.split("/")[1] for item in manifests[split] if "demand" in item}
        for split in ("train", "valid", "test_unseen")
    ]
    assert sum(map(len, demand)) == len(set.union(*demand)) == 3


def clips_of_dns_and_three(folder):
    """A Freesound corpus with two clips of DNS and three of its own."""
    names = ["393871.wav", "66123__x__y.wav", "1.wav", "2.wav", "3.wav"]
    return {"folder": fill(folder / "clips", names), "form": "freesound"}


def test_test_only_corpora_are_kept_from_training(disk, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    corpora = corpora_of(
        disk, crss={"use": "test_only"}, dns={}, freesound={"use": "test_only"}
    )
    manifests = prepare_noise_corpora(corpora, tmp_path, seed=3)
    assert list(manifests) == [
        name.removeprefix("noise_") for name in noise_manifests(corpora)
    ]
    assert {p.name for p in tmp_path.glob("*.json")} == {
        f"{name}.json" for name in noise_manifests(corpora)
    }
    assert len(manifests["test_crss"]) == 3
    assert len(manifests["test_freesound"]) == 5
    for split in ("train", "valid", "test_seen", "test_unseen"):
        assert {e["corpus"] for e in manifests[split].values()} == {"dns"}
    # Freesound 393871 is in the corpus that is kept: DNS's pieces of it, too.
    unseen = [i for i in manifests["test_unseen"] if "393871" in i]
    assert len(unseen) == 2
    assert not any("393871" in i for i in manifests["train"])
    assert not any("393871" in i for i in manifests["valid"])
    assert "2 noise files of training corpora are kept" in caplog.text


def test_one_folder_is_split_as_ever(disk, tmp_path):
    """The split of a folder is what it was before there were corpora."""
    names = [f"n{i}.wav" for i in range(10)]
    names += [f"TBUS/ch0{c}.wav" for c in (1, 2)]
    names += [f"audio/1-10003{i}-{t}-17.wav" for i in range(4) for t in "AB"]
    names += [
        f"door_Freesound_validated_39387{i}_{k}.wav"
        for i in range(3)
        for k in (0, 1)
    ]
    folder = fill(tmp_path / "noise", names)
    splits = prepare_noise_folder(folder, tmp_path / "a", seed=5)
    assert {name: split_digest(split) for name, split in splits.items()} == {
        "train": "76258a8b7f9d4e3e",
        "valid": "2dbcb790c740570a",
        "test_unseen": "cde548cec6f30b74",
        "test_seen": "76258a8b7f9d4e3e",
    }
    assert prepare_noise(folder, tmp_path / "b", seed=5) == splits
    corpora = {"x": {"folder": folder, "form": "folder"}}
    alone = prepare_noise(corpora, tmp_path / "c", seed=5)
    beside = prepare_noise(
        {**corpora_of(disk, demand={}), **corpora}, tmp_path / "d", seed=5
    )
    for name, split in splits.items():
        assert [f"x/{item}" for item in split] == list(alone[name])
        assert alone[name].items() <= beside[name].items()


def test_silent_short_and_broken_files_are_left_out(tmp_path, caplog):
    folder = fill(tmp_path / "n", ["a.wav", "b.wav", "c.wav"])
    fill(folder, ["blip.wav"], duration_s=0.05)
    soundfile.write(folder / "quiet.wav", np.full(8000, 1e-6), 8000, "FLOAT")
    (folder / "text.wav").write_text("no audio")
    corpora = {
        "x": {"folder": folder, "form": "folder"},
        "y": {
            "folder": fill(tmp_path / "m", ["d.wav"]),
            "form": "crss",
            "use": "test_only",
        },
    }
    (tmp_path / "m" / "empty.wav").touch()
    manifests = prepare_noise(corpora, tmp_path, seed=1)
    used = {item for entries in manifests.values() for item in entries}
    assert used == {"x/a.wav", "x/b.wav", "x/c.wav", "y/d.wav"}
    for name in ("blip", "quiet", "text", "empty"):
        assert f"{name}.wav: " in caplog.text


def test_what_was_read_is_not_read_again(tmp_path, monkeypatch, caplog):
    folder = fill(tmp_path / "n", ["a.wav", "b.wav", "c.wav"])
    soundfile.write(folder / "quiet.wav", np.zeros(8000), 8000)
    files = {path.name: path for path in sorted(folder.iterdir())}
    cache = tmp_path / "cache" / "read.jsonl"
    first = usable_durations(files, cache)
    with open(cache, "a") as stream:
        stream.write('["half a li')
    asked = []

    def spy(path, *args, **kwargs):
        asked.append(str(path))
        return read_audio(path, *args, **kwargs)

    monkeypatch.setattr("merit_modules.data.noise.corpus.read_audio", spy)
    fill(folder, ["b.wav"], duration_s=0.3)  # changed since
    caplog.clear()
    again = usable_durations(files, cache)
    # By several threads, in any order.
    assert sorted(asked) == [str(folder / "b.wav"), str(folder / "quiet.wav")]
    assert again == {**first, "b.wav": 0.3}
    assert "quiet.wav: silent" in caplog.text
    asked.clear()
    assert usable_durations(files, cache) == again
    assert asked == [str(folder / "quiet.wav")]


def test_a_stamp_tells_when_to_do_it_again(disk, tmp_path):
    corpora = corpora_of(disk, dns={"weight": 2}, crss={"use": "test_only"})
    stamp = noise_stamp(corpora)
    assert json.loads(json.dumps(stamp)) == stamp
    assert stamp["n_noise_files"] == 9
    corpora["dns"]["weight"] = 3
    assert noise_stamp(corpora) != stamp
    folder = fill(tmp_path, ["a.wav"])
    assert noise_stamp(folder) == {
        "noise_folder": str(folder.resolve()),
        "n_noise_files": 1,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "dsn"}, "form: expected one of dns, freesound, .* 'dsn'"),
        ({"form": None}, "expected a form, got none"),
        ({"use": "train"}, "use: expected one of train_and_test, test_only"),
        ({"weight": 0}, "weight: expected a number above 0, got 0"),
        ({"weight": "2"}, "weight: expected a number above 0, got '2'"),
        ({"weight": 1, "use": "test_only"}, "weight: expected none"),
        ({"parts": "noise"}, "parts: expected a list of subfolders"),
        ({"parts": []}, "parts: expected a list of subfolders"),
        ({"wieght": 1}, "unknown setting 'wieght'; expected folder, form"),
        ({"folder": "gone"}, "gone: there is no such folder"),
    ],
)
def test_bad_settings_are_named(disk, tmp_path, change, message):
    corpora = corpora_of(disk, crss={}, folder=change)
    with pytest.raises(InputError, match=message) as error:
        prepare_noise(corpora, tmp_path, seed=1)
    assert "noise corpus 'folder'" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_bad_mappings_are_named(disk, tmp_path):
    for name in ("seen", "a/b", ""):
        with pytest.raises(InputError, match="expected a name of letters"):
            prepare_noise({name: {}}, tmp_path, seed=1)
    with pytest.raises(InputError, match="expected settings, got '/x'"):
        prepare_noise({"dns": "/x"}, tmp_path, seed=1)
    kept = corpora_of(disk, crss={"use": "test_only"})
    for corpora in ({}, kept):
        with pytest.raises(InputError, match="one or more that are not test"):
            prepare_noise(corpora, tmp_path, seed=1)
    folder = fill(tmp_path / "few", ["a.wav", "b.wav"])
    few = {"few": {"folder": folder, "form": "folder"}}
    with pytest.raises(
        InputError,
        match="'few' .*other corpora hold: expected at least 3 .* got 2",
    ):
        prepare_noise(few, tmp_path, seed=1)


def test_a_file_in_two_corpora_is_an_error(disk, tmp_path):
    (tmp_path / "link").symlink_to(disk / "crss")
    corpora = corpora_of(disk, crss={})
    corpora["again"] = {"folder": tmp_path / "link", "form": "folder"}
    with pytest.raises(InputError, match="'crss/car/a.wav' and as 'again/ca"):
        prepare_noise(corpora, tmp_path, seed=1)


def test_weights_are_of_the_training_corpora(disk, tmp_path):
    corpora = corpora_of(
        disk, dns={"weight": 3}, demand={}, crss={"use": "test_only"}
    )
    manifests = prepare_noise(corpora, tmp_path, seed=1)
    for split in ("train", "valid", "test_seen", "test_unseen"):
        weights = {
            (e["corpus"], e["weight"]) for e in manifests[split].values()
        }
        assert weights == {("dns", 3.0), ("demand", 1.0)}
    assert not any("weight" in e for e in manifests["test_crss"].values())


def weighted(weights, n_files=(40, 3, 5)):
    return {
        f"{corpus}{i}": {"corpus": corpus, "weight": weight}
        for (corpus, weight), n in zip(weights.items(), n_files)
        for i in range(n)
    }


def test_corpora_are_drawn_by_weight_and_files_uniformly():
    choice = NoiseChoice(weighted({"a": 1, "b": 2.5, "c": 0.5}))
    generator = random.Random(1)
    drawn = [choice.draw(generator) for _ in range(8000)]
    shares = Counter(item[0] for item in drawn)
    for corpus, share in {"a": 0.25, "b": 0.625, "c": 0.125}.items():
        assert shares[corpus] / 8000 == pytest.approx(share, abs=0.02)
    files = Counter(item for item in drawn if item[0] == "b")
    for item in ("b0", "b1", "b2"):
        assert files[item] / shares["b"] == pytest.approx(1 / 3, abs=0.03)


def test_one_corpus_or_no_weights_draw_as_ever():
    noise = weighted({"a": 1, "b": 2})
    plain = {item: {"wav": item} for item in noise}
    alone = {
        item: {**e, "corpus": "a", "weight": 7} for item, e in noise.items()
    }
    reversed_ = dict(reversed(plain.items()))
    names = {item: {"corpus": e["corpus"]} for item, e in noise.items()}
    drawn = []
    for manifest in (plain, alone, reversed_, names):
        generator = random.Random(4)
        choice = NoiseChoice(manifest)
        drawn.append([choice.draw(generator) for _ in range(50)])
        drawn[-1].append(generator.random())  # as many draws, too
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]
    generator, ids = random.Random(4), sorted(noise)
    by_hand = [ids[int(generator.random() * len(ids))] for _ in range(50)]
    assert drawn[0][:-1] == by_hand


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"corpus": "b"}, "corpus 'b', weight None"),
        ({"weight": 2}, "corpus None, weight 2"),
        ({"corpus": "b", "weight": -1}, "weight -1"),
        ({"corpus": "b", "weight": True}, "weight True"),
        ({"corpus": "b", "weight": float("inf")}, "weight inf"),
        ({"corpus": "a", "weight": 2}, "got 1 and 2 for 'a'"),
    ],
)
def test_bad_weights_are_named(entry, message):
    noise = {"n1": {"corpus": "a", "weight": 1}, "n2": entry}
    with pytest.raises(InputError, match=message) as error:
        NoiseChoice(noise)
    assert "noise 'n2'" in str(error.value)


def gaussian(n_samples, seed):
    wav = np.random.default_rng(seed).normal(0, 0.05, n_samples)
    return torch.from_numpy(wav).float()


@pytest.fixture(scope="module")
def five_noises(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    noise = {}
    for i in range(1, 6):
        path = folder / f"n{i}.wav"
        wav = np.random.default_rng(i).normal(0, 0.05, 1600 * i)
        soundfile.write(path, wav, 16000)
        noise[f"n{i}"] = {"wav": str(path), "duration": 0.1 * i}
    return noise


def test_the_draws_of_a_mixer_are_what_they_were(five_noises):
    """Values of the mixer before it knew of weights."""
    expected = {
        "a": ("n3", 374, 17.64360701779459),
        "b": ("n4", 604, 7.657148385343461),
        "c": ("n2", 298, -0.361593200545264),
    }
    one_corpus = {
        item: {**entry, "corpus": "x", "weight": 2.0}
        for item, entry in five_noises.items()
    }
    for noise in (five_noises, one_corpus):
        mixer = NoiseMixer(noise, (-5, 20), seed=3)
        mixer.set_epoch(2)
        for utt_id, drawn in expected.items():
            assert mixer(utt_id, gaussian(1000, 7))[2][1:4] == drawn


def test_a_mixer_heeds_weights(five_noises):
    noise = {
        item: {
            **entry,
            "corpus": "x" if item == "n1" else "y",
            "weight": 9.0 if item == "n1" else 1.0,
        }
        for item, entry in five_noises.items()
    }
    mixer = NoiseMixer(noise, 0, seed=1)
    speech = gaussian(500, 1)
    drawn = [mixer(f"u{i}", speech)[2].noise_id for i in range(400)]
    assert drawn.count("n1") / 400 == pytest.approx(0.9, abs=0.05)


def test_the_real_noises(shared_data, tmp_path):
    corpora = {"nonspeech": {"folder": shared_data / "noise", "form": "folder"}}
    manifests = prepare_noise(corpora, tmp_path, seed=1234)
    assert [len(entries) for entries in manifests.values()] == [80, 10, 10, 80]
    mixer = NoiseMixer(manifests["train"], 0, seed=1)
    noisy, clean, recipe = mixer("u", gaussian(16000, 1))
    assert recipe.noise_id.startswith("nonspeech/nonspeech/n")
    assert noisy.shape == clean.shape == (16000,)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "noise").glob("*.yaml")), ids=str
)
def test_shipped_fragments_name_what_is_prepared(path, disk, tmp_path):
    text = path.read_text()
    forms = re.findall(r"^(\w+):$", text, re.M)
    assert len(forms) == 3
    (tmp_path / "mine.yaml").write_text(
        f"noise_folder: !include:{path}\n"
        + "".join(f"    {f}: {{folder: {disk / f}}}\n" for f in forms)
    )
    noise = load_hparams(tmp_path / "mine.yaml")["noise_folder"]
    written = prepare_noise(noise, tmp_path, seed=1)
    (told,) = re.findall(r"test_noise_sets: \[(.*)\]", text)
    assert set(told.split(", ")) == {
        name for name in written if name.startswith("test_")
    }
    assert noise_manifests(noise) == [f"noise_{name}" for name in written]

"""MiniEmo: repeatable, balanced, reusable, and labelled by how it sounds."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import welch
from scipy.stats import kurtosis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from merit_modules.data.manifest import read_manifest
from merit_modules.data.miniemo import noise, noise_unseen, prepare
from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.prepare import plan_corpus, prepare_miniemo
from merit_modules.data.miniemo.speech import (
    BABBLE_SENTENCES,
    BABBLE_VOICES,
    EMOTIONS,
    SENTENCES,
    VOICES,
    draw_prosody,
    plan_utterances,
)
from merit_modules.data.miniemo.waveform import set_level, trim_silence
from merit_modules.errors import InputError
from tests.conftest import ROOT

SPLITS = ("train", "valid", "test")
NOISES = (
    "noise_train",
    "noise_valid",
    "noise_test_seen",
    "noise_test_unseen",
)
RATE_HZ = 16000


@pytest.fixture(autouse=True, scope="module")
def _few_noises():
    """Make one noise recording of each type, for speed."""
    few = {name: (types, 1) for name, (types, _) in prepare.NOISE_SETS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "NOISE_SETS", few)
        yield


@pytest.fixture(scope="module")
def corpus(_few_noises, tmp_path_factory):
    """Folders of audio and manifests of the smallest corpus."""
    folder = tmp_path_factory.mktemp("miniemo")
    prepare_miniemo(folder / "audio", folder / "out", n_sentences=1)
    return folder / "audio", folder / "out"


def _digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _mtimes(*folders):
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
    }


def _entries(corpus, name):
    return read_manifest(corpus[1] / f"{name}.json", corpus[0])


# ---------------------------------------------------------------- repeatable


@pytest.mark.slow
def test_two_generations_are_identical(corpus, tmp_path):
    prepare_miniemo(tmp_path / "audio", tmp_path / "out", n_sentences=1)
    assert _digests(tmp_path / "audio") == _digests(corpus[0])
    assert _digests(tmp_path / "out") == _digests(corpus[1])


@pytest.mark.slow
def test_files_do_not_depend_on_the_order_of_generation(corpus, tmp_path):
    for item in plan_corpus(n_sentences=1, seed=0)[::-4]:
        prepare._write_wav(tmp_path / "one.wav", item.render())
        made = (tmp_path / "one.wav").read_bytes()
        assert made == item.path(corpus[0]).read_bytes(), item.name


def test_espeak_says_the_same_in_another_process():
    voices = [voice for split in SPLITS for voice in VOICES[split]]
    program = (
        "import hashlib, sys\n"
        "from merit_modules.data.miniemo.espeak import Espeak\n"
        "for voice in sys.argv[1:]:\n"
        "    waveform = Espeak().speak('Hello again.', voice)[0]\n"
        "    print(hashlib.sha256(waveform.tobytes()).hexdigest())\n"
    )
    # Another filling of fresh memory shows what is read uninitialised.
    result = subprocess.run(
        [sys.executable, "-c", program, *voices, *BABBLE_VOICES],
        env={**os.environ, "MALLOC_PERTURB_": "85"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    here = [
        hashlib.sha256(
            Espeak().speak("Hello again.", voice)[0].tobytes()
        ).hexdigest()
        for voice in reversed([*voices, *BABBLE_VOICES])
    ]
    assert result.stdout.split() == here[::-1]


def test_seed_changes_prosody_sentences_and_noise():
    first, second = (plan_corpus(n_sentences=3, seed=seed) for seed in (0, 1))
    assert {item.name for item in first} != {item.name for item in second}
    one, other = (
        draw_prosody("en-us+m1", "sad", "00", seed) for seed in (0, 1)
    )
    assert one != other
    noises = [
        next(item for item in items if item.manifest == "noise_valid")
        for items in (first, second)
    ]
    assert noises[0].render()[:9].tolist() != noises[1].render()[:9].tolist()


# ------------------------------------------------------------------ balanced


@pytest.mark.slow
def test_splits_are_speaker_disjoint_and_balanced(corpus):
    speakers = {}
    for split in SPLITS:
        entries = _entries(corpus, split).values()
        speakers[split] = {entry["spk_id"] for entry in entries}
        per_class = Counter((e["spk_id"], e["emo"]) for e in entries)
        assert set(per_class.values()) == {1}
        assert {emo for _, emo in per_class} == set(EMOTIONS)
    assert [len(speakers[split]) for split in SPLITS] == [24, 2, 3]
    assert EMOTIONS == ("angry", "sad", "happy", "neutral")
    # One variant in two accents would be one speaker in two splits.
    variants = [voice.split("+")[1] for s in SPLITS for voice in VOICES[s]]
    variants += [voice.split("+")[1] for voice in BABBLE_VOICES]
    assert len(variants) == len(set(variants)) >= 29 + 6


def test_a_voice_says_the_same_sentences_in_every_emotion():
    spoken = {}
    said = plan_utterances("train", n_sentences=5)
    for utterance in said:
        key = (utterance.voice, utterance.emotion)
        spoken.setdefault(key, set()).add(utterance.text)
    for voice in VOICES["train"]:
        assert len({frozenset(spoken[voice, emo]) for emo in EMOTIONS}) == 1
        assert len(spoken[voice, "sad"]) == 5
        assert len({u.tract for u in said if u.voice == voice}) == 1
    assert len({u.tract for u in said}) == len(VOICES["train"])
    assert {u.tract for u in plan_utterances("test", n_sentences=5)} == {1.0}
    assert not set(SENTENCES) & set(BABBLE_SENTENCES)
    assert len(set(SENTENCES)) == len(SENTENCES) >= 20


@pytest.mark.slow
def test_seen_and_unseen_noise_types_are_as_designed(corpus):
    types, files = {}, []
    for name in NOISES:
        entries = _entries(corpus, name).values()
        types[name] = {entry["noise_type"] for entry in entries}
        files += [entry["wav"] for entry in entries]
        assert all(4 <= entry["duration"] <= 8 for entry in entries)
    for name in NOISES[:3]:
        assert types[name] == set(noise.SEEN_TYPES)
    assert types["noise_test_unseen"] == {
        "babble",
        "impulses",
        "engine",
        "rain",
    }
    assert not types["noise_test_unseen"] & set(noise.SEEN_TYPES)
    contents = {Path(file).read_bytes() for file in files}
    assert len(contents) == len(files) == 28


@pytest.mark.slow
def test_full_corpus_lasts_about_twenty_minutes(corpus):
    n_utterances = Counter(item.manifest for item in plan_corpus(5, seed=0))
    assert [n_utterances[split] for split in SPLITS] == [480, 40, 60]
    seconds = {}
    for split in SPLITS:
        entries = _entries(corpus, split).values()
        mean_s = np.mean([entry["duration"] for entry in entries])
        seconds[split] = mean_s * n_utterances[split]
    assert 110 < seconds["test"] < 150 and 60 < seconds["valid"] < 100
    assert 1100 < sum(seconds.values()) < 1400


# -------------------------------------------------------------------- audible


@pytest.mark.slow
def test_speech_files_are_clean(corpus):
    durations = []
    for split in SPLITS:
        for entry in _entries(corpus, split).values():
            waveform, rate_hz = soundfile.read(entry["wav"])
            info = soundfile.info(entry["wav"])
            assert (rate_hz, info.channels, info.subtype) == (
                RATE_HZ,
                1,
                "PCM_16",
            )
            assert len(waveform) / rate_hz == entry["duration"]
            magnitude = np.abs(waveform)
            assert 0.02 < magnitude.max() < 0.9
            loud = np.flatnonzero(magnitude > magnitude.max() / 30)
            edges_s = np.array([loud[0], len(waveform) - loud[-1]]) / rate_hz
            assert edges_s.max() < 0.15
            durations.append(entry["duration"])
    assert 1.8 < np.mean(durations) < 2.6


@pytest.mark.slow
def test_emotions_differ_in_level_rate_and_pitch_range(corpus):
    level_db, duration_s = {}, {}
    for entry in _entries(corpus, "train").values():
        waveform, _ = soundfile.read(entry["wav"])
        key = (entry["spk_id"], entry["emo"])
        level_db[key] = 10 * np.log10(np.mean(waveform**2))
        duration_s[key] = entry["duration"]
    for voice in VOICES["train"]:
        angry, sad, happy, neutral = (
            level_db[voice, emotion] for emotion in EMOTIONS
        )
        assert angry > happy > sad and angry > neutral > sad
        assert duration_s[voice, "sad"] > duration_s[voice, "angry"]
    drawn = [u.prosody for u in plan_utterances("train", n_sentences=5)]
    assert len(set(drawn)) == len(drawn)


def test_emotions_generalise_to_new_voices_but_overlap():
    def table(split):
        utterances = plan_utterances(split, n_sentences=5)
        values = [u.prosody.as_array()[1:4] for u in utterances]
        return np.array(values), [u.emotion for u in utterances]

    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(*table("train"))
    assert 0.8 < model.score(*table("test")) <= 1
    assert model.score(*table("train")) < 1


def test_trimming_keeps_what_is_loud():
    waveform = np.zeros(10000)
    waveform[4000:5000] = 0.5
    trimmed = trim_silence(waveform, RATE_HZ, margin_s=0.05)
    assert len(trimmed) == 1000 + 2 * 800
    assert trimmed.sum() == 500 and trimmed[0] == trimmed[-1] == 0


@given(st.floats(-60, -1), st.integers(0, 2**16))
def test_level_is_met_or_the_peak_is(level_db, seed):
    waveform = set_level(np.random.default_rng(seed).normal(size=99), level_db)
    peak = np.abs(waveform).max()
    reached_db = 10 * np.log10(np.mean(waveform.astype(float) ** 2))
    assert peak < 0.8501
    assert np.isclose(reached_db, level_db, atol=1e-3) or (
        np.isclose(peak, 0.85) and reached_db < level_db
    )


# --------------------------------------------------------------------- noise


@settings(max_examples=15)
@given(
    st.sampled_from([*noise.SEEN_TYPES, "impulses", "engine", "rain"]),
    st.integers(1600, 20000),
    st.sampled_from([8000, 16000]),
    st.integers(0, 2**32 - 1),
)
def test_noise_has_its_length_and_never_clips(kind, n_samples, rate_hz, seed):
    make = {**noise.SEEN_TYPES, **noise_unseen.UNSEEN_TYPES}[kind]
    first, second = (
        make(n_samples, rate_hz, np.random.default_rng(seed)) for _ in "ab"
    )
    assert first.shape == (n_samples,) and first.dtype == np.float32
    assert np.isfinite(first).all() and 0 < np.abs(first).max() < 0.9
    np.testing.assert_array_equal(first, second)


def _octave_levels_db(waveform):
    """Return mean power density per octave from 125 Hz to 8 kHz, in dB."""
    frequency_hz, density = welch(waveform, RATE_HZ, nperseg=4096)
    levels_db = []
    for low_hz in (125, 250, 500, 1000, 2000, 3999):
        octave = (frequency_hz >= low_hz) & (frequency_hz < 2 * low_hz)
        levels_db.append(10 * np.log10(density[octave].mean()))
    return levels_db


@pytest.mark.parametrize("kind, slope_db", [("white", 0.0), ("pink", -3.01)])
def test_colour_of_white_and_pink(kind, slope_db):
    rng = np.random.default_rng(5)
    levels_db = _octave_levels_db(noise.SEEN_TYPES[kind](480000, RATE_HZ, rng))
    np.testing.assert_allclose(np.diff(levels_db), slope_db, atol=0.5)


@pytest.mark.parametrize("seed", range(4))
def test_hum_is_made_of_mains_harmonics(seed):
    hum = noise.hum(8 * RATE_HZ, RATE_HZ, np.random.default_rng(seed))
    power = np.abs(np.fft.rfft(hum * np.hanning(len(hum)))) ** 2
    frequency_hz = np.fft.rfftfreq(len(hum), 1 / RATE_HZ)

    def share(mains_hz):
        harmonic = np.maximum(np.round(frequency_hz / mains_hz), 1)
        # The drift is 0.3 %, so it is wider at higher harmonics.
        off_hz = np.abs(frequency_hz - harmonic * mains_hz)
        near = (off_hz < 1 + 0.004 * frequency_hz) & (frequency_hz < 1600)
        return power[near].sum() / power.sum()

    shares = sorted([share(50.0), share(60.0)])
    assert shares[1] > 0.98 and shares[0] < 0.6


def _frame_levels_db(waveform, frame_s=0.05):
    frames = waveform[: len(waveform) // 800 * 800].reshape(
        -1, int(frame_s * RATE_HZ)
    )
    power = np.mean(frames.astype(float) ** 2, axis=1)
    return 10 * np.log10(power + 1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_modulated_noise_swells_and_impulses_stand_out(seed):
    white, modulated, impulses = (
        make(6 * RATE_HZ, RATE_HZ, np.random.default_rng(seed))
        for make in (noise.white, noise.modulated, noise_unseen.impulses)
    )
    swing_db = np.std(_frame_levels_db(modulated))
    assert swing_db > 8 * np.std(_frame_levels_db(white))
    assert kurtosis(impulses) > 15 > 1 > abs(kurtosis(white))
    assert _frame_levels_db(impulses).min() > -90


def test_babble_sounds_like_many_voices():
    babble = noise_unseen.babble(4 * RATE_HZ, RATE_HZ, np.random.default_rng(0))
    octaves_db = _octave_levels_db(babble)
    assert octaves_db[2] > octaves_db[5] + 10
    # One voice pauses between words; six together never do.
    one = noise_unseen.babble(4 * RATE_HZ, RATE_HZ, np.random.default_rng(0), 1)
    assert _frame_levels_db(one).min() < -60
    assert _frame_levels_db(babble).min() > -45


def _beat(waveform):
    """Return how periodic the envelope is, 16 to 120 times a second."""
    envelope = np.abs(waveform) - np.abs(waveform).mean()
    power = np.abs(np.fft.rfft(envelope, 2 * len(envelope))) ** 2
    correlation = np.fft.irfft(power)
    periods = correlation[RATE_HZ // 120 : RATE_HZ // 16]
    return periods.max() / correlation[0]


@pytest.mark.parametrize("seed", range(4))
def test_engine_beats_and_rain_falls_densely(seed):
    white, engine, rain, impulses = (
        make(RATE_HZ // 2, RATE_HZ, np.random.default_rng(seed))
        for make in (
            noise.white,
            noise_unseen.engine,
            noise_unseen.rain,
            noise_unseen.impulses,
        )
    )
    assert _beat(engine) > 0.15 > 0.08 > _beat(white)
    assert kurtosis(rain) > 0.5
    swing_db = np.std(_frame_levels_db(rain))
    assert swing_db < 0.5 * np.std(_frame_levels_db(impulses))


# --------------------------------------------------------------------- reuse


@pytest.fixture
def copy(corpus, tmp_path):
    """A copy of the corpus that a test may damage."""
    for source, name in zip(corpus, ("audio", "out")):
        for path in source.rglob("*"):
            target = tmp_path / name / path.relative_to(source)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    return tmp_path / "audio", tmp_path / "out"


@pytest.mark.slow
def test_second_call_writes_nothing_and_needs_no_espeak(copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    before = _mtimes(*copy)
    prepare_miniemo(*copy, n_sentences=1)
    assert _mtimes(*copy) == before


@pytest.mark.slow
def test_manifests_are_written_for_audio_that_is_there(copy, tmp_path):
    before = _mtimes(copy[0])
    prepare_miniemo(copy[0], tmp_path / "other", n_sentences=1)
    assert _mtimes(copy[0]) == before
    assert _digests(tmp_path / "other") == _digests(copy[1])


@pytest.mark.slow
def test_one_missing_file_is_made_again(copy, corpus):
    victim = next(copy[0].glob("speech/en-us+m2/*_happy_*.wav"))
    victim.unlink()
    before = _mtimes(*copy)
    prepare_miniemo(*copy, n_sentences=1)
    assert _digests(copy[0]) == _digests(corpus[0])
    after = _mtimes(*copy)
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed == {victim, victim.parent}


@pytest.mark.slow
def test_corpus_without_stamp_is_completed(copy, corpus):
    (copy[0] / "miniemo.json").unlink()
    next(copy[0].glob("noise/*.wav")).unlink()
    # Without the stamp, nobody knows which parameters this file is from.
    next(copy[0].glob("speech/*/*.wav")).write_bytes(b"of another seed")
    prepare_miniemo(*copy, n_sentences=1)
    assert _digests(copy[0]) == _digests(corpus[0])


@pytest.mark.slow
def test_interruption_leaves_whole_files_and_no_stamp(
    corpus, tmp_path, monkeypatch
):
    calls = []
    write = soundfile.write

    def interrupted(stream, *args, **kwargs):
        calls.append(stream)
        if len(calls) == 4:
            stream.write(b"RIFF half a file")
            raise KeyboardInterrupt
        write(stream, *args, **kwargs)

    monkeypatch.setattr(soundfile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_miniemo(tmp_path / "a", tmp_path / "out", n_sentences=1)
    whole = _digests(corpus[0])
    left = _digests(tmp_path / "a")
    assert len(left) == 3 and left.items() <= whole.items()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "stamp",
    [
        "not json",
        '["a list"]',
        '{"parameters": {"version": 1}}',
        '{"manifests": {}}',
    ],
)
def test_unreadable_stamp_counts_as_none(stamp, tmp_path):
    (tmp_path / "miniemo.json").write_text(stamp)
    known = prepare._read_stamp(tmp_path / "miniemo.json")
    assert known.get("manifests", {}) == {}


@pytest.mark.slow
def test_changed_parameters_make_another_corpus(copy, corpus, monkeypatch):
    (copy[0] / "mine.wav").write_bytes(b"not MiniEmo's")
    before = _digests(copy[0])
    monkeypatch.setattr(prepare, "VERSION", 3)
    prepare_miniemo(*copy, seed=1, n_sentences=1)
    after = _digests(copy[0])
    stamp = json.loads((copy[0] / "miniemo.json").read_text())
    assert stamp["parameters"] == {"version": 3, "seed": 1, "n_sentences": 1}
    assert len(after) == len(before)  # the old files are gone
    assert [p for p in after if after[p] == before.get(p)] == ["mine.wav"]
    listed = {e["wav"] for n in SPLITS for e in _entries(copy, n).values()}
    assert {str(p) for p in copy[0].glob("speech/*/*.wav")} == listed


def test_skip_prep_does_nothing(tmp_path):
    prepare_miniemo(tmp_path / "a", tmp_path / "b", skip_prep=True)
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_sentences": 0}, "n_sentences: expected an integer from 1 to 24"),
        ({"n_sentences": 25}, "n_sentences: .* got 25"),
        ({"n_sentences": True}, "n_sentences: .* got True"),
        ({"n_sentences": "3"}, "n_sentences: .* got '3'"),
        ({"seed": -1}, "seed: expected an integer from 0"),
        ({"seed": 1.5}, "seed: .* got 1.5"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        prepare_miniemo(tmp_path / "a", tmp_path / "b", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match="cannot write below"):
        prepare_miniemo(tmp_path / "a", tmp_path / "b", n_sentences=1)


def test_missing_espeak_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(InputError, match="pip install espeakng-loader"):
        prepare_miniemo(tmp_path / "a", tmp_path / "b", n_sentences=1)


def test_broken_espeak_names_the_file(tmp_path):
    with pytest.raises(InputError, match="no file .*phontab"):
        Espeak(data_path=tmp_path)
    with pytest.raises(InputError, match="no file .*gone.so"):
        Espeak(library_path=tmp_path / "gone.so")
    (tmp_path / "text.so").write_text("no library")
    broken = Espeak(library_path=tmp_path / "text.so")
    with pytest.raises(InputError, match="cannot load .*text.so"):
        broken.speak("Hello.", "en-us+m1")
    # eSpeak NG itself looks for the other files of its data.
    (tmp_path / "phontab").write_bytes(b"")
    with pytest.raises(InputError, match="espeak_Initialize failed"):
        Espeak(data_path=tmp_path).speak("Hello.", "en-us")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"voice": "nowhere"}, "voice: .* no language for 'nowhere'"),
        ({"voice": "en-us+m99"}, "voice: expected .* got 'en-us.m99'"),
        ({"voice": "en-us+"}, "voice: expected .* got 'en-us.'"),
        ({"voice": "en-us+f2"}, "voice: 'en-us.f2' has a breath setting"),
        ({"text": "  "}, "no sound for '  '"),
        ({"pitch": 100}, "pitch: expected an integer from 0 to 99, got 100"),
        ({"pitch_range": 1.5}, "pitch_range: .* got 1.5"),
        ({"rate_wpm": 20}, "rate_wpm: .* got 20"),
        ({"volume": -1}, "volume: .* got -1"),
    ],
)
def test_espeak_refuses_what_it_cannot_say(arguments, message):
    with pytest.raises(InputError, match=message):
        Espeak().speak(**{"text": "Hello.", "voice": "en-us+m1", **arguments})
    # And goes on working.
    assert len(Espeak().speak("Hello.", "en-us+m1")[0]) > 5000


def test_espeak_obeys_its_parameters():
    def speak(**parameters):
        return Espeak().speak("We meet on Monday.", "en-us+m3", **parameters)[0]

    usual = speak()
    assert len(speak(rate_wpm=120)) > 1.2 * len(usual)
    ratio = speak(volume=50).std() / usual.std()
    assert 0.4 < ratio < 0.6
    assert not np.array_equal(speak(pitch_range=99), usual)
    low_hz, high_hz = (
        _pitch_hz(speak(pitch=pitch, pitch_range=0)) for pitch in (50, 75)
    )
    # Half an octave, less what eSpeak NG adds to make up for the monotone.
    assert 1.25 < high_hz / low_hz < 2**0.5


def _pitch_hz(waveform, rate_hz=22050):
    """Return the pitch at the strongest autocorrelation of 90 to 220 Hz."""
    spectrum = np.abs(np.fft.rfft(waveform, 2 * len(waveform))) ** 2
    correlation = np.fft.irfft(spectrum)
    shortest, longest = rate_hz // 220, rate_hz // 90
    return rate_hz / (shortest + np.argmax(correlation[shortest:longest]))

"""The same audio in two splits, or in speech and noise, is found."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from merit_modules.data.duplicates import shared_recordings
from merit_modules.data.labels import emotion_labels
from merit_modules.data.mixing import NoiseMixer
from merit_modules.data.pipelines import make_dataset
from merit_modules.training.datasets import check_audio


@pytest.fixture
def files(tmp_path):
    """Function that writes a WAV file of noise by its seed."""

    def write(name, seed, n_samples=4000):
        path = tmp_path / name
        wav = 0.1 * np.random.default_rng(seed).normal(size=n_samples)
        soundfile.write(path, wav, 16000)
        return str(path)

    return write


def test_links_and_copies_are_found_and_nothing_else(files, tmp_path):
    a, b, c = files("a.wav", 1), files("b.wav", 2), files("c.wav", 3)
    link, copy = str(tmp_path / "link.wav"), str(tmp_path / "copy.wav")
    os.symlink(a, link)
    shutil.copy(b, copy)
    found = shared_recordings(
        {"train": [a, b, a], "valid": [c, link], "test": [copy, "gone.wav"]}
    )
    assert found == {
        ("train", "valid"): [(a, link)],
        ("train", "test"): [(b, copy)],
    }
    assert not shared_recordings({"train": [a, link], "test": [c]})


def test_alike_in_the_middle_alone_is_not_the_same(files, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"a" + bytes(9999))
    other.write_bytes(b"b" + bytes(9999))
    assert not shared_recordings({"train": [one], "test": [other]})


def test_a_run_says_so_in_its_findings(files, tmp_path, caplog):
    a, noise = files("a.wav", 1), files("n.wav", 9)
    twin = shutil.copy(a, str(tmp_path / "twin.wav"))
    voice = shutil.copy(a, str(tmp_path / "voice.wav"))
    loud = str(tmp_path / "offset.wav")
    wav = soundfile.read(files("o.wav", 5))[0]
    soundfile.write(loud, wav + 0.5, 16000)

    def entries(*paths):
        return {
            os.path.basename(p): {"wav": str(p), "duration": 0.25, "emo": "sad"}
            for p in paths
        }

    speech = {"train": entries(a, loud), "test": entries(twin)}
    mixers = {
        "train": NoiseMixer({"n": {"wav": noise}, "v": {"wav": voice}}, 5, 1),
        "test": NoiseMixer(None, None, 0),
    }
    for _ in range(2):  # the second time from what the first one found
        caplog.clear()
        check_audio(
            speech,
            mixers,
            lambda name, mixer: make_dataset(
                speech[name], mixer, emotion_labels(["sad", "angry"]), 16000
            ),
            tmp_path,
            tmp_path / "save",
            [],
        )
        assert "train and test: 1 recordings" in caplog.text
        assert f"train: 1 recordings: {loud}: a constant offset" in caplog.text
    found = json.loads((tmp_path / "save" / "audio_scan.json").read_text())
    warnings = found["warnings"]
    assert warnings["train"]["offset"]["count"] == 1
    shared = {kind for kind in warnings if "shared" in warnings[kind]}
    assert shared == {
        "train and test",
        "train and noise of train",
    }

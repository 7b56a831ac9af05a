"""Any folder of noise: disjoint, repeatable splits of what is usable."""

import logging

import numpy as np
import pytest
import soundfile

from merit_modules import files
from merit_modules.data.manifest import read_manifest
from merit_modules.data.noise.corpus import prepare_noise_folder
from merit_modules.data.noise.forms import guess_noise_type, guess_recording
from merit_modules.errors import InputError


def fill(folder, names, n_samples=4000, rate_hz=20000):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        wav = np.random.default_rng(i).normal(0, 0.1, n_samples)
        soundfile.write(folder / name, wav, rate_hz)
    return folder


def test_splits_are_disjoint_whole_and_sized_as_asked(tmp_path):
    names = [f"street/a{i}.wav" for i in range(12)]
    names += [f"home/b{i}.flac" for i in range(8)]
    folder = fill(tmp_path / "noise", names)
    prepare_noise_folder(folder, tmp_path, 5, 0.7, 0.15)
    splits = {
        split: read_manifest(tmp_path / f"noise_{split}.json", folder)
        for split in ("train", "valid", "test_unseen")
    }
    assert [len(entries) for entries in splits.values()] == [14, 3, 3]
    ids = [item for entries in splits.values() for item in entries]
    assert sorted(ids) == sorted(names)
    for item, entry in splits["train"].items():
        assert entry["wav"] == f"{folder}/{item}"
        assert entry["duration"] == 0.2
        assert entry["noise_type"] == item.split("/")[0]


def test_splits_depend_on_seed_and_names_alone(tmp_path, monkeypatch):
    folder = fill(tmp_path / "noise", [f"n{i}.wav" for i in range(20)])
    first = prepare_noise_folder(folder, tmp_path / "a", seed=1)
    walk = files.os.walk

    def reversed_walk(*args, **kwargs):
        for parent, folders, names in walk(*args, **kwargs):
            yield parent, folders, names[::-1]

    monkeypatch.setattr(files.os, "walk", reversed_walk)
    again = prepare_noise_folder(folder, tmp_path / "b", seed=1)
    other = prepare_noise_folder(folder, tmp_path / "c", seed=2)
    assert first == again
    assert first["test_unseen"].keys() != other["test_unseen"].keys()
    for name in ("noise_train.json", "noise_test_unseen.json"):
        texts = [(tmp_path / d / name).read_text() for d in "ab"]
        assert texts[0] == texts[1]


def test_unusable_files_are_left_out_by_name(tmp_path, caplog):
    folder = fill(tmp_path / "noise", ["a1.wav", "a2.wav", "a3.wav"])
    fill(folder, ["blip.wav"], n_samples=1999)
    soundfile.write(folder / "quiet.wav", np.full(8000, 1e-6), 8000, "FLOAT")
    soundfile.write(folder / "nan.wav", np.full(80, np.nan), 8000, "FLOAT")
    (folder / "text.wav").write_text("no audio here")
    (folder / "zero.wav").touch()
    splits = prepare_noise_folder(folder, tmp_path, seed=1)
    used = {item for entries in splits.values() for item in entries}
    assert used == {"a1.wav", "a2.wav", "a3.wav"}
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]
    assert len(warnings) == 5
    for name, reason in {
        "blip.wav": "expected at least 0.1 s, got 0.100 s",
        "quiet.wav": "silent",
        "nan.wav": "NaN",
        "text.wav": "cannot be read as audio",
        "zero.wav": "0 bytes",
    }.items():
        assert any(name in w and reason in w for w in warnings), name


@pytest.mark.parametrize(
    ("names", "noise_type", "recording"),
    [
        (["n66.wav"], "n", None),
        (["doorSLAM_x.wav"], "doorSLAM", None),
        (["0a1.wav"], "noise", None),
        (["TBUS/ch01.wav", "TBUS/ch16.wav"], "TBUS", "TBUS"),
        (
            ["audio/1-100032-A-17.wav", "audio/1-100032-B-17.wav"],
            "esc50_17",
            "audio/1-100032",
        ),
        (
            [
                "door_Freesound_validated_393871_0.wav",
                "door_Freesound_validated_393871_12.wav",
            ],
            "door",
            "door_Freesound_validated_393871",
        ),
        (
            ["door_Freesound_validated_393871.wav"],
            "door",
            None,
        ),
    ],
)
def test_names_tell_type_and_recording(names, noise_type, recording):
    for name in names:
        assert guess_noise_type(name) == noise_type
        assert guess_recording(name) == (recording or name)


def test_one_recording_stays_in_one_split(tmp_path):
    names = [f"{e}/ch{c:02}.wav" for e in "ABCDE" for c in range(1, 4)]
    folder = fill(tmp_path / "noise", names)
    splits = prepare_noise_folder(folder, tmp_path, 3, 0.5, 0.2)
    assert splits.pop("test_seen") == splits["train"]
    places = [
        {item.split("/")[0] for item in entries} for entries in splits.values()
    ]
    assert set.union(*places) == set("ABCDE")
    assert sum(len(place) for place in places) == 5
    assert all(places)


def test_too_few_recordings_are_an_error(tmp_path):
    folder = fill(tmp_path / "noise", ["a.wav", "b.wav"])
    with pytest.raises(InputError, match="at least 3 usable .* got 2"):
        prepare_noise_folder(folder, tmp_path, seed=1)
    folder = fill(tmp_path / "demand", [f"E/ch0{c}.wav" for c in range(5)])
    with pytest.raises(InputError, match=r"got 1 \(from 5 usable files\)"):
        prepare_noise_folder(folder, tmp_path, seed=1)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("shares", [(0.9, 0.1), (0, 0.5), (0.5, 0), (1, 1)])
def test_shares_must_leave_something(tmp_path, shares):
    with pytest.raises(InputError, match="train_share, valid_share"):
        prepare_noise_folder(tmp_path, tmp_path, 1, *shares)


def test_every_split_gets_one_of_three(tmp_path):
    folder = fill(tmp_path / "noise", ["a.wav", "b.wav", "c.wav"])
    for shares in ((0.98, 0.01), (0.01, 0.98), (0.01, 0.01)):
        splits = prepare_noise_folder(folder, tmp_path, 1, *shares)
        assert [len(entries) for entries in splits.values()] == [1] * 4


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="gone: there is no such folder"):
        prepare_noise_folder(tmp_path / "gone", tmp_path, seed=1)
    with pytest.raises(InputError, match="no audio file in this folder"):
        prepare_noise_folder(tmp_path, tmp_path, seed=1)

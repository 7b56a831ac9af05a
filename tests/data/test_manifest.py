"""Manifests: what is written comes back, what is wrong is named."""

import json

import pytest

from merit_modules.data import manifest as manifest_module
from merit_modules.data.manifest import (
    find_audio,
    read_manifest,
    write_atomically,
    write_manifest,
)
from merit_modules.errors import InputError

SPEECH = {
    "wav": "{data_root}/wav/a {b}.wav",
    "duration": 1.25,
    "emo": "sad",
    "spk_id": "03",
}


def test_round_trip_keeps_order_and_fills_in_the_root(tmp_path):
    path = tmp_path / "deep" / "train.json"
    write_manifest(path, {"b": SPEECH, "a": {**SPEECH, "emo": "änd"}})
    entries = read_manifest(path, tmp_path / "corpus")
    assert list(entries) == ["b", "a"]
    # Braces in a file's name are not a placeholder.
    assert entries["b"]["wav"] == f"{tmp_path}/corpus/wav/a {{b}}.wav"
    assert entries["a"]["emo"] == "änd"
    assert entries["a"]["duration"] == 1.25
    assert [p.name for p in path.parent.iterdir()] == ["train.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    write_atomically(path, "old")

    def broken_replace(*_):
        raise OSError("disk full")

    monkeypatch.setattr(manifest_module.os, "replace", broken_replace)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["train.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON manifest"),
        ("[]", "got a list"),
        ("{}", "the manifest is empty"),
        ('{"u7": 3}', "'u7': expected an object"),
        (
            json.dumps({"u7": {k: SPEECH[k] for k in SPEECH if k != "emo"}}),
            "entry 'u7' has no 'emo'; a speech entry needs",
        ),
        (
            '{"n7": {"wav": "a", "noise_type": "x"}}',
            "entry 'n7' has no 'duration'; a noise entry needs",
        ),
        (json.dumps({"u7": {**SPEECH, "duration": "2"}}), "'u7': 'duration'"),
        (json.dumps({"u7": {**SPEECH, "duration": 0}}), "got 0"),
        ('{"u7": {"wav": 1, "duration": 1, "noise_type": ""}}', "'wav'"),
    ],
)
def test_bad_manifests_are_named(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_manifest(path, "root")
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_missing_and_binary_manifests(tmp_path):
    with pytest.raises(InputError, match="no such manifest file"):
        read_manifest(tmp_path / "gone.json", "root")
    with pytest.raises(InputError, match="no such manifest file"):
        read_manifest(tmp_path, "root")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected a JSON manifest"):
        read_manifest(tmp_path / "binary.json", "root")


def test_find_audio_sorts_and_leaves_out_hidden_files(tmp_path):
    for name in (
        "b/2.WAV",
        "b/._2.wav",
        "a.flac",
        "c.txt",
        ".trash/old.wav",
        "b-1.ogg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    names = [
        file.relative_to(tmp_path).as_posix()
        for file in find_audio(tmp_path, "noise")
    ]
    assert names == ["a.flac", "b-1.ogg", "b/2.WAV"]


def test_find_audio_follows_linked_folders(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "n.wav").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "noise").symlink_to(tmp_path / "disk")
    assert find_audio(tmp_path / "here", "noise") == [
        tmp_path / "here" / "noise" / "n.wav"
    ]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"gone: there is no such folder \(n"):
        find_audio(tmp_path / "gone", "noise")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no audio file") as error:
        find_audio(tmp_path, "noise")
    assert str(tmp_path) in str(error.value)

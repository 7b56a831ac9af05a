"""Files: one list of audio endings and one walk, whoever looks for audio."""

import os
from pathlib import Path

import pytest

from merit_modules.commands.analyze.inputs import collect_jobs
from merit_modules.errors import InputError
from merit_modules.files import find_audio, walk_audio, write_atomically


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


def test_commands_and_preparation_find_the_same(tmp_path):
    here, away = tmp_path / "here", tmp_path / "away"
    for path in (here / "a.wav", here / "b.aifc", away / "x.SPH"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (here / "linked").symlink_to(away)
    (here / "linked" / "back").symlink_to(here)
    prepared = find_audio(here, "speech")
    assert [path.name for path in prepared] == ["a.wav", "b.aifc", "x.SPH"]
    used = [job.path for job in collect_jobs([str(here)])]
    assert used == list(map(str, prepared))


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    for name in ("a.wav", "b.txt", "c.TXT", "LICENSE", ".hidden.wav"):
        (tmp_path / name).touch()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    found = walk_audio(tmp_path)
    assert [path.name for path in found.files] == ["a.wav"]
    assert found.passed_over == {
        ".txt": 2,
        "link to nothing": 1,
        "without an ending": 1,
    }
    told = []
    find_audio(tmp_path, "speech", told.append)
    (sentence,) = told
    assert sentence.endswith("2 .txt, 1 link to nothing, 1 without an ending")
    os.remove(tmp_path / "a.wav")
    with pytest.raises(InputError, match="no audio file.*passed over 2 .txt"):
        find_audio(tmp_path, "speech")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.wav").touch()
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # root may read everything
    (name,) = walk_audio(tmp_path).passed_over
    assert name == f"folder that cannot be read ({tmp_path / 'sub'})"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "train.json"
    write_atomically(path, "old")

    def broken_replace(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken_replace)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["train.json"]

"""Manifests: what is written comes back, what is wrong is named."""

import json

import pytest

from merit_modules.data import manifest as manifest_module
from merit_modules.data.manifest import read_manifest, write_manifest
from merit_modules.files import find_audio, write_atomically
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



def test_missing_and_binary_manifests(tmp_path):
    with pytest.raises(InputError, match="no such manifest file"):
        read_manifest(tmp_path / "gone.json", "root")
    with pytest.raises(InputError, match="a manifest file: Is a directory"):
        read_manifest(tmp_path, "root")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="line 1: cannot be read as utf-16"):
        read_manifest(tmp_path / "binary.json", "root")


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
        (json.dumps({"u7": {**SPEECH, "duration": "2 s"}}), "got '2 s'"),
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


def test_speechbrain_s_own_manifests(tmp_path):
    """Durations as text, lengths, no speaker; CSV lists of noise."""
    speech = {"wav": "{data_folder}/a.wav", "length": "2.87", "emo": "sad"}
    (tmp_path / "a.json").write_text(json.dumps({"a": speech}))
    (entry,) = read_manifest(tmp_path / "a.json", "/there").values()
    assert entry["wav"] == "/there/a.wav" and entry["duration"] == 2.87
    assert entry["spk_id"] is None
    table = tmp_path / "noise.csv"
    table.write_text(
        "ID, duration, wav, wav_format, wav_opts\n\n"
        "noise1, 33.12325, $noise_folder/noise1.wav, wav,\n"
    )
    (entry,) = read_manifest(table, "/noise", "noise").values()
    assert entry["wav"] == "/noise/noise1.wav"
    assert (entry["duration"], entry["noise_type"]) == (33.12325, "noise")
    with pytest.raises(InputError, match="entry 'noise1' has no 'emo'"):
        read_manifest(table, "/noise", "speech")
    table.write_text("name,wav\nx,y\n")
    with pytest.raises(InputError, match="line 1, column ID: there is no"):
        read_manifest(table, "/noise")

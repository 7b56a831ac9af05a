"""EMO-DB: splits by speaker, the folder's two forms, errors that name files."""

import importlib.util
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from merit_modules.data.manifest import read_manifest
from merit_modules.errors import InputError
from tests.conftest import ROOT

RECIPE = ROOT / "recipes/EMODB/joint_se_ser/emodb_prepare.py"
SPEC = importlib.util.spec_from_file_location("emodb_prepare", RECIPE)
emodb = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(emodb)

SPEAKERS = emodb.MEN + emodb.WOMEN
MANIFESTS = {
    "train.json",
    "valid.json",
    "test.json",
    "noise_train.json",
    "noise_valid.json",
    "noise_test_unseen.json",
    "noise_test_seen.json",
}


def write(path, n_samples=1600):
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = np.random.default_rng(0).normal(0, 0.1, n_samples)
    soundfile.write(path, wav, 16000)


@pytest.fixture
def corpus(tmp_path):
    """Ten speakers with the seven emotions each, and four noise files."""
    for speaker in SPEAKERS:
        for letter in "WTFNAEL":
            write(tmp_path / "emodb" / "wav" / f"{speaker}a01{letter}a.wav")
    (tmp_path / "emodb" / "wav" / "._03a01Wa.wav").write_bytes(b"\0\5\x16\7")
    for i in range(4):
        write(tmp_path / "noise" / f"n{i}.wav")
    return tmp_path


def prepare(folder, data="emodb", **options):
    emodb.prepare_emodb(
        folder / data, folder / "noise", folder / "out", **options
    )
    return {
        split: read_manifest(folder / "out" / f"{split}.json", folder / data)
        for split in ("train", "valid", "test")
    }


def test_folds_are_speaker_independent_and_cover_everyone():
    tested = []
    for fold in range(5):
        split_of = emodb.speakers_of_fold(fold)
        assert set(split_of) == set(SPEAKERS)
        assert Counter(split_of.values()) == {"train": 6, "valid": 2, "test": 2}
        for split in ("valid", "test"):
            speakers = {s for s in split_of if split_of[s] == split}
            assert len(speakers & set(emodb.MEN)) == 1
            assert len(speakers & set(emodb.WOMEN)) == 1
        tested += [s for s in split_of if split_of[s] == "test"]
    assert sorted(tested) == sorted(SPEAKERS)
    assert emodb.speakers_of_fold(0)["03"] == "test"
    assert emodb.speakers_of_fold(0)["09"] == "valid"
    assert emodb.speakers_of_fold(4)["08"] == "valid"


@pytest.mark.parametrize("fold", [-1, 5, "0", 1.0, True, None])
def test_other_folds_are_refused(fold):
    with pytest.raises(InputError, match="fold: expected a whole number"):
        emodb.speakers_of_fold(fold)


@pytest.mark.parametrize("data", ["emodb", "emodb/wav"])
def test_both_forms_of_the_folder(corpus, data, caplog):
    caplog.set_level(logging.INFO)
    splits = prepare(corpus, data, fold=2)
    assert [len(splits[s]) for s in ("train", "valid", "test")] == [24, 8, 8]
    assert {e["spk_id"] for e in splits["test"].values()} == {"11", "13"}
    assert splits["test"]["11a01Ta"] == {
        "wav": str(corpus / "emodb" / "wav" / "11a01Ta.wav"),
        "duration": 0.1,
        "emo": "sad",
        "spk_id": "11",
    }
    names = {path.name for path in (corpus / "out").iterdir()}
    assert names == {*MANIFESTS, emodb.STAMP}
    text = caplog.text
    assert "left out, not among the classes: 10 boredom, 10 disgust" in text
    assert "valid  2      2    2      2        8      0.0      12 14" in text


def test_other_classes(corpus):
    splits = prepare(corpus, classes=["fear", "boredom"])
    emotions = {e["emo"] for e in splits["train"].values()}
    assert emotions == {"fear", "boredom"}
    with pytest.raises(InputError, match="classes: .* got 'joy'"):
        prepare(corpus, classes=["joy", "sad"])


def test_nothing_is_done_twice(corpus, caplog):
    caplog.set_level(logging.INFO)
    prepare(corpus)
    train = corpus / "out" / "train.json"
    train.write_text(train.read_text() + "\n")  # to see a rewrite
    marked = train.read_text()
    prepare(corpus)
    assert train.read_text() == marked
    assert "up to date" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: {"fold": 1},
        lambda folder: {"seed": 7},
        lambda folder: {"classes": ["sad", "happy"]},
        lambda folder: (folder / "out" / "noise_valid.json").unlink() or {},
        lambda folder: (folder / "out" / emodb.STAMP).write_text("{") and {},
        lambda folder: write(folder / "emodb/wav/03a02Wa.wav") or {},
        lambda folder: write(folder / "noise/new.wav") or {},
    ],
)
def test_any_change_means_doing_it_again(corpus, change):
    prepare(corpus)
    train = corpus / "out" / "train.json"
    train.write_text("stale")
    assert len(prepare(corpus, **change(corpus))["train"]) >= 12


def test_a_failed_run_leaves_no_stamp(corpus):
    prepare(corpus)
    (corpus / "emodb" / "wav" / "03a01Wa.wav").write_bytes(b"")
    with pytest.raises(InputError):
        prepare(corpus, fold=1)
    assert not (corpus / "out" / emodb.STAMP).exists()


def test_skip_prep_does_nothing(tmp_path):
    emodb.prepare_emodb("gone", "gone", tmp_path, skip_prep=True)
    assert not list(tmp_path.iterdir())


def test_all_broken_files_are_listed(corpus):
    broken = sorted((corpus / "emodb" / "wav").glob("[01]*[WTFN]a.wav"))[:12]
    for i, path in enumerate(broken):
        path.write_bytes(b"" if i % 2 else b"no audio")
    with pytest.raises(InputError, match="12 of the EMO-DB rec") as error:
        prepare(corpus)
    for path in broken[:10]:
        assert str(path) in str(error.value)
    assert "... and 2 more" in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("03a01Xa.wav", "unknown emotion letter 'X', expected one of W, T"),
        ("04a01Wa.wav", "unknown speaker '04'"),
        ("Ses01F_impro01_F000.wav", "expected an EMO-DB name such as 03a01Wa"),
        ("more/03a01Wa.wav", "a recording of this name came before"),
    ],
)
def test_strange_names_are_errors(corpus, name, message):
    write(corpus / "emodb" / "wav" / name)
    with pytest.raises(InputError, match=message) as error:
        prepare(corpus)
    assert name in str(error.value)


def test_missing_parts_are_named(corpus):
    for path in (corpus / "emodb" / "wav").glob("0[38]*"):
        path.unlink()
    with pytest.raises(InputError, match="no utterance for test: expected sp"):
        prepare(corpus)
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        prepare(corpus, "nowhere")
    (corpus / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no audio file .*EMO-DB"):
        prepare(corpus, "empty")


def test_the_real_corpus(shared_data, tmp_path):
    counts = Counter()
    for fold in range(5):
        emodb.prepare_emodb(
            shared_data / "emodb", shared_data / "noise", tmp_path, fold=fold
        )
        data_root = shared_data / "emodb"
        test = read_manifest(tmp_path / "test.json", data_root)
        assert all(Path(entry["wav"]).is_file() for entry in test.values())
        counts.update(entry["emo"] for entry in test.values())
    # Every utterance is tested once in five folds.
    assert counts == {"angry": 127, "sad": 62, "happy": 71, "neutral": 79}
    noise = read_manifest(
        tmp_path / "noise_test_unseen.json", shared_data / "noise"
    )
    assert len(noise) == 10

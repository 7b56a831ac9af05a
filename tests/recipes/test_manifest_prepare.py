"""A corpus of one's own: forms of CSV, splits, errors that name the cell."""

import csv
import doctest
import importlib
import logging
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merit_modules.data.manifest import read_manifest
from merit_modules.data.text import clean, is_missing, key
from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams
from tests.conftest import ROOT
from tests.helpers.copies import sections

RECIPE = ROOT / "recipes" / "Manifest" / "joint_se_ser"
sys.path.append(str(RECIPE))
rows_module = importlib.import_module("manifest_rows")
splits_module = importlib.import_module("manifest_splits")
prepare_module = importlib.import_module("manifest_prepare")
folders_module = importlib.import_module("manifest_folders")
sys.path.remove(str(RECIPE))

SPEAKERS = ("anna", "ben", "cem", "dora", "eli", "finn")
LABELS = ("calm", "tense")
HEADER = "wav,emo,spk_id,split,duration"
SPLITS = ("train", "valid", "test")


def write_audio(path, n_samples=1600):
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = np.random.default_rng(0).normal(0, 0.1, n_samples)
    soundfile.write(path, wav, 16000)


@pytest.fixture
def corpus(tmp_path):
    """Six speakers with two labels each, and four noise files."""
    for speaker in SPEAKERS:
        for label in LABELS:
            write_audio(tmp_path / "mine" / "wav" / f"{speaker}_{label}.wav")
    for i in range(4):
        write_audio(tmp_path / "noise" / f"n{i}.wav")
    return tmp_path


def lines_of(split_of=None):
    """Rows of all files; ``split_of`` gives a speaker's split."""
    return [
        f"wav/{s}_{label}.wav,{label},{s},{(split_of or {}).get(s, '')},"
        for s in SPEAKERS
        for label in LABELS
    ]


def write_csv(folder, lines, header=HEADER, encoding="utf-8"):
    path = folder / "mine" / "list.csv"
    text = "\n".join([header, *lines]) + "\n"
    path.write_bytes(text.encode(encoding))
    return path


def prepare(folder, emotions=LABELS, **options):
    path = folder / "mine" / "list.csv"
    out = options.pop("manifest_folder", folder / "out")
    prepare_module.prepare_manifest(
        path, folder / "noise", out, emotions, **options
    )
    root = prepare_module.folder_of(path)
    return {s: read_manifest(out / f"{s}.json", root) for s in SPLITS}


def speakers(entries):
    return {entry["spk_id"] for entry in entries.values()}


# ---- forms of CSV ---------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_form_reads_the_same(tmp_path, delimiter, encoding, end):
    lines = [["Emo", " WAV ", "age"], ["gelöst", "a b.wav", "3"], [""] * 3]
    lines.append(["tense", "ü.wav", ""])
    text = end.join(delimiter.join(cells) for cells in lines)
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    table = rows_module.read_rows(path)
    assert table.extra_columns == ["age"]
    found = [(row.line, row.wav, row.emo) for row in table.rows]
    assert found == [(2, "a b.wav", "gelöst"), (4, "ü.wav", "tense")]
    assert table.rows[1].path == str(tmp_path / "ü.wav")
    assert prepare_module.labels_of(path) == ["gelöst", "tense"]


def test_quoted_cells_and_absolute_paths(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('"emo","wav"\n"a, b","/x/../y/1.wav"\nc,"sub/""q"".wav"\n')
    first, second = rows_module.read_rows(path).rows
    assert (first.emo, first.path) == ("a, b", "/y/1.wav")
    assert second.path == str(tmp_path / 'sub/"q".wav')


@pytest.mark.parametrize(
    "name, meaning",
    [
        ("train", "train"),
        ("TRAIN", "train"),
        ("Valid", "valid"),
        ("Validation", "valid"),
        ("val", "valid"),
        ("Dev", "valid"),
        ("DEVELOPMENT", "valid"),
        ("test", "test"),
        ("", None),
    ],
)
def test_names_of_splits(tmp_path, name, meaning):
    path = tmp_path / "list.csv"
    path.write_text(f"wav,emo,split\na.wav,calm,{name}\n")
    assert rows_module.read_rows(path).rows[0].split == meaning


def test_durations_may_have_a_decimal_comma(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("wav;emo;duration\na.wav;calm;1,25\nb.wav;calm;2.5\n")
    rows = rows_module.read_rows(path).rows
    assert [row.duration_s for row in rows] == [1.25, 2.5]


label_texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1
)


@pytest.mark.slow
@settings(suppress_health_check=list(HealthCheck), max_examples=40)
@given(labels=st.sets(label_texts, min_size=2, max_size=4))
def test_any_text_is_a_label_in_the_yaml(tmp_path, monkeypatch, labels):
    if len(set(map(key, labels))) < len(labels):
        return
    if any(is_missing(x) or clean(x) != x for x in labels):
        return
    monkeypatch.syspath_prepend(str(RECIPE))
    path = tmp_path / "list.csv"
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["wav", "emo"])
        writer.writerows([f"{i}.wav", x] for i, x in enumerate(labels))
    shipped = (RECIPE / "hparams" / "sparse_merit.yaml").read_text()
    corpus = sections(shipped)[1]["Corpus: your own"]
    corpus = re.sub("^output_folder: .*$", "", corpus, flags=re.M)
    yaml = tmp_path / "x.yaml"
    yaml.write_text(corpus + "\nn: !apply:builtins.len [!ref <emotions>]\n")
    given = {"manifest_csv": str(path), "noise_folder": "noise"}
    hparams = load_hparams(yaml, given)
    assert hparams["emotions"] == sorted(labels)
    assert hparams["n"] == len(labels)
    assert hparams["speech_root"] == str(tmp_path)


# ---- what is wrong --------------------------------------------------------

WRONG = {
    "no wav": ("path,emo", ["a,b"], "line 1, column wav: there is no such co"),
    "no emo": ("wav;label", ["a;b"], "line 1, column emo: .*got wav, label"),
    "empty": ("", [], "line 1, column wav: .*got nothing"),
    "no row": ("wav,emo", [], "no row below the first line"),
    "twice": ("wav,emo,Emo", ["a,b,c"], "line 1, column emo: expected one"),
    "empty label": ("wav,emo", ["a,b", "c,"], "line 3, column emo: empty"),
    "no path": ("wav,emo", [",b"], "line 2, column wav: empty, expected the"),
    "duplicate": (
        "wav,emo",
        ["x/a.wav,b", "c,b", "./x/../x/a.wav,b"],
        "line 4, column wav: ./x/../x/a.wav came before, in line 2",
    ),
    "split": (
        "wav,emo,split",
        ["a,b,train", "c,b,eval"],
        "line 3, column split: expected one of train, valid, .* got 'eval'",
    ),
    "duration": (
        "wav,emo,duration",
        ["a,b,0"],
        "line 2, column duration: expected seconds above 0, got '0'",
    ),
    "text": ("wav,emo,duration", ["a,b,long"], "column duration: .*'long'"),
    "infinite": ("wav,emo,duration", ["a,b,inf"], "column duration: .*'inf'"),
    "no label": (
        "wav,emo",
        ["a,b", "c,nan", "d,N/A"],
        "line 3, column emo: 'nan' stands for no value, expected a label",
    ),
    "case": (
        "wav,emo",
        ["a,Calm", "b,calm"],
        "line 3, column emo: 'calm' was 'Calm' in line 2",
    ),
    "cells": ("wav,emo", ["a,b", "c,d,e"], "line 3: expected 2 cells.*got 3"),
    "quote": ("wav,emo", ["a,b", '"c,d', "e,f"], "line 3: cannot be read as"),
    "one label": ("wav,emo", ["a,b", "c,b"], "lines 2 to 3, column emo: .*'b'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path, name):
    header, lines, message = WRONG[name]
    (tmp_path / "mine").mkdir()
    path = write_csv(tmp_path, lines, header)
    with pytest.raises(InputError, match=message) as error:
        prepare_module.labels_of(path)
    assert str(path) in str(error.value)


def test_all_wrong_cells_are_told_at_once(tmp_path):
    (tmp_path / "mine").mkdir()
    lines = ["a,,x", ",calm,train", *(f"{i},calm,y" for i in range(12))]
    path = write_csv(tmp_path, lines, "wav,emo,split")
    with pytest.raises(InputError) as error:
        rows_module.read_rows(path)
    text = str(error.value)
    assert text.startswith(f"15 of the cells of {path} cannot be used:")
    assert "line 2, column emo" in text and "line 3, column wav" in text
    assert "... and 5 more" in text


def test_a_file_that_is_no_csv(tmp_path):
    with pytest.raises(InputError, match="no.csv: there is no such CSV file"):
        rows_module.read_rows(tmp_path / "no.csv")
    with pytest.raises(InputError, match="expected a CSV file: Is a direct"):
        rows_module.read_rows(tmp_path)
    path = tmp_path / "broken.csv"
    path.write_bytes("wav,emo\nü.wav,gel".encode() + b"\xf6st\n")
    with pytest.raises(InputError, match=r"broken.csv, line 2: expected UTF-8"):
        rows_module.read_rows(path)


def test_audio_that_is_missing_or_broken(corpus, caplog):
    (corpus / "mine" / "wav" / "ben_calm.wav").unlink()
    (corpus / "mine" / "wav" / "cem_tense.wav").write_bytes(b"no audio")
    split_of = dict.fromkeys(SPEAKERS, "train") | {
        "dora": "dev",
        "finn": "test",
    }
    lines = lines_of(split_of)
    lines[8] = lines[8] + "0.1"  # its length is known, the file is not there
    (corpus / "mine" / "wav" / "eli_calm.wav").unlink()
    path = write_csv(corpus, lines)
    with pytest.raises(InputError) as error:
        prepare(corpus)
    text = str(error.value)
    assert text.startswith(f"3 of the audio files of {path} cannot be used:")
    assert f"{path}, line 4, column wav: " in text
    assert "ben_calm.wav: there is no such audio file" in text
    assert f"{path}, line 7, column wav: " in text
    assert f"{path}, line 10, column wav: " in text
    splits = prepare(corpus, skip_broken_audio=True)
    assert sum(map(len, splits.values())) == 9
    assert caplog.text.count("left out: ") == 3


@pytest.mark.parametrize(
    "emotions, message",
    [
        (["calm", "joy"], "emotions: .*column emo .calm, tense., got 'joy'"),
        (["calm"], r"emotions: expected at least two labels, got \['calm'\]"),
    ],
)
def test_emotions_that_are_not_there(corpus, emotions, message):
    write_csv(corpus, lines_of())
    with pytest.raises(InputError, match=message):
        prepare(corpus, emotions)


def test_a_class_that_a_split_lacks(corpus):
    split_of = dict(zip(SPEAKERS, ["train"] * 4 + ["valid", "test"]))
    lines = [x for x in lines_of(split_of) if "eli_calm" not in x]
    path = write_csv(corpus, lines)
    with pytest.raises(InputError) as error:
        prepare(corpus)
    assert f"{path}, line 2, column emo: no 'calm' in the split valid" in str(
        error.value
    )
    assert not (corpus / "out" / "train.json").exists()


# ---- manifests ------------------------------------------------------------


def test_manifests_are_what_the_csv_says(corpus, caplog):
    caplog.set_level(logging.INFO)
    split_of = dict(zip(SPEAKERS, ["train"] * 4 + ["Dev", "TEST"]))
    lines = [x + ",7" for x in lines_of(split_of)]
    write_csv(corpus, lines, HEADER + ",age")
    splits = prepare(corpus)
    assert {name: speakers(x) for name, x in splits.items()} == {
        "train": set(SPEAKERS[:4]),
        "valid": {"eli"},
        "test": {"finn"},
    }
    assert splits["test"]["finn_calm"] == {
        "wav": str(corpus / "mine" / "wav" / "finn_calm.wav"),
        "duration": 0.1,
        "emo": "calm",
        "spk_id": "finn",
    }
    assert '"{data_root}/wav/' in (corpus / "out" / "test.json").read_text()
    noise = read_manifest(
        corpus / "out" / "noise_test_unseen.json", corpus / "noise"
    )
    assert len(noise) == 1
    assert caplog.text.count("columns not used: age") == 1
    assert "leak" not in caplog.text and "not known" not in caplog.text
    assert "train  4     4      8      0        4" in caplog.text


def test_splits_are_made_by_speaker_whatever_the_order(corpus):
    lines = lines_of()
    write_csv(corpus, lines)
    first = prepare(corpus)
    sets = [speakers(first[name]) for name in SPLITS]
    assert [len(s) for s in sets] == [4, 1, 1]
    assert set.union(*sets) == set(SPEAKERS)
    write_csv(corpus, lines[::-1])
    assert prepare(corpus) == first
    others = [
        prepare(corpus, seed=seed, manifest_folder=corpus / str(seed))
        for seed in range(4)
    ]
    assert any(split != first for split in others)


@pytest.mark.parametrize(
    "named, sizes",
    [
        ({"finn": "test"}, (4, 1, 1)),
        ({"finn": "test", "eli": "test"}, (3, 1, 2)),
        ({"finn": "dev"}, (4, 1, 1)),
        (dict.fromkeys(SPEAKERS[:5], "train") | {"finn": "test"}, (4, 1, 1)),
        ({"anna": "valid", "ben": "test"}, (4, 1, 1)),
        (dict.fromkeys(SPEAKERS, "train"), (4, 1, 1)),
    ],
)
def test_named_splits_stay_and_missing_ones_are_made(corpus, named, sizes):
    write_csv(corpus, lines_of(named))
    splits = prepare(corpus)
    assert tuple(len(speakers(splits[s])) for s in SPLITS) == sizes
    assert sum(map(len, splits.values())) == 12
    for speaker, name in named.items():
        name = rows_module.SPLIT_NAMES[name]
        if name != "train":
            assert speaker in speakers(splits[name])


def test_no_row_is_forgotten(corpus):
    split_of = dict(zip(SPEAKERS, ["train"] * 3 + ["valid", "test"]))
    path = write_csv(corpus, lines_of(split_of))
    with pytest.raises(InputError, match="line 12, column split: empty, exp"):
        prepare(corpus)
    write_csv(corpus, lines_of(dict.fromkeys(SPEAKERS, "test")))
    with pytest.raises(InputError) as error:
        prepare(corpus)
    assert f"{path}, column split: train, valid cannot be made" in str(
        error.value
    )


def test_too_few_speakers(corpus):
    path = write_csv(corpus, lines_of()[:4])
    with pytest.raises(InputError, match="column split: .*3 speakers") as error:
        prepare(corpus)
    assert str(path) in str(error.value)


def test_speakers_that_leak_are_told(corpus, caplog):
    split_of = {s: "test" if s == "finn" else "train" for s in SPEAKERS}
    lines = [x.replace("finn,test", "ben,test") for x in lines_of(split_of)]
    write_csv(corpus, lines)
    prepare(corpus)
    assert "speakers leak between splits" in caplog.text
    assert "'ben' in train and test" in caplog.text


def test_unknown_speakers_are_told(corpus, caplog):
    names = ["", "Unknown", "nan", "None", "N/A", "NULL", "#N/A", "-"] * 2
    names += ["UNKNOWN", "", "NaN", "<NA>"]
    lines = []
    for number, name in enumerate(names):
        for label in LABELS:
            write_audio(corpus / "mine" / f"{label}{number}.wav")
            lines.append(f"{label}{number}.wav,{label},{name}")
    write_csv(corpus, lines, "wav,emo,spk_id")
    splits = prepare(corpus)
    assert "column spk_id: speakers are not known" in caplog.text
    assert "leak" not in caplog.text
    assert [len(splits[name]) for name in SPLITS] == [32, 4, 4]
    for entries in splits.values():
        assert {entry["emo"] for entry in entries.values()} == set(LABELS)
        assert speakers(entries) == {"unknown"}


def test_rows_of_other_labels_are_left_out(corpus, caplog):
    caplog.set_level(logging.INFO)
    write_audio(corpus / "mine" / "more.wav")
    write_csv(corpus, [*lines_of(), "more.wav,bored,anna,,"])
    splits = prepare(corpus, ["tense", "calm"])
    counts = Counter(e["emo"] for x in splits.values() for e in x.values())
    assert counts == {"calm": 6, "tense": 6}
    assert "left out, not among the emotions: 1 bored" in caplog.text


def test_files_of_one_name_in_several_folders(corpus, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    lines = []
    for speaker in SPEAKERS[:4]:
        for label in LABELS:
            path = corpus / "mine" / speaker / f"{label}.wav"
            if speaker == "ben":
                path = elsewhere / f"{label}.wav"
            write_audio(path)
            cell = path if speaker == "ben" else f"{speaker}/{label}.wav"
            lines.append(f"{cell},{label},{speaker}")
    write_csv(corpus, lines, "wav,emo,spk_id")
    splits = prepare(corpus)
    entries = {k: e for x in splits.values() for k, e in x.items()}
    assert len(entries) == 8
    assert all(k.startswith(("calm-", "tense-")) for k in entries)
    wavs = {entry["wav"] for entry in entries.values()}
    assert str(elsewhere / "calm.wav") in wavs
    assert str(corpus / "mine" / "anna" / "calm.wav") in wavs


def test_a_duration_column_saves_reading_headers(corpus, monkeypatch):
    write_csv(corpus, [line + "1.5" for line in lines_of()])
    monkeypatch.setattr(prepare_module, "probe_many", None)
    splits = prepare(corpus)
    assert {e["duration"] for e in splits["train"].values()} == {1.5}


# ---- names that are the same ----------------------------------------------

SPELLINGS = (
    str,
    str.upper,
    str.title,
    "  {}".format,
    "{}\u200b".format,
    lambda name: unicodedata.normalize("NFD", name),
)


def test_a_speaker_in_many_spellings_is_one(corpus, caplog):
    lines = [
        line.replace(f",{s},", f",{SPELLINGS[i % 3](s)},")
        for i, (line, s) in enumerate(zip(lines_of(), np.repeat(SPEAKERS, 2)))
    ]
    write_csv(corpus, lines)
    splits = prepare(corpus)
    assert [len(speakers(splits[name])) for name in SPLITS] == [4, 1, 1]
    assert "leak" not in caplog.text
    place = f"{corpus}/mine/list.csv, column spk_id: taken for one speaker"
    assert f"{place}: 'ANNA' = 'anna', 'Ben' = 'ben'" in caplog.text
    assert "(6 in all)" in caplog.text


def test_leading_zeros_are_told(corpus, caplog):
    lines = [line.replace("ben", "01") for line in lines_of()]
    lines = [
        x.replace("wav/01", "wav/ben").replace(",cem,", ",1,") for x in lines
    ]
    write_csv(corpus, lines)
    prepare(corpus)
    assert (
        "column spk_id: not taken for one speaker: '01' = '1'; w" in caplog.text
    )


@settings(suppress_health_check=list(HealthCheck))
@given(
    spelt=st.lists(st.sampled_from(range(len(SPELLINGS))), min_size=24),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    named=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_spelling_puts_a_speaker_in_two_splits(
    tmp_path, spelt, delimiter, encoding, named, seed
):
    names = ["jörg", "zoë", "çem", "æon"]
    rows = [["wav", "emo", "spk_id", "split"]]
    for i, way in enumerate(spelt):
        speaker = SPELLINGS[way](names[i % 4])
        try:
            speaker.encode(encoding)
        except UnicodeEncodeError:
            speaker = names[i % 4]
        split = "test" if named and i % 4 == 0 else ""
        rows.append([f"{i}.wav", f"e{i // 4 % 2}", speaker, split])
    path = tmp_path / "list.csv"
    text = "\n".join(delimiter.join(row) for row in rows)
    path.write_bytes(text.encode(encoding))
    rows = {row.wav: row for row in rows_module.read_rows(path).rows}
    assert len({row.spk_id for row in rows.values()}) == 4
    entries = {k: {"emo": r.emo, "spk_id": r.spk_id} for k, r in rows.items()}
    splits = splits_module.make_splits(path, rows, entries, seed)
    found = [{key(s) for s in speakers(splits[name])} for name in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) == 4
    splits_module.check_classes(path, rows, splits, ["e0", "e1"])


def test_files_whose_names_are_spelt_otherwise_on_the_disk(corpus, caplog):
    folder = corpus / "mine"
    write_audio(folder / "Zoe\u0308" / "U\u0308.WAV")  # as macOS has them
    lines = [*lines_of(), "zoë/ü.wav,calm,zoë,train,"]
    path = write_csv(corpus, lines)
    entry = prepare(corpus)["train"]["U\u0308"]
    assert entry["wav"] == str(folder / "Zoe\u0308" / "U\u0308.WAV")
    assert f"{path}, line 14, column wav: " in caplog.text
    write_csv(corpus, [*lines, "Zoe\u0308/U\u0308.WAV,calm,zoë,train,"])
    with pytest.raises(InputError, match="line 15, .* is the file of line 14"):
        prepare(corpus)
    # Two files that differ in case are two where both are there.
    write_audio(folder / "a.wav")
    write_audio(folder / "A.wav")
    write_csv(corpus, [*lines_of(), "a.wav,calm,x", "A.wav,calm,x"])
    assert sum(map(len, prepare(corpus).values())) == 14
    write_csv(corpus, [*lines_of(), "a.WAV,calm,x"])
    with pytest.raises(InputError, match="a.WAV: there is no such audio file"):
        prepare(corpus)


def test_emotions_may_be_spelt_in_another_way(corpus):
    write_csv(corpus, lines_of())
    for entries in prepare(corpus, ["Tense", " CALM"]).values():
        assert {e["emo"] for e in entries.values()} == {"Tense", " CALM"}
    with pytest.raises(InputError, match="two or more different names"):
        prepare(corpus, ["Tense", "tense"])


@pytest.mark.parametrize("command", ["train.py", "manifest_folders.py"])
def test_a_locale_without_umlauts_is_named(tmp_path, command):
    folder = tmp_path / "Jörg"
    write_audio(folder / "gelöst" / "a.wav")
    write_audio(folder / "tense" / "b.wav")
    arguments = {
        "train.py": [
            "hparams/se_only.yaml",
            "--manifest_csv",
            f"{folder}/l.csv",
        ],
        "manifest_folders.py": [str(folder)],
    }
    done = subprocess.run(
        [sys.executable, RECIPE / command, *arguments[command]],
        env=os.environ
        | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        cwd=RECIPE,
    )
    told = (done.stdout + done.stderr).decode()
    assert done.returncode == 2 and "Traceback" not in told
    assert r"J\xf6rg" in told and "(encoding ascii)" in told
    assert "set PYTHONUTF8=1" in told


# ---- folds ----------------------------------------------------------------


def test_folds_test_each_speaker_once(corpus, caplog):
    write_csv(corpus, lines_of())
    tested = []
    for fold in range(3):
        splits = prepare(corpus, fold=fold, n_folds=3)
        assert [len(speakers(splits[name])) for name in SPLITS] == [2, 2, 2]
        tested += speakers(splits["test"])
        valid = speakers(splits["valid"])
        caplog.clear()
        again = prepare(corpus, fold=(fold + 1) % 3, n_folds=3)
        assert speakers(again["test"]) == valid
    assert sorted(tested) == sorted(SPEAKERS)
    assert "few test utterances: 2 calm, 2 tense" in caplog.text
    assert "--folds" not in caplog.text
    prepare(corpus)
    assert "with --folds 0-4, and --n_folds 5 after --" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, "fold: expected a whole number from 0 to 4, .* got 5"),
        ({"fold": -1}, "from 0 to 4"),
        ({"fold": True}, "got True"),
        ({"fold": 0, "n_folds": 2}, "n_folds: expected 3 or more, got 2"),
        ({"fold": 0, "n_folds": 7}, "at least 7 speakers"),
        ({"fold": 0}, "takes 5 speakers .* of 'calm' there are 4 .anna, ben"),
    ],
)
def test_folds_that_cannot_be(corpus, options, message):
    rare = [x for x in lines_of() if "eli_calm" not in x and "finn_c" not in x]
    write_csv(corpus, rare)
    with pytest.raises(InputError, match=message):
        prepare(corpus, **options)


def test_folds_and_named_splits_exclude_each_other(corpus):
    write_csv(corpus, lines_of({"anna": "test"}))
    with pytest.raises(InputError, match="line 2, column split: expected none"):
        prepare(corpus, fold=0)


# ---- a folder per emotion -------------------------------------------------


def test_a_folder_per_emotion(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    for name in ("calm/anna/1.wav", "gelöst, a/ben/1.FLAC", "top.wav"):
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).touch()
    (corpus / "calm" / "notes.txt").touch()
    assert folders_module.main([str(corpus), "--speaker", r"^\w+"]) == 0
    said = capsys.readouterr().out
    assert "left out, in no folder of an emotion" in said and "1 .txt" in said
    assert "1 calm, 1 gelöst, a; 2 speakers" in said
    rows = rows_module.read_rows(corpus / "list.csv").rows
    assert [(r.wav, r.emo, r.spk_id) for r in rows] == [
        ("calm/anna/1.wav", "calm", "anna"),
        ("gelöst, a/ben/1.FLAC", "gelöst, a", "ben"),
    ]
    out = tmp_path / "other.csv"
    assert folders_module.main([str(corpus), "--out", str(out)]) == 0
    assert "no speakers" in capsys.readouterr().out
    assert rows_module.read_rows(out).rows[0].path == rows[0].path


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["calm/a.wav"], [], "expected two or more folders .* got calm"),
        (["a.wav"], [], "got none"),
        ([], [], "no audio file in this folder"),
        (["calm/a.wav", "b/a.wav"], ["--speaker", "("], "--speaker: '\\('"),
        (["calm/a.wav", "b/a.wav"], ["--speaker", "x"], "expected 'x' in 'a.w"),
        (["calm/a.wav", "CALM/b.wav"], [], "'calm' was 'CALM'"),
        (["calm/a.wav", "nan/b.wav"], [], "'nan' stands for no value"),
    ],
)
def test_folders_that_make_no_list(tmp_path, capsys, names, options, message):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in names:
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).touch()
    assert folders_module.main([str(corpus), *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (corpus / "list.csv").exists()


# ---- once, again, never ---------------------------------------------------


def test_nothing_is_done_twice_unless_something_changed(corpus, caplog):
    caplog.set_level(logging.INFO)
    path = write_csv(corpus, lines_of())
    prepare(corpus)
    caplog.clear()
    prepare(corpus)
    assert "up to date" in caplog.text
    train = corpus / "out" / "train.json"
    changes = [
        lambda: path.write_text(path.read_text() + "\n"),
        lambda: write_audio(corpus / "noise" / "new.wav"),
        lambda: (corpus / "out" / "noise_valid.json").unlink(),
        lambda: (corpus / "out" / "prepared.json").write_text("{"),
    ]
    for change in changes:
        train.write_text("stale")
        change()
        assert len(prepare(corpus)["train"]) == 8
    for options in ({"seed": 7}, {"emotions": LABELS[::-1]}):
        train.write_text("stale")
        assert len(prepare(corpus, **options)["train"]) == 8


def test_a_trained_run_never_goes_on_with_other_data(corpus):
    path = write_csv(corpus, lines_of())
    prepare(corpus, save_folder=corpus)
    (corpus / "CKPT+1").mkdir()
    prepare(corpus, save_folder=corpus)
    path.write_text(path.read_text() + "\n")
    before = (corpus / "out" / "prepared.json").read_bytes()
    with pytest.raises(InputError, match="trained on other data .changed: the"):
        prepare(corpus, save_folder=corpus)
    assert (corpus / "out" / "prepared.json").read_bytes() == before


def test_skip_prep_does_nothing(tmp_path):
    prepare_module.prepare_manifest(
        "gone", "gone", tmp_path, [], skip_prep=True
    )
    assert not list(tmp_path.iterdir())


def test_the_examples_in_the_docstrings(tmp_path):
    for module in (rows_module, splits_module, prepare_module, folders_module):
        # Each example gets a folder as the fixture would give it.
        extra = {"getfixture": lambda name: tmp_path}
        found = doctest.testmod(
            module,
            extraglobs=extra,
            optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
        )
        assert found.attempted and not found.failed, module

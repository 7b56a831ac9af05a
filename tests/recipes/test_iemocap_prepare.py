"""IEMOCAP: labels, protocols, counts, and what lies about on real disks."""

import doctest
import importlib
import json
import logging
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.data.manifest import read_manifest
from merit_modules.errors import InputError
from tests.conftest import ROOT
from tests.helpers.iemocap import (
    HEADER,
    IMPRO,
    SCRIPT,
    SPEAKERS,
    build_noise,
    build_release,
    evaluation,
)

RECIPE = ROOT / "recipes" / "IEMOCAP" / "joint_se_ser"
sys.path.insert(0, str(RECIPE))
labels, protocols, iemocap = (
    importlib.import_module(name)
    for name in ("iemocap_labels", "iemocap_protocols", "iemocap_prepare")
)
sys.path.remove(str(RECIPE))

SPLITS = ("train", "valid", "test")
SCRIPT += list(zip("F001 F002 F003".split(), "fea sur dis".split()))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("IEMOCAP")
    build_release(folder / "IEMOCAP_full_release")
    build_noise(folder / "noise")
    return folder


@pytest.fixture
def corpus(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    return tmp_path


def prepare(folder, data="IEMOCAP_full_release", out="out", **options):
    iemocap.prepare_iemocap(
        folder / data, folder / "noise", folder / out, **options
    )
    return {
        split: read_manifest(folder / out / f"{split}.json", folder / data)
        for split in SPLITS
    }


def evaluation_file(folder, session=1, dialogue="Ses01F_impro05a"):
    return (
        folder
        / "IEMOCAP_full_release"
        / f"Session{session}"
        / "dialog"
        / "EmoEvaluation"
        / f"{dialogue}.txt"
    )


def recording(folder, name="Ses01F_impro05a_F000"):
    release = folder / "IEMOCAP_full_release"
    return release / labels.parse_turn(name)[2]


def speakers(split):
    return {entry["spk_id"] for entry in split.values()}


@pytest.mark.parametrize("module", [labels, protocols, iemocap])
def test_examples_in_docstrings(module):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    result = doctest.testmod(module, optionflags=flags)
    assert result.attempted and not result.failed


# Labels


def test_known_counts_are_those_of_the_literature():
    counts = labels.known_counts("exc_merged")
    totals = [sum(counts[session].values()) for session in labels.SESSIONS]
    assert totals == [1085, 1023, 1151, 1031, 1241]
    by_class = [
        sum(counts[session][name] for session in labels.SESSIONS)
        for name in ("angry", "happy", "sad", "neutral")
    ]
    assert by_class == [1103, 1636, 1084, 1708]
    by_code = [
        sum(labels.KNOWN[session][code] for session in labels.SESSIONS)
        for code in ("hap", "exc")
    ]
    assert by_code == [595, 1041]


@pytest.mark.parametrize(
    "name, session, speaker",
    [
        ("Ses01F_impro01_F000", 1, "Ses01F"),
        ("Ses01F_impro01_M012", 1, "Ses01M"),  # F wore the markers
        ("Ses04M_script01_1_F009", 4, "Ses04F"),
        ("Ses05M_script01_1b_M031", 5, "Ses05M"),
        ("Ses03F_impro05a_M003", 3, "Ses03M"),
        ("Ses02F_script03_2_FXX0", 2, "Ses02F"),
    ],
)
def test_the_speaker_is_in_the_last_part(name, session, speaker):
    dialogue = name.rpartition("_")[0]
    path = f"Session{session}/sentences/wav/{dialogue}/{name}.wav"
    assert labels.parse_turn(name) == (session, speaker, path)


@pytest.mark.parametrize(
    "name",
    ["Ses06F_impro01_F000", "Ses01F_F000", "03a01Wa", "Ses01F_impro01_X000"],
)
def test_other_turn_names_are_refused(name):
    with pytest.raises(InputError, match=f"such as Ses01F.*got '{name}'"):
        labels.parse_turn(name)


@pytest.mark.parametrize(
    "label_set, of_session",
    [
        ("exc_merged", {"angry": 2, "sad": 2, "happy": 4, "neutral": 3}),
        ("exc_replaces_hap", {"angry": 2, "sad": 2, "happy": 2, "neutral": 3}),
        ("exc_dropped", {"angry": 2, "sad": 2, "happy": 2, "neutral": 3}),
    ],
)
def test_label_sets(corpus, label_set, of_session):
    splits = prepare(corpus, label_set=label_set)
    assert Counter(e["emo"] for e in splits["test"].values()) == of_session
    happy = {i for i, e in splits["test"].items() if e["emo"] == "happy"}
    of_code = {"hap": {"F001", "M001"}, "exc": {"F004", "M004"}}
    codes = {
        "exc_merged": ["hap", "exc"],
        "exc_replaces_hap": ["exc"],
        "exc_dropped": ["hap"],
    }[label_set]
    turns = {turn for code in codes for turn in of_code[code]}
    assert happy == {f"Ses01F_impro05a_{turn}" for turn in turns}


def test_other_codes_are_dropped_and_counted(corpus, caplog):
    caplog.set_level(logging.INFO)
    splits = prepare(corpus)
    ids = {name for split in splits.values() for name in split}
    assert len(ids) == 55
    kept = {i for i in ids if "script" in i}
    assert kept == {f"Ses0{s}M_script01_1_F000" for s in range(1, 6)}
    assert (
        "dropped, not in exc_merged: 5 dis, 5 fea, 5 fru, 5 oth, 5 sur, 5 xxx"
        in caplog.text
    )


def test_what_an_entry_holds(corpus):
    splits = prepare(corpus)
    path = "Session1/sentences/wav/Ses01F_impro05a/Ses01F_impro05a_M004.wav"
    assert splits["test"]["Ses01F_impro05a_M004"] == {
        "wav": str(corpus / "IEMOCAP_full_release" / path),
        "duration": 0.1,
        "emo": "happy",
        "spk_id": "Ses01M",
        "session": 1,
    }
    assert list(splits["train"]) == sorted(splits["train"])


# Protocols


def test_leave_one_session_out(corpus):
    tested = Counter()
    for fold in range(1, 6):
        splits = prepare(corpus, fold=fold)
        assert speakers(splits["test"]) == {f"Ses0{fold}F", f"Ses0{fold}M"}
        valid = fold % 5 + 1
        assert speakers(splits["valid"]) == {f"Ses0{valid}F", f"Ses0{valid}M"}
        assert len(speakers(splits["train"])) == 6
        held = speakers(splits["test"]) | speakers(splits["valid"])
        assert not speakers(splits["train"]) & held
        tested.update(list(splits["test"]))
    assert len(tested) == 55 and set(tested.values()) == {1}


def test_leave_one_speaker_out(corpus):
    tested = Counter()
    for fold, speaker in enumerate(SPEAKERS, start=1):
        splits = prepare(corpus, protocol="leave_one_speaker_out", fold=fold)
        other = speaker[:-1] + {"F": "M", "M": "F"}[speaker[-1]]
        assert speakers(splits["test"]) == {speaker}
        assert speakers(splits["valid"]) == {other}
        assert speakers(splits["train"]) == {*SPEAKERS} - {speaker, other}
        tested.update(list(splits["test"]))
    assert len(tested) == 55 and set(tested.values()) == {1}


def test_random_warns_that_speakers_leak(corpus, caplog):
    splits = prepare(corpus, protocol="random")
    assert [len(splits[s]) for s in SPLITS] == [43, 6, 6]
    n = len(speakers(splits["test"]))
    shared = len(speakers(splits["test"]) & speakers(splits["train"]))
    assert f"speakers leak: {shared} of the test set's {n} sp" in caplog.text
    assert shared > 0
    again = prepare(corpus, out="again", protocol="random")
    for split in SPLITS:
        assert list(again[split]) == list(splits[split])
    other = prepare(corpus, out="other", protocol="random", seed=7)
    assert set(other["test"]) != set(splits["test"])
    caplog.clear()
    prepare(corpus, out="session")
    assert "leak" not in caplog.text


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(labels.CLASSES), min_size=40, max_size=90),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
)
def test_random_tenths_are_alike(emotions, seed, shuffler):
    items = [
        (f"u{i}", {"emo": emo, "spk_id": f"s{i % 3}", "session": 1})
        for i, emo in enumerate(emotions)
    ]
    tested = Counter()
    sizes = Counter(emotions)
    for fold in range(1, 11):
        splits = protocols.split_entries(dict(items), "random", fold, seed)
        shuffler.shuffle(items)
        again = protocols.split_entries(dict(items), "random", fold, seed)
        assert [list(s) for s in again.values()] == [
            list(s) for s in splits.values()
        ]
        assert sum(len(split) for split in splits.values()) == len(emotions)
        tested.update(list(splits["test"]))
        for split in ("valid", "test"):
            assert abs(len(splits[split]) - len(emotions) / 10) < 1
            counts = Counter(e["emo"] for e in splits[split].values())
            for emo, n in sizes.items():
                assert abs(counts[emo] - n / 10) < 1
    assert set(tested.values()) == {1} and len(tested) == len(emotions)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"fold": 0}, "fold: .* 1 to 5 for leave_one_session_out, got 0"),
        ({"fold": 6}, "fold: .* 1 to 5"),
        ({"fold": "1"}, "fold: .* got '1'"),
        ({"fold": True}, "fold: .* got True"),
        (
            {"protocol": "leave_one_speaker_out", "fold": 11},
            "fold: .* 1 to 10 for leave_one_speaker_out, got 11",
        ),
        ({"protocol": "5-fold"}, "protocol: expected one of leave_.*'5-fold'"),
        ({"label_set": "four"}, "label_set: .* exc_dropped, got 'four'"),
    ],
)
def test_choices_that_do_not_exist(corpus, options, message):
    with pytest.raises(InputError, match=message):
        prepare(corpus, **options)
    assert not (corpus / "out").exists()


# The disk


def test_the_folder_around_the_release_will_do(corpus):
    inside = prepare(corpus)
    around = prepare(corpus, data=".", out="around")
    for split in SPLITS:
        assert list(around[split]) == list(inside[split])
    for entry in around["test"].values():
        assert Path(entry["wav"]).is_file()


@pytest.mark.parametrize("protocol", list(protocols.N_FOLDS))
def test_the_order_of_directories_does_not_count(corpus, monkeypatch, protocol):
    prepare(corpus, protocol=protocol)
    listed = []

    def backwards(self, pattern, real=Path.glob):
        found = sorted(real(self, pattern), reverse=True)
        listed.extend(found)
        return iter(found)

    monkeypatch.setattr(Path, "glob", backwards)
    prepare(corpus, out="again", protocol=protocol)
    assert len(listed) == 10 + 85  # evaluation files and recordings
    for split in SPLITS:
        first, second = (
            (corpus / out / f"{split}.json").read_bytes()
            for out in ("out", "again")
        )
        assert first == second


def test_appledouble_files_are_passed_by(corpus):
    release = corpus / "IEMOCAP_full_release"
    # Ten evaluation files and 85 recordings lie beside as many of these.
    assert len(list(release.rglob("._*"))) == 95
    splits = prepare(corpus)
    assert sum(len(split) for split in splits.values()) == 55


@pytest.mark.parametrize(
    "gone, message",
    [
        ("Session3", "Session1 to Session5, Session3 missing"),
        ("Session3/dialog/EmoEvaluation", "Session3.*Ses.*found none"),
        ("", "IEMOCAP_full_release: there is no such folder"),
    ],
)
def test_missing_folders_are_named(corpus, gone, message):
    shutil.rmtree(corpus / "IEMOCAP_full_release" / gone)
    with pytest.raises(InputError, match=message):
        prepare(corpus)


def test_all_missing_recordings_are_listed(corpus, caplog):
    names = ["Ses01F_impro05a_F000", "Ses04F_impro05a_M002"]
    for name in names:
        recording(corpus, name).unlink()
    with pytest.raises(InputError, match="2 of the IEMOCAP recordings") as e:
        prepare(corpus)
    for name in names:
        assert f"{name}.wav: there is no such audio file" in str(e.value)
    splits = prepare(corpus, skip_broken_audio=True)
    ids = {name for split in splits.values() for name in split}
    assert len(ids) == 53 and not ids & set(names)
    assert f"left out: {recording(corpus)}: there is no such" in caplog.text


def test_a_missing_recording_of_a_dropped_turn_does_not_matter(corpus):
    recording(corpus, "Ses01M_script01_1_M000").unlink()  # xxx
    assert len(prepare(corpus)["test"]) == 11


def test_broken_recordings_are_named(corpus):
    recording(corpus).write_bytes(b"")
    with pytest.raises(InputError, match="F000.wav: the audio file is empty"):
        prepare(corpus)


def test_recordings_without_a_label_are_told(corpus, caplog):
    path = evaluation_file(corpus)
    kept = evaluation("Ses01F_impro05a", IMPRO[:-7])
    path.write_text(kept)
    splits = prepare(corpus)
    assert len(splits["test"]) == 4
    assert "no evaluation file labels them: 7 recordings:" in caplog.text
    assert "Ses01F_impro05a_F003.wav" in caplog.text
    assert "M002.wav, ..." in caplog.text and "M003.wav" not in caplog.text


def test_a_turn_labelled_twice_is_an_error(corpus):
    path = evaluation_file(corpus)
    twice = path.with_name("Ses01F_impro05b.txt")
    shutil.copy(path, twice)
    message = r"impro05b.txt, line 3: turn '.*_F000' is labelled twice, first"
    with pytest.raises(InputError, match=message) as error:
        prepare(corpus)
    assert f"{path}, line 3" in str(error.value)
    twice.unlink()
    path.write_text(path.read_text() * 2)
    with pytest.raises(InputError, match="labelled twice"):
        prepare(corpus)


def test_a_turn_in_another_sessions_folder_is_an_error(corpus):
    shutil.move(evaluation_file(corpus), evaluation_file(corpus, session=2))
    message = "impro05a.txt, line 3: expected turns of session 2 .*'Ses01F_"
    with pytest.raises(InputError, match=message):
        prepare(corpus)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\0\5\x16\7", "expected a text file of labels, got binary data"),
        ("é".encode("utf-16"), "got binary data"),
        (b"", r"expected lines \[START - END\] TURN_NAME .* found none"),
        (HEADER.encode(), "found none"),
        (b"\n[6.12 - 8.44]\tSes01F_imp", r"line 2: expected \[START"),
        (b"[6.12]\tSes01F_impro05a_F000\tneu\t[2]", "line 1: expected"),
        (b"[6.1 - 8]\tSes01F_impro05a_F000\t\t[2.5]", "line 1: expected"),
        (b"[6.1 - 8]\tSes01F_impro05a_F0\xff0\tneu\t[2.5]", "turn's name"),
        (
            b"[6.1 - 8]\tSes01F_impro05a_F000\tjoy\t[2.5, 2.5, 2.5]",
            "line 1: unknown emotion code 'joy' of turn 'Ses01F_impro05a_F000'"
            ", expected one of ang, hap",
        ),
        (
            b"[6.1 - 8]\timpro05a_F000\tneu\t[2.5, 2.5, 2.5]",
            "line 1: expected a turn's name such as .*'impro05a_F000'",
        ),
    ],
)
def test_garbled_evaluation_files(corpus, content, message):
    path = evaluation_file(corpus)
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        prepare(corpus)
    assert str(path) in str(error.value)


def test_an_evaluation_file_that_cannot_be_read(corpus):
    path = evaluation_file(corpus)
    path.unlink()
    path.mkdir()  # unlike permissions, it stops an administrator, too
    with pytest.raises(InputError, match="cannot read the evaluation file"):
        prepare(corpus)


def test_line_ends_and_comments_in_other_encodings(corpus):
    path = evaluation_file(corpus)
    text = path.read_text().replace("();", "(d\u00e9\u00e7u);")
    path.write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    assert len(prepare(corpus)["test"]) == 11


def test_a_split_without_utterances(corpus):
    text = evaluation("Ses02F_impro05a", IMPRO).replace("\tneu\t", "\txxx\t")
    path = evaluation_file(corpus, 2, "Ses02F_impro05a")
    path.write_text(re.sub("\t(ang|hap|sad|exc)\t", "\txxx\t", text))
    path = evaluation_file(corpus, 2, "Ses02M_script01_1")
    path.write_text(path.read_text().replace("\tneu\t", "\txxx\t"))
    with pytest.raises(InputError, match="fold 1: no utterance for valid"):
        prepare(corpus, fold=1)


# What is logged and written


def test_counts_stand_beside_the_known_ones(corpus, caplog):
    caplog.set_level(logging.INFO)
    prepare(corpus, fold=2)
    lines = [re.split(r"\s{2,}", line) for line in caplog.text.splitlines()]
    rows = {line[0]: line[1:] for line in lines if len(line) == 6}
    # Session2 has 137 angry, 197 sad, 117 + 210 happy and 362 neutral turns.
    session_2 = ["2 (137)*", "2 (197)*", "4 (327)*", "3 (362)*", "11 (1023)*"]
    assert rows["Session2"] == rows["test"] == session_2
    assert rows["all"][-1] == "55 (5531)*"
    assert rows["train"][-1] == f"33 ({1085 + 1031 + 1241})*"
    warning = [r for r in caplog.records if r.levelname == "WARNING"][-1]
    assert "45 counts differ from the known ones" in warning.getMessage()
    assert "Session2 happy 4 (327)" in warning.getMessage()
    assert "speakers Ses02F Ses02M" in caplog.text


def test_no_warning_where_counts_are_the_known_ones(
    corpus, caplog, monkeypatch
):
    of_session = {"ang": 2, "hap": 2, "exc": 2, "sad": 2, "neu": 3}
    monkeypatch.setattr(labels, "KNOWN", dict.fromkeys(range(1, 6), of_session))
    for protocol in protocols.N_FOLDS:
        prepare(corpus, protocol=protocol)
    assert "differ" not in caplog.text


def test_the_same_split_has_the_same_digest(corpus, caplog):
    caplog.set_level(logging.INFO)
    for data, out in (("IEMOCAP_full_release", "a"), (".", "b")):
        prepare(corpus, data=data, out=out)
    prepare(corpus, out="c", fold=2)
    digests = re.findall(r"test: .*digest (\w{16}),", caplog.text)
    assert len(digests) == 3
    assert digests[0] == digests[1] != digests[2]


def test_nothing_is_done_twice(corpus, caplog):
    caplog.set_level(logging.INFO)
    prepare(corpus)
    train = corpus / "out" / "train.json"
    train.write_text(train.read_text() + "\n")  # to see a rewrite
    marked = train.read_text()
    prepare(corpus)
    assert train.read_text() == marked and "up to date" in caplog.text
    stamp = json.loads((corpus / "out" / "prepared.json").read_text())
    assert stamp["protocol"] == "leave_one_session_out"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: {"fold": 3},
        lambda folder: {"protocol": "random"},
        lambda folder: {"label_set": "exc_dropped"},
        lambda folder: {"seed": 7},
        lambda folder: {"skip_broken_audio": True},
        lambda folder: (folder / "out" / "noise_valid.json").unlink() or {},
        lambda folder: (
            recording(folder, "Ses01M_script01_1_M001").unlink() or {}
        ),
        lambda folder: relabel(folder) or {},
        lambda folder: (folder / "noise" / "n5.wav").unlink() or {},
    ],
)
def test_any_change_means_doing_it_again(corpus, change):
    prepare(corpus)
    train = corpus / "out" / "train.json"
    train.write_text("stale")
    assert len(prepare(corpus, **change(corpus))["train"]) >= 27


def relabel(folder):
    path = evaluation_file(folder)
    path.write_text(path.read_text().replace("\tang\t", "\tsad\t"))


def test_a_failed_run_leaves_no_stamp(corpus):
    prepare(corpus)
    recording(corpus).write_bytes(b"")
    with pytest.raises(InputError):
        prepare(corpus, fold=2)
    assert not (corpus / "out" / "prepared.json").exists()


def test_skip_prep_does_nothing(tmp_path):
    iemocap.prepare_iemocap("gone", "gone", tmp_path, skip_prep=True)
    assert not list(tmp_path.iterdir())

"""MSP-Podcast: label files of four forms, filtered splits, named errors."""

import csv
import doctest
import hashlib
import io
import json
import logging
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from merit_modules.data.audio import probe_audio
from merit_modules.data.manifest import read_manifest
from merit_modules.errors import InputError
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "recipes" / "MSP-Podcast" / "joint_se_ser"))
import msp_podcast_classes as classes
import msp_podcast_labels as labels
import msp_podcast_prepare as msp
import msp_podcast_release as release
import msp_podcast_rows as rows

SPLITS = ("Train", "Development", "Test1", "Test2")
FOUR = ["angry", "sad", "happy", "neutral"]
HEADER = (
    *("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom"),
    *("SpkrID", "Gender", "Split_Set"),
)


def name_of(number):
    return f"MSP-PODCAST_90{number:02d}_0012.wav"


def make_rows():
    """Every class once in every split: 40 turns."""
    table = []
    for split in SPLITS:
        for letter in "ASHUFDCNOX":
            table.append(
                {
                    "FileName": name_of(len(table)),
                    "EmoClass": letter,
                    "EmoAct": "3.4",
                    "EmoVal": "4.2",
                    "EmoDom": "3.8",
                    "SpkrID": str(100 + len(table)),
                    "Gender": "Female",
                    "Split_Set": split,
                }
            )
    table[1]["SpkrID"] = "Spkr_7"
    table[2]["SpkrID"] = table[12]["SpkrID"] = "Unknown"
    return table


def votes_of(row, shares=None):
    """The row in the columns of the one-hot and soft forms."""
    if shares is None:
        emotion = labels.LETTERS[row["EmoClass"]]
        shares = {emotion.capitalize(): 1}
    row = {k: v for k, v in row.items() if k != "EmoClass"}
    return {**row, **dict.fromkeys(labels.COLUMNS, 0), **shares}


def write_csv(path, table, header=HEADER, encoding="utf-8", end="\n"):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(
            stream, header, extrasaction="ignore", lineterminator=end
        )
        writer.writeheader()
        writer.writerows(table)


def write_one_hot(path, table):
    header = ["FileName", *labels.COLUMNS, "Split_Set"]
    write_csv(path, [votes_of(row) for row in table], header)


def write_json(path, table):
    entries = {
        row["FileName"]: {
            key: float(value)
            if key.startswith(("EmoA", "EmoV", "EmoD"))
            else int(value)
            if value.isdigit()
            else value
            for key, value in row.items()
            if key != "FileName"
        }
        for row in table
    }
    path.write_text(json.dumps(entries))


def make_wav():
    """A WAV file's bytes: 0.1 s of noise."""
    stream = io.BytesIO()
    wav = np.random.default_rng(0).normal(0, 0.1, 1600)
    soundfile.write(stream, wav, 16000, format="WAV")
    return stream.getvalue()


WAV = make_wav()


def write_wav(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(WAV)


@pytest.fixture
def corpus(tmp_path):
    """A release with 40 recordings, its labels as CSV, and four noises."""
    data = tmp_path / "MSP-PODCAST-Publish-9.9"
    for row in make_rows():
        write_wav(data / "Audios" / row["FileName"])
    (data / "Audios" / f"._{name_of(0)}").write_bytes(b"\0\5\x16\7")
    write_csv(data / "Labels" / "labels_consensus.csv", make_rows())
    (data / "Labels" / "._labels_consensus.csv").write_bytes(b"\0\5\x16\7")
    for i in range(4):
        write_wav(tmp_path / "noise" / f"n{i}.wav")
    return data


def label_file(corpus):
    return corpus / "Labels" / "labels_consensus.csv"


def prepare(corpus, out="out", **options):
    folder = corpus.parent
    msp.prepare_msp_podcast(corpus, folder / "noise", folder / out, **options)
    return {
        path.stem: read_manifest(path, corpus)
        for path in sorted((folder / out).glob("*.json"))
        if path.stem in labels.SPLITS.values()
    }


def emotions(entries):
    return Counter(entry["emo"] for entry in entries.values())


# ---- what comes out -----------------------------------------------------


def test_four_classes_in_every_split(corpus):
    splits = prepare(corpus)
    assert set(splits) == {"train", "valid", "test1", "test2"}
    for entries in splits.values():
        assert emotions(entries) == dict.fromkeys(FOUR, 1)
    assert splits["train"]["MSP-PODCAST_9000_0012"] == {
        "wav": str(corpus / "Audios" / name_of(0)),
        "duration": 0.1,
        "emo": "angry",
        "spk_id": "100",
        "act": 3.4,
        "val": 4.2,
        "dom": 3.8,
    }
    noise = json.loads((corpus.parent / "out/noise_train.json").read_text())
    assert 0 < len(noise) < 4


def test_eight_classes(corpus):
    splits = prepare(corpus, label_set="eight")
    for entries in splits.values():
        assert emotions(entries) == dict.fromkeys(classes.ALL_CLASSES, 1)
    assert classes.classes_of("eight") == list(classes.ALL_CLASSES)
    assert classes.classes_of("four") == FOUR


def test_speakers_in_all_their_forms(corpus):
    train = prepare(corpus)["train"]
    speakers = [train[key]["spk_id"] for key in sorted(train)]
    assert speakers == ["100", "7", "Unknown", "107"]


def test_json_and_csv_give_the_same_bytes(corpus):
    prepare(corpus)
    write_json(corpus / "Labels" / "labels_consensus.json", make_rows())
    label_file(corpus).unlink()
    prepare(corpus, out="json")
    for split in ("train", "valid", "test1", "test2"):
        written = (corpus.parent / "out" / f"{split}.json").read_bytes()
        again = (corpus.parent / "json" / f"{split}.json").read_bytes()
        assert again == written


def test_neither_the_order_of_rows_nor_that_of_columns_matters(corpus):
    expected = prepare(corpus)
    table = make_rows()
    random.Random(1).shuffle(table)
    write_csv(
        label_file(corpus),
        table,
        header=HEADER[::-1],
        encoding="utf-8-sig",
        end="\r\n",
    )
    again = prepare(corpus)
    assert again == expected
    assert [list(e) for e in again.values()] == [
        list(e) for e in expected.values()
    ]


def test_the_one_hot_form_under_the_same_name(corpus):
    """A turn of another class is a row of zeros: it must not become Angry."""
    expected = prepare(corpus)
    write_one_hot(label_file(corpus), make_rows())
    splits = prepare(corpus)
    for split, entries in splits.items():
        assert emotions(entries) == dict.fromkeys(FOUR, 1)
        for key, entry in entries.items():
            assert entry["emo"] == expected[split][key]["emo"]
            assert entry["spk_id"] == "Unknown" and "act" not in entry
    assert emotions(prepare(corpus, label_set="eight")["test2"]) == (
        dict.fromkeys(classes.ALL_CLASSES, 1)
    )


def test_the_soft_form_under_the_same_name(corpus):
    table = [votes_of(row) for row in make_rows()]
    table[0] |= {"Angry": 0.2, "Sad": 0.1, "Fear": 0.7}
    table[1] |= {"Angry": 0.4, "Sad": 0.4, "Neutral": 0.2}
    fields = [name for name in HEADER if name != "EmoClass"]
    write_csv(label_file(corpus), table, [*labels.COLUMNS, *fields])
    soft = prepare(corpus, labels="soft")["train"]
    first = soft["MSP-PODCAST_9000_0012"]
    assert first["emo"] == "angry" and first["act"] == 3.4
    assert first["emo_probs"] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    second = soft["MSP-PODCAST_9001_0012"]
    assert second["emo_probs"] == pytest.approx([0.4, 0.4, 0, 0.2])
    # Nobody voted for one of the four: surprise, other, no agreement ...
    assert len(soft) == 4
    # The consensus of the same file: fear, and a draw.
    assert emotions(prepare(corpus)["train"]) == {"happy": 1, "neutral": 1}
    eight = prepare(corpus, labels="soft", label_set="eight")["train"]
    assert eight["MSP-PODCAST_9000_0012"]["emo"] == "fear"


def test_a_soft_file_may_state_the_consensus_too(corpus):
    table = [{**row, **votes_of(row)} for row in make_rows()]
    table[0] |= {"Angry": 0.0, "Sad": 1.0}
    write_csv(label_file(corpus), table, [*HEADER, *labels.COLUMNS])
    key = "MSP-PODCAST_9000_0012"
    assert prepare(corpus)["train"][key]["emo"] == "angry"
    assert prepare(corpus, labels="soft")["train"][key]["emo"] == "sad"


@pytest.mark.parametrize("write", [write_csv, write_one_hot])
def test_soft_labels_need_shares(corpus, write):
    write(label_file(corpus), make_rows())
    with pytest.raises(InputError, match="labels: soft needs shares of votes"):
        prepare(corpus, labels="soft")


@given(st.lists(st.floats(0, 1 / 8), min_size=8, max_size=8))
def test_soft_labels_are_a_distribution_over_the_classes(shares):
    probs = dict(zip(classes.ALL_CLASSES, shares))
    turn = labels.Turn("a.wav", "train", "other", probs, {}, "1")
    chosen = [probs[name] for name in FOUR]
    label = classes.label_of(turn, FOUR, "soft")
    if sum(chosen) == 0:
        assert label == {}
        return
    assert sum(label["emo_probs"]) == pytest.approx(1)
    assert probs[label["emo"]] == max(chosen)


@given(st.sampled_from(classes.ALL_CLASSES), st.floats(0.51, 1))
def test_the_majority_is_the_consensus_and_zeros_are_nobody(name, share):
    probs = dict.fromkeys(classes.ALL_CLASSES, 0.0)
    assert classes.consensus(probs) == "other"
    assert classes.consensus({**probs, name: share}) == name
    assert classes.consensus({**probs, name: 1 - share}) != name


# ---- layouts and splits ---------------------------------------------------


def test_other_spellings_of_the_folders(corpus):
    expected = prepare(corpus)
    (corpus / "Audios").rename(corpus / "Audio")
    (corpus / "Labels").rename(corpus / "lower")
    (corpus / "lower").rename(corpus / "labels")
    splits = prepare(corpus)
    assert splits.keys() == expected.keys()
    first = splits["train"]["MSP-PODCAST_9000_0012"]
    assert first["wav"] == str(corpus / "Audio" / name_of(0))


def test_another_label_file_by_name(corpus):
    table = make_rows()[::-1]
    table[-1]["EmoClass"] = "H"
    write_json(corpus / "mine.json", table)
    splits = prepare(corpus, label_file="mine.json")
    assert emotions(splits["train"]) == {"happy": 2, "sad": 1, "neutral": 1}
    with pytest.raises(InputError, match=r"label_file: .* no file .*gone.csv"):
        prepare(corpus, label_file="gone.csv")


def with_test3(letter):
    table = make_rows()
    for number in (8, 18):  # class O in Train and Development
        table[number] |= {"Split_Set": "Test3", "EmoClass": letter}
        if not letter:
            table[number] |= {"EmoAct": "", "EmoVal": "", "EmoDom": ""}
    return table


def test_test3_is_there_only_where_its_labels_are(corpus, caplog):
    caplog.set_level(logging.INFO)
    write_csv(label_file(corpus), with_test3("S"))
    assert emotions(prepare(corpus)["test3"]) == {"sad": 2}
    # Hidden labels: the manifest of the last run must not stay behind.
    write_csv(label_file(corpus), with_test3(""))
    assert set(prepare(corpus)) == {"train", "valid", "test1", "test2"}
    assert "2 hidden" in caplog.text
    with pytest.raises(InputError, match="no utterance for test3; there are"):
        prepare(corpus, test_sets=["test1", "test3"])


def test_a_release_without_a_test_set(corpus):
    table = [row for row in make_rows() if row["Split_Set"] != "Test2"]
    write_csv(label_file(corpus), table)
    with pytest.raises(InputError, match="no utterance for test2"):
        prepare(corpus)
    assert "test2" not in prepare(corpus, test_sets=["test1"])


def test_speakers_in_two_partitions_are_told(corpus, caplog):
    prepare(corpus)
    assert "spk_id" not in caplog.text  # Unknown in two splits is no leak
    table = make_rows()
    table[10]["SpkrID"] = "Spkr_100"
    write_csv(label_file(corpus), table)
    prepare(corpus)
    assert "got '100' in train and valid (1 such in all)" in caplog.text


# ---- the record of what was prepared --------------------------------------


def test_release_and_hash_are_kept(corpus):
    prepare(corpus)
    stamp = json.loads((corpus.parent / "out" / "prepared.json").read_text())
    content = label_file(corpus).read_bytes()
    assert stamp["release"] == "MSP-PODCAST-Publish-9.9"
    assert stamp["label_sha256"] == hashlib.sha256(content).hexdigest()


def test_nothing_is_done_twice(corpus, caplog):
    caplog.set_level(logging.INFO)
    prepare(corpus)
    train = corpus.parent / "out" / "train.json"
    train.write_text(train.read_text() + "\n")  # to see a rewrite
    marked = train.read_text()
    prepare(corpus)
    assert train.read_text() == marked
    assert "up to date" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {"label_set": "eight"},
        lambda data: {"seed": 7},
        lambda data: {"skip_missing": True},
        lambda data: {"skip_broken": True},
        lambda data: write_csv(label_file(data), make_rows()[::-1]) or {},
        lambda data: write_wav(data / "Audios" / "new.wav") or {},
        lambda data: write_wav(data.parent / "noise" / "new.wav") or {},
        lambda data: (data.parent / "out" / "test2.json").unlink() or {},
        lambda data: (data.parent / "out" / "prepared.json").unlink() or {},
    ],
)
def test_any_change_means_doing_it_again(corpus, change):
    prepare(corpus)
    (corpus.parent / "out" / "train.json").write_text("stale")
    assert len(prepare(corpus, **change(corpus))["train"]) >= 4


def test_a_stopped_run_goes_on(corpus, monkeypatch):
    """What was read before the stop is not read again."""
    (corpus / "Audios" / name_of(0)).rename(corpus / "away.wav")
    prepare(corpus, skip_missing=True)
    (corpus / "away.wav").rename(corpus / "Audios" / name_of(0))
    probed = []

    def spy(path):
        probed.append(Path(path).name)
        return probe_audio(path)

    monkeypatch.setattr("merit_modules.data.probing.probe_audio", spy)
    assert len(prepare(corpus)["train"]) == 4
    assert probed == [name_of(0)]


def test_a_failed_run_leaves_no_stamp(corpus):
    prepare(corpus)
    (corpus / "Audios" / name_of(0)).unlink()
    with pytest.raises(InputError):
        prepare(corpus)
    assert not (corpus.parent / "out" / "prepared.json").exists()


def test_skip_prep_does_nothing(tmp_path):
    msp.prepare_msp_podcast("gone", "gone", tmp_path, skip_prep=True)
    assert not list(tmp_path.iterdir())


def test_counts_stand_beside_the_known_ones(corpus, caplog):
    caplog.set_level(logging.INFO)
    prepare(corpus)
    assert "train  1      1    1      1        10" in caplog.text
    assert "10 disgust" not in caplog.text and "4 disgust" in caplog.text
    assert "are known" not in caplog.text
    corpus = corpus.rename(corpus.parent / "MSP-PODCAST-Publish-1.11")
    prepare(corpus)
    for known in ("train: 10 found, 84030", "valid: 10 found, 19815"):
        assert known in caplog.text
    assert "test1: 10 found, 30647 are known of MSP-PODCAST-Publish-1.11"
    assert "recordings: 40 found, 151654 are known" in caplog.text
    assert "10 (14815)*" in caplog.text


def test_right_counts_are_not_warned_of(corpus, caplog, monkeypatch):
    known = dict.fromkeys(("train", "valid", "test1", "test2"), 10)
    monkeypatch.setitem(release.KNOWN_TURNS, "9.9", known | {"recordings": 40})
    caplog.set_level(logging.INFO)
    prepare(corpus)
    assert "10 (10)\n" in caplog.text and "40 recordings" in caplog.text
    assert "are known" not in caplog.text


def test_only_headers_are_read(corpus):
    """Samples that reading would refuse, and the true length of them."""
    wav = np.full(16000 * 13, np.nan, dtype=np.float32)
    soundfile.write(corpus / "Audios" / name_of(0), wav, 16000, subtype="FLOAT")
    assert prepare(corpus)["train"]["MSP-PODCAST_9000_0012"]["duration"] == 13


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_other_spreadsheets_and_spellings(corpus, encoding, delimiter):
    expected = prepare(corpus)
    lines = [delimiter.join(name.upper() + " " for name in HEADER)]
    for row in make_rows():
        row |= {"FileName": row["FileName"].upper(), "Gender": "weiblich ü"}
        row |= {key: row[key].lower() for key in ("EmoClass", "Split_Set")}
        if delimiter != ",":
            row |= {
                key: row[key].replace(".", ",") for key in labels.ATTRIBUTES
            }
        lines.append(delimiter.join(row[name] for name in HEADER))
    label_file(corpus).write_bytes("\r\n".join(lines).encode(encoding))
    assert prepare(corpus) == expected


# ---- what is refused --------------------------------------------------------


def test_missing_recordings_are_named(corpus, caplog):
    missing = [n for n in range(40) if n % 10 in (0, 1, 2)]
    for number in missing:
        (corpus / "Audios" / name_of(number)).unlink()
    (corpus / "Audios" / name_of(3)).unlink()  # of no class: not needed
    with pytest.raises(InputError, match="12 of the recordings .* cannot") as e:
        prepare(corpus)
    for number in missing[:10]:
        assert str(corpus / "Audios" / name_of(number)) in str(e.value)
    assert "... and 2 more\n--skip_missing True goes on" in str(e.value)
    splits = prepare(corpus, skip_missing=True)
    assert emotions(splits["train"]) == {"neutral": 1}
    assert "left out: 12 of the recordings" in caplog.text


def test_broken_recordings_are_named(corpus, caplog):
    for number, content in ((0, b""), (11, b"no audio")):
        (corpus / "Audios" / name_of(number)).write_bytes(content)
    with pytest.raises(InputError, match="2 of the recordings") as error:
        prepare(corpus, skip_missing=True)
    assert name_of(0) in str(error.value) and name_of(11) in str(error.value)
    assert "--skip_broken_audio True goes on" in str(error.value)
    splits = prepare(corpus, skip_broken=True)
    assert emotions(splits["train"]) == {"sad": 1, "happy": 1, "neutral": 1}
    assert name_of(11) in caplog.text


def change_row(number, **fields):
    table = make_rows()
    table[number] |= fields
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            change_row(4, EmoClass="Q"),
            "line 6: .*_9004_0012.wav: EmoClass: expected one of A, S, H, U, F",
        ),
        (change_row(4, EmoClass=""), "EmoClass: expected one of .* got ''"),
        (
            change_row(9, Split_Set="Dev"),
            "line 11: .*Split_Set: expected one of Train, Dev.* got 'Dev'",
        ),
        (change_row(0, EmoAct="8"), "EmoAct: .* from 1 to 7, got '8'"),
        (change_row(0, EmoDom="nan"), "EmoDom: .* from 1 to 7, got 'nan'"),
        (change_row(0, EmoVal="high"), "EmoVal: .*, got 'high'"),
        (change_row(0, FileName=" "), "FileName: expected a file name"),
        (
            change_row(0, FileName=name_of(5)),
            "line 7: .*_9005_0012.wav: a second row, the first is line 2",
        ),
        ([], "expected rows below the header"),
    ],
)
def test_unusable_rows_are_named(corpus, table, message):
    write_csv(label_file(corpus), table)
    with pytest.raises(InputError, match=message) as error:
        prepare(corpus)
    assert "labels_consensus.csv" in str(error.value)


def test_all_unusable_rows_are_counted(corpus):
    write_csv(
        label_file(corpus), [row | {"EmoClass": "Z"} for row in make_rows()]
    )
    with pytest.raises(
        InputError, match="40 of the rows .* cannot be used"
    ) as e:
        prepare(corpus)
    assert "line 11" in str(e.value) and "line 12" not in str(e.value)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"Angry": 1, "Sad": 1}, "expected shares .* 1 at most, got 2"),
        ({"Angry": 3}, "Angry: expected a number from 0 to 1, got '3'"),
        ({"Angry": -0.5}, "Angry: expected a number from 0 to 1"),
        ({"Angry": ""}, "Angry: expected a number from 0 to 1, got ''"),
    ],
)
def test_shares_that_are_none(corpus, shares, message):
    table = [votes_of(row) for row in make_rows()]
    table[8] |= shares
    write_csv(
        label_file(corpus), table, ["FileName", *labels.COLUMNS, "Split_Set"]
    )
    with pytest.raises(InputError, match=f"line 10: .*: {message}"):
        prepare(corpus)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1, column FileName: there is no such .* got nothing"),
        (b"\xff\xfe\0\1File", "column FileName: there is no such column"),
        (b"\xff\xfe\0", "line 1: cannot be read as utf-16"),
        (b"name,emotion\na,b\n", "column FileName: .* got name, emotion"),
        (b"FileName,EmoClass\na,b\n", "line 1, column Split_Set: there is"),
        (b"FileName,Emotion,Split_Set\n", "unknown header: .*Emotion"),
        (b"FileName,Angry,Sad,Happy,Neutral,Split_Set\n", "unknown header"),
        (b"FileName,EmoClass,Split_Set,EmoClass\n", "EmoClass: expected one"),
        (b"FileName,EmoClass,Split_Set\na.wav,A\n", "line 2: expected 3 cells"),
        (b'FileName,EmoClass,Split_Set\n"a.wav,A,Train\n', "line 2: cannot be"),
    ],
)
def test_unreadable_csv_is_named(corpus, content, message):
    label_file(corpus).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        prepare(corpus)
    assert str(label_file(corpus)) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected one JSON object .*, got a list"),
        ("{}", "unknown header"),
        ('{"a.wav": 3}', "expected one JSON object .*, got 3 for 'a.wav'"),
        ('{"a.wav": {"Emotion": "A"}}', "unknown header"),
        (
            '{"a.wav": {"EmoClass": "A", "Split_Set": "Train"},'
            ' "b.wav": {"Split_Set": "Train"}}',
            "entry 2: b.wav: EmoClass: expected one of",
        ),
        (
            '{"a.wav": {"EmoClass": "A", "Split_Set": "Train"},'
            ' "a.wav": {"EmoClass": "S", "Split_Set": "Train"}}',
            "entry 2: a.wav: a second row, the first is entry 1",
        ),
    ],
)
def test_unusable_json_is_named(corpus, text, message):
    path = corpus / "Labels" / "labels_consensus.json"
    path.write_text(text)
    label_file(corpus).unlink()
    with pytest.raises(InputError, match=message) as error:
        prepare(corpus)
    assert str(path) in str(error.value)


def test_missing_parts_are_named(corpus, tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        prepare(tmp_path / "nowhere")
    label_file(corpus).rename(corpus / "Labels" / "labels.csv")
    with pytest.raises(InputError, match="expected labels_cons.*labels.csv"):
        prepare(corpus)
    (corpus / "Audios").rename(corpus / "wavs")
    with pytest.raises(
        InputError, match="Audios or Audio in it .*Labels, wavs"
    ):
        prepare(corpus)


@pytest.mark.parametrize("option", ["label_set", "labels"])
def test_unknown_options_are_named(corpus, option):
    with pytest.raises(InputError, match=f"{option}: expected one of .*'five'"):
        prepare(corpus, **{option: "five"})


@pytest.mark.parametrize("module", [classes, labels, msp, release, rows])
def test_examples(module):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    done = doctest.testmod(module, optionflags=flags)
    assert done.attempted and not done.failed

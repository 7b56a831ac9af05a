"""The command merit: inputs, results, errors, stops and restarts, pipes."""

import csv
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merit_modules.commands.__main__ import main
from merit_modules.commands.analyze import options as recordings
from merit_modules.commands.analyze import result_files
from merit_modules.commands.analyze.inputs import collect_jobs
from merit_modules.inference import SparseMERIT
from merit_modules.inference import audio as sinks
from merit_modules.inference.interface import SEGMENT_S
from merit_modules.inference.windows import RECORDED
from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system

LABELS = ["angry", "sad", "happy", "neutral"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_system(), folder, LABELS)
    return str(folder)


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model") / "other"
    save_folder(tiny_system(), folder, LABELS)
    return str(folder)


@pytest.fixture
def corpus(tmp_path):
    """Five recordings at two depths, of different lengths and rates."""
    folder = tmp_path / "corpus"
    for i, name in enumerate(["a", "b", "deep/er/c", "deep/a", "deep/d"]):
        write(folder / f"{name}.wav", 3000 + 1500 * i, [16000, 8000][i % 2], i)
    return folder


def write(path, n_samples=4000, rate_hz=16000, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(n_samples)
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def run(*args):
    return main([str(arg) for arg in args])


def rows_of(out):
    lines = (out / "results.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def table_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def errors_of(out):
    lines = (out / "errors.jsonl").read_text().splitlines()
    return {row["file"]: row["error"] for row in map(json.loads, lines)}


# ---- what the commands write -----------------------------------------------


def test_classify_writes_what_the_model_says(model, corpus, tmp_path):
    out = tmp_path / "out"
    assert run("classify", corpus, "--model", model, "--out", out) == 0
    rows = {row["file"]: row for row in rows_of(out)}
    assert sorted(rows) == sorted(str(p) for p in corpus.rglob("*.wav"))
    path = str(corpus / "deep" / "d.wav")
    expected = SparseMERIT.from_hparams(source=model).analyze(path)
    told = rows[path]
    assert told["label"] == expected.emotion.label
    assert told["probabilities"] == {
        name: round(p, 4) for name, p in expected.emotion.probabilities.items()
    }
    assert told["duration_s"] == 9000 / 16000
    assert len(told["timeline"]) == 1 and "enhanced" not in told
    assert sorted(p.name for p in out.iterdir()) == [
        "log.jsonl",
        "results.jsonl",
        "settings.json",
    ]


def test_names_that_are_more_than_text(model, tmp_path, capfd, monkeypatch):
    """No formula in tables, no order to the terminal, and it goes on."""
    folder, out = tmp_path / "corpus", tmp_path / "out"
    names = ["=cmd|'C calc'!A0.wav", "'=1.wav", "-5.wav", "a;@b.wav"]
    names += ["\x1b[2J.wav", "a\nfailed: b.wav", "\u202e.wav"]
    for i, name in enumerate(names):
        write(folder / name, 2000, seed=i)
    (folder / "\x1b[31mno.wav").write_text("no sound")
    monkeypatch.chdir(folder)
    (folder / "list.txt").write_text("\n".join(names[:4]))
    given = ["list.txt", *names[4:], "\x1b[31mno.wav", "--model", model]
    for n_done in (len(names), 0):
        command = ["classify", *given, "--out", out, "--format", "csv"]
        assert run(*command) == 1
        said = capfd.readouterr().err
        assert f"{n_done} done, {len(names) - n_done} skipped" in said
        assert r"failed: \u001b[31mno.wav" in said
        assert not set(said) & set("\x1b\u202e")
        for table in ("results.csv", "timeline.csv"):
            shown = [row["file"] for row in table_of(out / table)]
            assert sorted(shown) == sorted(
                [
                    *("'=cmd|'C calc'!A0.wav", "''=1.wav", "'-5.wav"),
                    *("a;'@b.wav", r"\u001b[2J.wav", r"\u202e.wav"),
                    "a\nfailed: b.wav",
                ]
            )
    # What has changed is done again and has one row.
    write(folder / names[0], 3000)
    assert run(*command) == 1 and "1 done, 6" in capfd.readouterr().err
    assert len(table_of(out / "results.csv")) == len(names)
    assert run("classify", *given) == 1
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["file"] for line in lines] == names
    assert not set("".join(lines)) & set("\x1b\u202e")
    assert run("classify", "-", "--\x1b[2J", "--model", model) == 2
    assert r"--\u001b[2J" in capfd.readouterr().err


def test_enhance_keeps_folders_rates_and_lengths(model, corpus, tmp_path):
    out = tmp_path / "out"
    assert run("enhance", corpus, "--model", model, "--out", out) == 0
    for row in rows_of(out):
        assert sorted(row) == [
            "duration_s",
            "enhanced",
            "file",
            "gain",
            "sample_rate_hz",
        ]
    for path in corpus.rglob("*.wav"):
        before = soundfile.info(path)
        after = soundfile.info(out / path.relative_to(corpus))
        assert (after.frames, after.samplerate) == (
            before.frames,
            before.samplerate,
        )
        assert after.subtype == "FLOAT"


def test_analyze_in_tables_with_routing(model, corpus, tmp_path):
    out = tmp_path / "out"
    options = ["--format", "csv", "--segment-seconds", "0.1", "--routing"]
    options += ["--extension", "flac", "--encoding", "pcm16"]
    assert run("analyze", corpus, "--model", model, "--out", out, *options) == 0
    table = table_of(out / "results.csv")
    probabilities = [f"prob_{label}" for label in LABELS]
    assert list(table[0]) == [
        "file",
        "duration_s",
        "sample_rate_hz",
        "label",
        "score",
        *probabilities,
        "enhanced",
        "gain",
    ]
    timeline = table_of(out / "timeline.csv")
    assert list(timeline[0])[:5] == "file start_s end_s label score".split()
    for row in table:
        assert soundfile.info(row["enhanced"]).format == "FLAC"
        total = sum(float(row[p]) for p in probabilities)
        assert total == pytest.approx(1, abs=5e-4)  # of four decimals each
        segments = [s for s in timeline if s["file"] == row["file"]]
        duration_s = float(row["duration_s"])
        assert len(segments) == np.ceil(round(duration_s / 0.1, 6))
        assert float(segments[-1]["end_s"]) == duration_s
    routing = np.load(out / "routing" / "deep" / "er" / "c.npz")
    assert routing["expert_se"].shape == routing["expert_ser"].shape == (18,)
    assert float(routing["frame_s"]) == 0.02


def test_attributes_have_columns_of_their_own(tmp_path):
    results = result_files.CsvResults(tmp_path)
    values = {"attributes": {"arousal": 4.0, "valence": 2.5}}
    segment = {"start_s": 0.0, "end_s": 1.0, **values}
    results.append({"file": "a,\n.wav", **values, "timeline": [segment]})
    assert table_of(tmp_path / "results.csv") == [
        {"file": "a,\n.wav", "arousal": "4.0", "valence": "2.5"}
    ]
    assert table_of(tmp_path / "timeline.csv")[0]["valence"] == "2.5"
    assert results.count_segments() == {"a,\n.wav": 1}


@pytest.mark.parametrize("options", [["--jobs", "3"], ["--jobs", "0"]])
def test_reading_ahead_changes_nothing(model, corpus, tmp_path, options):
    command = ["analyze", corpus, "--model", model]
    rows = []
    for out, more in (("one", []), ("two", options)):
        folder = tmp_path / out
        assert run(*command, "--out", folder, *more) == 0
        rows.append({row["file"]: row for row in rows_of(folder)})
        for row in rows[-1].values():
            row["enhanced"] = soundfile.read(row["enhanced"])[0].tolist()
    assert rows[0] == rows[1]


def test_batches_and_windows(model, corpus, tmp_path):
    command = ["classify", corpus, "--model", model]
    assert run(*command, "--out", tmp_path / "one") == 0
    batched = [*command, "--batch-seconds", "2"]
    assert run(*batched, "--out", tmp_path / "two") == 0
    one, two = (
        {row["file"]: row["score"] for row in rows_of(tmp_path / name)}
        for name in ("one", "two")
    )
    assert one == pytest.approx(two, abs=1e-5)
    cut = ["--chunk-seconds", "0.2", "--context-seconds", "0.1"]
    assert run(*command, *cut, "--out", tmp_path / "three") == 0
    assert {row["file"] for row in rows_of(tmp_path / "three")} == set(one)
    written = json.loads((tmp_path / "three" / "settings.json").read_text())
    assert written["settings"]["chunking_seconds"][:3] == [0.2, 0.1, 0.1]


def test_standard_output_gets_results_alone(model, corpus, capsys):
    files = [corpus / "a.wav", corpus / "b.wav"]
    assert run("classify", *files, "--model", model) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert said.err == "2 done, 0 skipped (done before), 0 failed\n"
    assert run("analyze", *files, "--model", model, "--quiet") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and not said.err


def test_the_help_states_what_the_code_does():
    assert recordings.ENCODINGS == tuple(sinks.ENCODINGS)
    assert recordings.FORMATS == tuple(result_files.FORMATS)
    assert recordings.SEGMENT_SECONDS == SEGMENT_S
    sides = recordings.CONTEXT_SECONDS
    assert RECORDED.encoder == (recordings.CHUNK_SECONDS, sides, sides)


# ---- inputs ----------------------------------------------------------------


def test_mixed_inputs_each_once(model, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (corpus / "my list.txt").write_text(
        "# the best ones\n\n  deep/d.wav  \na.wav\n"
        f"{corpus}/b.wav\ndeep/er\nabsent.wav\n",
        encoding="utf-8-sig",
    )
    inputs = ["./corpus/a.wav", "corpus/my list.txt", corpus / "deep/a.wav"]
    command = ["enhance", *inputs, corpus / "a.wav", "--model", model]
    # deep/a.wav is given by itself, as a.wav is: they would be one file.
    assert run(*command, "--out", "out") == 2
    assert not (tmp_path / "out").exists()
    command.remove(corpus / "deep/a.wav")
    assert run(*command, "--out", "out") == 1
    assert [row["file"] for row in rows_of(tmp_path / "out")] == [
        "./corpus/a.wav",
        "corpus/deep/d.wav",
        f"{corpus}/b.wav",
        "corpus/deep/er/c.wav",
    ]
    assert list(errors_of(tmp_path / "out")) == ["corpus/absent.wav"]
    names = {p.relative_to("out").as_posix() for p in outputs(tmp_path / "out")}
    assert names == {"a.wav", "b.wav", "deep/d.wav", "deep/er/c.wav"}


def outputs(out):
    folder = out.name if not out.is_absolute() else out
    return [p.relative_to(out.parent) for p in folder.rglob("*.wav")]


def test_files_that_differ_in_their_ending_keep_it(model, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("a.wav", "a.wav.wav", "b.wav"):
        write(folder / name)
    for name in ("a.flac", "B.flac"):
        soundfile.write(folder / name, np.zeros(4000), 16000)
    command = ["analyze", folder, "--model", model, "--out", out, "--routing"]
    assert run(*command) == 0
    names = {"a.flac", "a.wav", "a.wav.wav", "b.wav", "B.flac"}
    assert {p.name for p in out.rglob("*.wav")} == {f"{n}.wav" for n in names}
    assert {p.stem for p in out.rglob("*.npz")} == names
    assert run(*command) == 0
    assert "0 done, 5 skipped" in capsys.readouterr().err


def test_clashes_name_both(model, tmp_path, capsys):
    write(tmp_path / "in" / "a.wav")
    write(tmp_path / "b" / "a.wav")
    inputs = [tmp_path / "in", tmp_path / "b"]
    command = ["--model", model, "--out", tmp_path / "out"]
    assert run("enhance", *inputs, *command) == 2
    said = capsys.readouterr().err
    assert "in/a.wav and" in said and "b/a.wav would both be written" in said
    assert not (tmp_path / "out").exists()
    assert run("classify", *inputs, *command) == 0
    out = tmp_path / "routed"
    command = ["--model", model, "--out", out, "--routing"]
    assert run("classify", *inputs, *command) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_lists_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes("# mine\r\nGlück.wav\r\n".encode(encoding))
    (job,) = collect_jobs([str(path)])
    assert job.path == str(tmp_path / "Glück.wav")


@given(names=st.sets(st.sampled_from(["a", "A", "b", "a.wav"]), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_two_recordings_of_a_folder_have_one_output(tmp_path, names):
    shutil.rmtree(tmp_path / "in", ignore_errors=True)
    (tmp_path / "in").mkdir()
    for name in names:
        for ending in (".wav", ".flac", ".WAV"):
            (tmp_path / "in" / f"{name}{ending}").touch()
    jobs = collect_jobs([str(tmp_path / "in")])
    assert len({job.stem for job in jobs}) == len(jobs) == 3 * len(names)


def test_inputs_are_never_written_over(model, corpus, tmp_path, capsys):
    before = (corpus / "a.wav").read_bytes()
    for more in ([], ["--overwrite"]):
        command = ["enhance", corpus, "--model", model, "--out", corpus]
        assert run(*command, *more) == 2
        assert "would be written over the input" in capsys.readouterr().err
    assert (corpus / "a.wav").read_bytes() == before
    assert not (corpus / "settings.json").exists()


def test_overwrite_does_not_remove_what_it_reads(model, tmp_path, capsys):
    write(tmp_path / "a.wav")
    out = tmp_path / "out"
    command = ["enhance", "--model", model, "--out", out]
    assert run(*command, tmp_path / "a.wav") == 0
    command += ["--overwrite", "--extension", "flac", "--encoding", "pcm16"]
    assert run(*command, out / "a.wav") == 2
    assert "--overwrite would remove" in capsys.readouterr().err
    assert (out / "a.wav").exists()


def test_outputs_inside_the_input_folder(model, corpus):
    command = ["enhance", corpus, "--model", model]
    for out in (corpus / "enhanced", corpus / "enhanced"):
        assert run(*command, "--out", out) == 0
        assert len(rows_of(out)) == 5
        assert len(list(out.rglob("*.wav"))) == 5


def test_names_that_are_no_text(model, corpus, tmp_path):
    path = os.fsencode(corpus) + b"/Gl\xfcck.wav"
    try:
        shutil.copy(corpus / "a.wav", path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    out = tmp_path / "out"
    assert run("enhance", corpus, "--model", model, "--out", out) == 1
    assert len(rows_of(out)) == 5
    ((file, error),) = errors_of(out).items()
    assert file.endswith("Gl\\xfcck.wav") and "rename the file" in error


@pytest.mark.parametrize(
    "options, expected",
    [
        (["gone.wav"], "gone.wav: there is no such file"),
        (["."], "no audio file"),
        (["bad.txt"], "bad.txt, line 1: cannot be read as utf-16"),
        (["empty.lst"], "empty.lst: no path in this list"),
        (["a.wav", "--model", "gone"], "gone: expected the folder of a model"),
        (["a.wav", "--model", "."], "hyperparams.yaml: no such file"),
        (["a.wav", "--segment-seconds", "0.001"], "segment_s: expected"),
        (["a.wav", "--segment-seconds", "no"], "expected a number of seconds"),
        (["a.wav", "--context-seconds", "0"], "right_s: expected"),
        (["a.wav", "--extension", "flac"], "FLAC holds no floats"),
        (["a.wav", "--jobs", "-1"], "expected a whole number"),
        (["a.wav", "--format", "csv"], "--format csv: goes with --out"),
        (["a.wav", "--routing"], "--routing: goes with --out"),
        (["a.wav", "--overwrite"], "--overwrite: goes with --out"),
        (["a.wav", "--out", "bad.txt"], "bad.txt: --out: expected a folder"),
        ([], "INPUT"),
    ],
)
def test_what_cannot_start(
    model, tmp_path, monkeypatch, capsys, options, expected
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "here" / "empty.lst").write_text("# nothing\n")
    if options[:1] == ["a.wav"]:
        write(tmp_path / "here" / "a.wav")
    assert run("analyze", "--model", model, *options) == 2
    said = capsys.readouterr()
    assert expected in said.err and not said.out


def test_enhance_needs_a_folder(model, corpus, capsys):
    assert run("enhance", corpus, "--model", model) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


# ---- errors ----------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_others_go_on(model, corpus, tmp_path, capsys, jobs):
    whole = (corpus / "b.wav").read_bytes()
    (corpus / "b.wav").write_bytes(whole[: len(whole) // 2])
    (corpus / "b2.wav").write_text("this is no sound\n")
    nan = np.full(4000, np.nan, np.float32)
    soundfile.write(corpus / "b3.wav", nan, 16000, subtype="FLOAT")
    out = tmp_path / "out"
    command = ["analyze", corpus, "--model", model, "--out", out]
    command += ["--jobs", jobs]
    assert run(*command) == 1
    said = capsys.readouterr().err
    assert "4 done, 0 skipped (done before), 3 failed" in said
    failed = {str(corpus / name) for name in ("b.wav", "b2.wav", "b3.wav")}
    assert set(errors_of(out)) == failed
    for file, error in errors_of(out).items():
        assert f"error: {error}" in said and f"failed: {file}" in said
    assert not failed & {row["file"] for row in rows_of(out)}
    assert not any((out / f"b{i}.wav").exists() for i in ("", 2, 3))

    (corpus / "b.wav").write_bytes(whole)
    assert run(*command) == 1
    said = capsys.readouterr().err
    assert "1 done, 4 skipped (done before), 2 failed" in said
    assert len(errors_of(out)) == 2 and len(rows_of(out)) == 5
    for name in ("b2.wav", "b3.wav"):
        write(corpus / name)
    assert run(*command) == 0
    assert len(rows_of(out)) == 7 and not (out / "errors.jsonl").exists()


def test_files_of_others_stay(model, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_text("mine")
    command = ["enhance", corpus, "--model", model, "--out", out]
    assert run(*command) == 1
    assert (out / "a.wav").read_text() == "mine"
    assert list(errors_of(out)) == [str(corpus / "a.wav")]
    assert run(*command, "--overwrite") == 0
    assert soundfile.info(out / "a.wav").frames == 3000


@pytest.mark.parametrize(
    "name", ["settings.json", "results.jsonl", "log.jsonl"]
)
def test_folders_of_others_stay(model, corpus, tmp_path, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"theme": "dark"}\n')
    for more in ([], ["--overwrite"]):
        command = ["classify", corpus, "--model", model, "--out", out]
        assert run(*command, *more) == 2
        assert "was not written by merit" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == [name]


# ---- stops and restarts ----------------------------------------------------


def test_restart_repeats_nothing(model, corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    command = ["enhance", corpus, "--model", model, "--out", out]
    assert run(*command) == 0
    before = times_of(out)
    monkeypatch.setattr(soundfile, "SoundFile", None)  # nothing is opened
    monkeypatch.setattr(SparseMERIT, "from_hparams", None)  # nor loaded
    monkeypatch.chdir(corpus)
    assert run("enhance", ".", "--model", model, "--out", out) == 0
    said = capsys.readouterr().err
    assert "0 done, 5 skipped (done before), 0 failed" in said
    assert times_of(out) == before


def times_of(out):
    return {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.suffix in (".wav", ".jsonl") and path.name != "log.jsonl"
    }


def test_what_changed_is_done_again(model, corpus, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["enhance", corpus, "--model", model, "--out", out]
    assert run(*command) == 0
    write(corpus / "a.wav", n_samples=5000)
    (out / "b.wav").unlink()
    write(corpus / "new.wav")
    assert run(*command) == 0
    said = capsys.readouterr().err
    assert "3 done, 3 skipped (done before), 0 failed" in said
    files = [row["file"] for row in rows_of(out)]
    assert len(files) == len(set(files)) == 6
    assert soundfile.info(out / "a.wav").frames == 5000


def test_other_settings_are_refused(
    model, other_model, corpus, tmp_path, capsys
):
    out = tmp_path / "out"
    base = ["--model", model, "--out", out]
    assert run("classify", corpus, *base) == 0
    before = (out / "results.jsonl").read_bytes()
    for command, expected in (
        (["enhance", corpus, *base], "command: classify there, enhance here"),
        (["classify", corpus, *base, "--format", "csv"], "format: jsonl there"),
        (
            ["classify", corpus, *base, "--segment-seconds", "1"],
            "segment_seconds: 3.0 there, 1.0 here",
        ),
        (
            ["classify", corpus, "--model", other_model, "--out", out],
            "model_fingerprint: ",
        ),
    ):
        capsys.readouterr()
        assert run(*command) == 2
        said = capsys.readouterr().err
        assert expected in said and "--overwrite" in said
        assert (out / "results.jsonl").read_bytes() == before
    more = ["--jobs", "2", "--batch-seconds", "4", "--device", "cpu"]
    assert run("classify", corpus, *base, *more) == 0
    # The same model elsewhere is the same model.
    moved = shutil.copytree(model, tmp_path / "moved")
    assert run("classify", corpus, "--model", moved, "--out", out) == 0
    assert (out / "results.jsonl").read_bytes() == before


def test_overwrite_removes_its_own_files_only(model, corpus, tmp_path):
    out = tmp_path / "out"
    base = ["--model", model, "--out", out]
    assert run("analyze", corpus, *base, "--routing") == 0
    (out / "notes.txt").write_text("mine")
    (out / "deep" / "mine.wav").write_text("mine")
    more = ["--overwrite", "--format", "csv"]
    assert run("classify", corpus / "a.wav", *base, *more) == 0
    found = {p.relative_to(out).as_posix() for p in out.rglob("*.*")}
    assert found == {
        "notes.txt",
        "deep/mine.wav",
        "settings.json",
        "log.jsonl",
        "results.csv",
        "timeline.csv",
    }


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """Two folders of results, in both formats, and what they depend on."""
    folder = tmp_path_factory.mktemp("finished")
    for i in range(3):
        write(folder / "in" / f"{i}.wav", 8000, seed=i)
    outs = {}
    for form in ("jsonl", "csv"):
        command = ["classify", str(folder / "in"), "--model", model]
        command += ["--format", form, "--segment-seconds", "0.2", "--quiet"]
        outs[form] = folder / form
        assert run(*command, "--out", outs[form]) == 0
        outs[form, "command"] = command
    return SimpleNamespace(folder=folder, outs=outs)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    st.sampled_from(
        [
            ("jsonl", "results.jsonl"),
            ("jsonl", "log.jsonl"),
            ("csv", "results.csv"),
            ("csv", "timeline.csv"),
            ("csv", "log.jsonl"),
        ]
    ),
    st.floats(0, 1),
)
def test_a_file_cut_anywhere_is_mended(finished, what, share):
    form, name = what
    out = finished.folder / "cut"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished.outs[form], out)
    whole = (out / name).read_bytes()
    (out / name).write_bytes(whole[: int(share * len(whole))])
    assert run(*finished.outs[form, "command"], "--out", out) == 0
    for path in finished.outs[form].iterdir():
        if path.name.startswith(("results", "timeline")):
            expected = path.read_text().splitlines()
            assert sorted((out / path.name).read_text().splitlines()) == sorted(
                expected
            )


def start(*args, **options):
    command = [sys.executable, "-m", "merit_modules.commands", *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell lets what it starts in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def wait_for_rows(process, path, n_rows):
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= n_rows:
            return
        time.sleep(0.002)
    pytest.fail(f"no {n_rows} rows came: {process.communicate()}")


@pytest.mark.slow
def test_killed_interrupted_and_finished(model, tmp_path, capsys):
    corpus, out = tmp_path / "in", tmp_path / "out"
    first = write(corpus / "000.wav", 40000)
    for i in range(1, 180):
        shutil.copy(first, corpus / f"{i:03}.wav")
    command = ["analyze", corpus, "--model", model, "--out", out]
    command += ["--batch-seconds", "5"]  # two files: rows come bit by bit
    process = start(*command)
    wait_for_rows(process, out / "results.jsonl", 5)
    process.kill()
    process.communicate()
    done = {}
    for row in JsonRows(out / "log.jsonl"):
        if row["state"] == "done":
            done[row["file"]] = times(out, row)
    n_done = len(done)
    assert 3 < n_done < 180

    process = start(*command, "--jobs", "2")
    wait_for_rows(process, out / "results.jsonl", n_done + 10)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130, said
    assert f"{n_done} skipped (done before)" in said and "Traceback" not in said

    assert run(*command) == 0
    files = [row["file"] for row in rows_of(out)]
    assert len(files) == len(set(files)) == 180
    for row in JsonRows(out / "log.jsonl"):
        if row["file"] in done:
            assert times(out, row) == done[row["file"]]
    left = [p for p in out.rglob(".*") if p.is_file()]
    assert not left and not (out / "errors.jsonl").exists()


def times(out, row):
    return [(out / name).stat().st_mtime_ns for name in row["outputs"]]


def JsonRows(path):
    return result_files.JsonLines(path).read()


# ---- pipes -----------------------------------------------------------------


def streamed_wav(n_samples, n_bytes):
    """A WAV file as it comes through a pipe, of a length not yet known."""
    stream = io.BytesIO()
    samples = 0.1 * np.random.default_rng(3).standard_normal(n_samples)
    soundfile.write(stream, samples, 16000, format="WAV", subtype="PCM_16")
    data = bytearray(stream.getvalue())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = struct.pack("<I", n_bytes)
    return bytes(data)


def feed(monkeypatch, data):
    stdin = SimpleNamespace(buffer=io.BytesIO(data))
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.parametrize("n_bytes", [0xFFFFFFFF, 0x7FFFF024, 0, 2 * 5000])
def test_wav_from_a_pipe(model, tmp_path, monkeypatch, capsysbinary, n_bytes):
    feed(monkeypatch, streamed_wav(5000, n_bytes))
    assert run("enhance", "-", "--model", model) == 0
    sound, rate_hz = soundfile.read(io.BytesIO(capsysbinary.readouterr().out))
    assert (len(sound), rate_hz) == (5000, 16000)
    path = tmp_path / "same.wav"
    path.write_bytes(streamed_wav(5000, 2 * 5000))
    expected = SparseMERIT.from_hparams(source=model).enhance(path).numpy()
    np.testing.assert_allclose(sound, expected, atol=1e-6)


@pytest.mark.parametrize("command", ["analyze", "classify"])
def test_emotion_of_a_pipe(model, tmp_path, monkeypatch, capsys, command):
    out = tmp_path / "out"
    for _ in range(2):  # nobody knows that it is the same again
        feed(monkeypatch, streamed_wav(5000, 0xFFFFFFFF))
        assert run(command, "-", "--model", model, "--out", out) == 0
        said = capsys.readouterr()
        told = json.loads(said.out)
        assert told["file"] == "stdin" and told["label"] in LABELS
        assert rows_of(out) == [told]
        assert "1 done, 0 skipped" in said.err
    assert (out / "stdin.wav").exists() == (command == "analyze")


@pytest.mark.parametrize("data", [b"", b"no sound at all"])
def test_broken_pipes_are_named(model, monkeypatch, capsys, data):
    feed(monkeypatch, data)
    assert run("enhance", "-", "--model", model) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: stdin: ") and not said.out


@pytest.mark.slow
def test_through_real_pipes(model, corpus):
    process = start("enhance", "-", "--model", model, stdin=subprocess.PIPE)
    sound, said = process.communicate(streamed_wav(5000, 0xFFFFFFFF))
    assert process.returncode == 0, said
    assert soundfile.info(io.BytesIO(sound)).frames == 5000
    assert said == b"1 done, 0 skipped (done before), 0 failed\n"


@pytest.mark.slow
def test_a_reader_that_had_enough(model, tmp_path):
    first = write(tmp_path / "000.wav", 1700)
    for i in range(1, 300):  # more rows than a pipe holds
        shutil.copy(first, tmp_path / f"{i:03}.wav")
    process = start("classify", tmp_path, "--model", model)
    assert json.loads(process.stdout.readline())["label"] in LABELS
    process.stdout.close()
    assert not process.stderr.read()
    assert process.wait() == 0


def test_the_help_loads_no_library():
    code = (
        "import sys; from merit_modules.commands.__main__ import main; "
        "main(['--help']); "
        "assert not {'torch', 'numpy', 'speechbrain'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert found.returncode == 0, found.stderr
    assert b"classify" in found.stdout

"""Folds and seeds in one command: what runs, what is skipped, what is said."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from merit_modules.commands import folds
from merit_modules.commands.__main__ import main as merit
from merit_modules.commands.processes import Task, run_tasks
from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.attributes import attribute_scores
from merit_modules.evaluation.metrics.classification import (
    classification_scores,
)
from merit_modules.evaluation.run_folder import read_run
from merit_modules.report.summary import (
    pooled_scores,
    summarise_runs,
    summary_table,
)
from tests.conftest import ROOT

#: A recipe of milliseconds: two conditions, three utterances in each fold.
STUB = """
import json, os, signal, sys, time
from pathlib import Path

words = sys.argv[2:]
options = dict(zip(words[::2], words[1::2]))
folder = Path(options["--output_folder"])
fold, seed = int(options.get("--fold", 0)), int(options["--seed"])
with open(folder / "starts.txt", "a") as stream:
    stream.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {time.time()}\\n")
if options.get("--fail_fold") == str(fold):
    print("error: that fold is broken", file=sys.stderr)
    sys.exit(2)
if options.get("--lazy_fold") == str(fold):
    sys.exit(0)
if "--wait_s" in options:
    if options.get("--stubborn"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (folder / "waiting").write_text(str(os.getpid()))
        time.sleep(float(options["--wait_s"]))
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        sys.exit(130)
header = "utt_id,spk_id,condition,test_set,noise_set,snr_db,noise,noise_type,"
header += "label,prediction,prob_a,prob_b,noisy_stoi,enhanced_stoi\\n"
right = 1 + (fold + seed) % 2
found = ["a,a,0.9,0.1,0.5,0.6", "b,b,0.1,0.9,0.6,0.9"]
found.append(f"b,{'ab'[right - 1]},0.5,0.5,0.7,")
lines = []
conditions = []
for name in ("unseen_0dB", "clean"):
    about = f"s,{name},,,,,"
    lines += [f"u{fold}{i},{about},{x}\\n" for i, x in enumerate(found)]
    (folder / "scores.csv").write_text(header + "".join(lines))
    conditions.append({
        "name": name,
        "ser": {"n": 3, "f1_macro": 0.5 + 0.1 * fold + 0.01 * seed,
                "f1_micro": 0.5, "uar": 0.25 * right, "accuracy": 0.5},
        "se": {"n": 3, "noisy": {"stoi": {"mean": 0.6, "n": 3}},
               "enhanced": {"stoi": {"mean": 0.75, "n": 2, "n_failed": 1}},
               "gain": {"stoi": {"mean": 0.2, "n": 2}}},
        "failures": [{"utt_id": f"u{fold}2", "side": "enhanced",
                      "metric": "stoi", "reason": "silent"}],
    })
    results = {"corpus": "C", "system": "S", "conditions": conditions}
    (folder / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def stub(tmp_path):
    """A recipe's folder with the stub and a YAML file."""
    folder = tmp_path / "recipe"
    (folder / "hparams").mkdir(parents=True)
    (folder / "train.py").write_text(STUB)
    text = "corpus_name: C\nseed: 7\nfold: 0  # of 3\nlr: 1.0\n"
    (folder / "hparams" / "x.yaml").write_text(text)
    return folder


def argv_of(stub, *words, rest=()):
    argv = ["folds", stub / "train.py", "hparams/x.yaml"]
    argv += ["--out", stub / "out"]
    return [str(word) for word in (*argv, *words, "--", *rest)]


def n_starts(stub):
    """How often each run was started."""
    return {
        str(path.parent.relative_to(stub / "out")): len(
            path.read_text().splitlines()
        )
        for path in sorted((stub / "out").rglob("starts.txt"))
    }


def read_summary(stub):
    return json.loads((stub / "out" / "summary.json").read_text())


def test_all_folds_and_seeds_run_once(stub, capsys):
    argv = argv_of(stub, "--folds", "1-2", "--seeds", "1,3")
    assert merit(argv) == 0
    names = {f"fold_{f}/seed_{s}": 1 for f in (1, 2) for s in (1, 3)}
    assert n_starts(stub) == names
    first = capsys.readouterr().out
    assert "fold 2, seed 3: finished after" in first
    assert first.index("fold 2, seed 1:") < first.index("fold 1, seed 3:")
    summary = read_summary(stub)
    assert merit(argv) == 0
    assert n_starts(stub) == names
    assert capsys.readouterr().out.count("finished before") == 4
    assert read_summary(stub) == summary
    longer = argv_of(stub, "--folds", "1-3", "--seeds", "1,3")
    assert merit(longer) == 0
    names |= {"fold_3/seed_1": 1, "fold_3/seed_3": 1}
    assert n_starts(stub) == names
    assert len(read_summary(stub)["runs"]) == 6


def test_the_summary_by_hand(stub, capsys):
    merit(argv_of(stub, "--folds", "1-2", "--seeds", "1,3"))
    summary = read_summary(stub)
    assert [c["name"] for c in summary["conditions"]] == ["unseen_0dB", "clean"]
    clean = summary["conditions"][1]
    # 0.61, 0.63, 0.71, 0.73: mean 0.67, deviations 0.06, 0.04, 0.04, 0.06.
    f1 = clean["ser"]["f1_macro"]
    assert f1["n"] == 4 and f1["mean"] == pytest.approx(0.67)
    assert f1["std"] == pytest.approx((2 * 0.0036 + 2 * 0.0016) ** 0.5 / 3**0.5)
    assert clean["se"]["enhanced"]["stoi"]["mean"] == pytest.approx(0.75)
    assert clean["se"]["gain"]["stoi"]["std"] == 0.0
    assert "accuracy" not in clean["ser"]
    assert clean["n_failed"] == {"enhanced stoi": 4}
    # Of a seed's six utterances two are in the first class; one of the four
    # others is wrong (whichever the fold): recalls 1 and 3 / 4.
    pooled = clean["pooled"]
    assert pooled["n"] == [6, 6]
    assert pooled["ser"]["uar"] == {"mean": 0.875, "std": 0.0, "n": 2}
    assert pooled["confusion"] == [[4, 0], [2, 6]]
    assert pooled["classes"] == ["a", "b"]
    assert pooled["se"]["noisy"]["stoi"]["mean"] == pytest.approx(0.6)
    assert pooled["se"]["enhanced"]["stoi"]["mean"] == pytest.approx(0.75)
    assert pooled["se"]["gain"]["stoi"]["mean"] == pytest.approx(0.2)
    table = (stub / "out" / "summary.md").read_text()
    assert table == summary_table(summary) + "\n"
    assert table.startswith("# S on C\n")
    assert "over 4 runs (folds 1, 2; seeds 1, 3)." in table
    assert "| clean      | 4    | 0.670 ± 0.059 |" in table
    assert "| clean      | 6/6        | 0.829 ± 0.000 |" in table
    assert "- clean: 4 utterances without enhanced stoi" in table
    assert table.rstrip() in capsys.readouterr().out


def test_a_failed_run_is_named_and_the_others_go_on(stub, capsys):
    command = ("--folds", "1-3", "--seeds", "1")
    argv = argv_of(stub, *command, rest=["--fail_fold", "2"])
    assert merit(argv) == 1
    err = capsys.readouterr().err
    assert "failed: fold 2, seed 1: exit code 2: error: that fold is" in err
    log = stub / "out" / "fold_2" / "seed_1" / "run.log"
    assert str(log) in err and "--fold 2" in log.read_text()
    summary = read_summary(stub)
    assert [run["fold"] for run in summary["runs"]] == [1, 3]
    assert "Not finished: fold 2, seed 1: exit" in summary_table(summary)
    assert summary["conditions"][0]["n_runs"] == 2
    # The same command tries that one alone again.
    assert merit(argv) == 1
    starts = {f"fold_{f}/seed_1": 1 for f in (1, 2, 3)}
    assert n_starts(stub) == starts | {"fold_2/seed_1": 2}
    (stub / "train.py").write_text(STUB.replace("--fail_fold", "--no"))
    assert merit(argv) == 0
    assert n_starts(stub)["fold_2/seed_1"] == 3
    assert read_summary(stub)["missing"] == []


def test_all_runs_can_fail(stub, capsys):
    argv = argv_of(stub, "--folds", "2", rest=["--lazy_fold", "2"])
    assert merit(argv) == 1
    err = capsys.readouterr().err
    assert "fold 2, seed 7: it ended without results.json" in err
    assert not (stub / "out" / "summary.json").exists()


def test_half_a_results_file_is_not_finished(stub):
    argv = argv_of(stub, "--folds", "1")
    merit(argv)
    results = stub / "out" / "fold_1" / "seed_7" / "results.json"
    whole = results.read_text()
    results.write_text(whole.replace('"clean"', '"dirty"'))
    assert merit(argv) == 0
    assert n_starts(stub) == {"fold_1/seed_7": 2}
    assert results.read_text() == whole
    record = results.with_name("run.json")
    for text in ("{", "[]", '{"settings": null}'):
        record.write_text(text)
        assert merit(argv) == 0
    assert n_starts(stub) == {"fold_1/seed_7": 5}


def test_other_settings_are_never_mixed(stub, capsys):
    argv = argv_of(stub, "--folds", "1", rest=["--lr", "1", "--device", "cpu"])
    assert merit(argv) == 0
    yaml = stub / "hparams" / "x.yaml"
    before = yaml.read_text()
    yaml.write_text(before + "# a remark\n\n")
    other = argv_of(stub, "--folds", "1", rest=["--num_workers", "3", "--lr=1"])
    assert merit(other) == 0
    assert n_starts(stub) == {"fold_1/seed_7": 1}
    argv = argv_of(stub, "--folds", "1-2", rest=["--lr", "2"])
    assert merit(argv) == 2
    assert "holds a run with other settings (changed: --lr)" in (
        capsys.readouterr().err
    )
    yaml.write_text(before.replace("lr: 1.0", "lr: 3.0"))
    assert merit(other) == 2
    assert "(changed: the YAML file)" in capsys.readouterr().err
    assert n_starts(stub) == {"fold_1/seed_7": 1}


def test_without_folds_and_seeds_the_yaml_decides(stub, monkeypatch):
    monkeypatch.chdir(stub)
    argv = ["folds", "train.py", "x.yaml", "--", "--corpus_name", "D"]
    (stub / "x.yaml").write_text("seed: 4\n")
    assert merit(argv) == 0
    assert (stub / "results/D/folds/x/seed_4/results.json").is_file()
    assert merit([*argv[:3], "--folds", "1"]) == 2


def test_every_gpu_has_one_run_at_a_time(stub):
    argv = argv_of(
        *(stub, "--folds", "1-4", "--gpus", "3,5"), rest=["--wait_s", "0.3"]
    )
    start_s = time.monotonic()
    assert merit(argv) == 0
    assert time.monotonic() - start_s < 4 * 0.3 + 1.5
    used = [
        path.read_text().split() for path in (stub / "out").rglob("starts.txt")
    ]
    assert sorted(gpu for gpu, _ in used) == ["3", "3", "5", "5"]
    for gpu in "35":
        times = sorted(float(t) for g, t in used if g == gpu)
        assert times[1] - times[0] >= 0.3


@pytest.mark.slow
def test_runs_side_by_side(stub):
    argv = argv_of(
        *(stub, "--folds", "1-3", "--parallel", 3), rest=["--wait_s", "1"]
    )
    assert merit(argv) == 0
    times = [
        float(path.read_text().split()[1])
        for path in (stub / "out").rglob("starts.txt")
    ]
    assert max(times) - min(times) < 0.9


def test_runs_side_by_side_share_the_cores(monkeypatch):
    cores = set(range(8))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def slots(n_parallel):
        args = argparse.Namespace(gpus=None, parallel=n_parallel)
        return folds.slots_of(args)

    assert slots(1) == [{}]
    assert slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert slots(9) == [{"OMP_NUM_THREADS": "1"}] * 9
    cores -= {0, 1, 2, 3}  # as a batch system does
    assert slots(2) == [{"OMP_NUM_THREADS": "2"}] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # whoever said so knows
    assert slots(3) == [{}] * 3


@pytest.fixture
def started(stub):
    """The command in a process of its own, its two runs at work."""
    processes = []

    def start(*rest):
        argv = argv_of(
            *(stub, "--folds", "1-3", "--parallel", 2),
            rest=["--wait_s", "60", *rest],
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "merit_modules", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        deadline_s = time.monotonic() + 30
        while len(list((stub / "out").rglob("waiting"))) < 2:
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.05)
        # The file is there before its content.
        time.sleep(0.2)
        paths = sorted((stub / "out").rglob("waiting"))
        return process, [int(path.read_text()) for path in paths]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_children(stub, started, number):
    process, pids = started()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert not any(map(is_alive, pids))
    assert len(list((stub / "out").rglob("interrupted"))) == 2
    assert n_starts(stub) == {f"fold_{f}/seed_7": 1 for f in (1, 2)}
    assert not (stub / "out" / "summary.json").exists()
    # What was interrupted is not finished; the same folders go on.
    (stub / "train.py").write_text(STUB.replace("--wait_s", "--no"))
    argv = argv_of(stub, "--folds", "1-3", rest=["--wait_s", "60"])
    assert merit(argv) == 0
    starts = {f"fold_{f}/seed_7": 2 for f in (1, 2)}
    assert n_starts(stub) == starts | {"fold_3/seed_7": 1}


@pytest.mark.slow
def test_a_second_interrupt_kills(started):
    process, pids = started("--stubborn", "1")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(map(is_alive, pids))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert not any(map(is_alive, pids))


@pytest.mark.slow
def test_a_folder_is_never_used_by_two_runs(stub, started, capsys):
    process, pids = started()
    argv = argv_of(stub, "--folds", "1", rest=["--wait_s", "60"])
    assert merit(argv) == 2
    told = f"process {process.pid} is at work there"
    assert told in capsys.readouterr().err
    # Not even by one whose parent was killed.
    process.kill()
    process.communicate()
    assert merit(argv) == 1
    assert "run.log is in use by another run" in capsys.readouterr().err
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


WRONG = [
    (["--folds", "3-1"], [], "--folds: expected numbers and .* got '3-1'"),
    (["--seeds", "1,x"], [], "--seeds: expected numbers and .* got 'x'"),
    (["--seeds", ""], [], "--seeds: expected numbers"),
    (["--gpus", "0,"], [], "--gpus: expected 0,1 or so, got '0,'"),
    (["--parallel", "0"], [], "--parallel: expected 1 or more, got 0"),
    ([], ["--seed", "1"], "seed differs by run; use --seeds"),
    ([], ["--fold=1"], "fold differs by run; use --folds"),
    ([], ["--output_folder", "x"], "output_folder .* use --out"),
    ([], ["value"], "expected --key value, got 'value'"),
]


@pytest.mark.parametrize("words, rest, message", WRONG)
def test_wrong_commands(stub, capsys, words, rest, message):
    assert merit(argv_of(stub, *words, rest=rest)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (stub / "out").exists()


def test_missing_files(stub, capsys):
    argv = argv_of(stub)
    assert merit([argv[0], str(stub / "no.py"), *argv[2:]]) == 2
    assert "no.py: there is no such script" in capsys.readouterr().err
    assert merit([*argv[:2], "no.yaml", *argv[3:]]) == 2
    assert "no.yaml: there is no such file" in capsys.readouterr().err


def test_commands_can_be_printed_for_others_to_run(stub, capsys):
    argv = argv_of(stub, "--folds", "1-2", "--seeds", "1,3", "--print")
    assert merit(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and not n_starts(stub)
    for line in lines:
        subprocess.run(line, shell=True, check=True)
    started = n_starts(stub)
    assert len(started) == 4
    argv.remove("--print")
    assert merit(argv) == 0
    assert len(read_summary(stub)["runs"]) == 4
    # All are whole now: nothing is left to print.
    capsys.readouterr()
    assert merit([*argv[:5], "--print", *argv[5:]]) == 0
    assert capsys.readouterr().out == ""


# ---- the summary ----------------------------------------------------------


def rows_of(header, *lines):
    return [dict(zip(header.split(","), line.split(","))) for line in lines]


def test_pooling_is_scoring_one_set():
    header = "utt_id,label,prediction,prob_x,prob_y"
    labels, predictions = "xxyyyxy", "xyyyxxy"
    lines = [
        f"{i},{a},{b},," for i, (a, b) in enumerate(zip(labels, predictions))
    ]
    found = pooled_scores(rows_of(header, *lines))
    whole = classification_scores(
        ["xy".index(p) for p in predictions],
        ["xy".index(x) for x in labels],
        ["x", "y"],
    )
    assert found["n"] == 7
    assert found["confusion"] == whole["confusion"]
    for score in ("f1_macro", "f1_micro", "uar"):
        assert found["ser"][score] == whole[score]


def test_pooling_of_attributes_and_of_enhancement_alone():
    header = "utt_id,prediction_act,label_act"
    rows = rows_of(header, "a,1,1.5", "b,2,2.5", "c,4,3")
    whole = attribute_scores([[1], [2], [4]], [[1.5], [2.5], [3]], ["act"])
    found = pooled_scores(rows)
    assert found["ser"] == {k: v for k, v in whole.items() if k != "n"}
    header = "utt_id,label,prediction,noisy_stoi,enhanced_stoi"
    found = pooled_scores(rows_of(header, "a,,,0.5,0.75"))
    assert found["ser"] == {} and "confusion" not in found
    assert found["se"]["gain"] == {"stoi": 0.25}


def test_scores_that_cannot_be_pooled(tmp_path):
    one = rows_of("utt_id,label,pred,z", "a,x,x,1")
    two = rows_of("utt_id,label,pred,y", "a,x,x,1")
    with pytest.raises(InputError, match="the same columns .*'z'.*'y'"):
        pooled_scores(one + two)
    (tmp_path / "results.json").write_text('{"conditions": [{"name": "a"}]}')
    with pytest.raises(InputError, match=r"scores.csv: expected the scores"):
        read_run(tmp_path)
    (tmp_path / "scores.csv").write_text("utt_id,label\n")
    with pytest.raises(InputError, match=r"expected the column 'spk_id', got"):
        read_run(tmp_path)


def test_runs_that_cannot_be_summarised(stub):
    merit(argv_of(stub, "--folds", "1-2"))
    runs = [
        read_run(stub / "out" / f"fold_{fold}" / "seed_7")._replace(
            fold=fold, seed=7
        )
        for fold in (1, 2)
    ]
    with pytest.raises(InputError, match="no finished run"):
        summarise_runs([])
    runs[1].results["system"] = "T"
    with pytest.raises(InputError, match="expected runs of one system, got S"):
        summarise_runs(runs)
    path = runs[0].folder / "results.json"
    for text in ("{", "[]", '{"conditions": []}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"fold_1/seed_7/results.json: "):
            read_run(path.parent)


def test_a_condition_that_some_runs_lack(stub):
    merit(argv_of(stub, "--folds", "1-2"))
    runs = [
        read_run(stub / "out" / f"fold_{fold}" / "seed_7")._replace(
            fold=fold, seed=7
        )
        for fold in (1, 2)
    ]
    del runs[1].results["conditions"][1]
    summary = summarise_runs(runs)
    n_runs = {c["name"]: c["n_runs"] for c in summary["conditions"]}
    assert n_runs == {"unseen_0dB": 2, "clean": 1}
    assert "std" not in summary["conditions"][1]["ser"]["uar"]
    assert summary["conditions"][1]["pooled"]["n"] == [3]


# ---- a real run -----------------------------------------------------------


@pytest.mark.slow
def test_two_seeds_of_a_real_system(tiny_experiment, tmp_path):
    command = [
        *(
            sys.executable,
            *("-m", "merit_modules", "folds"),
            ROOT / "train.py",
        ),
        *(tiny_experiment, "--seeds", "1,2", "--parallel", "2"),
        *("--out", tmp_path / "out", "--", "--noprogressbar"),
        *("--stage_2_epochs", "0", "--metrics", "[si_sdr_db]"),
        *("--measure_cost", "False"),
    ]
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["corpus"], summary["system"]) == ("MiniEmo", "sparse_merit")
    (condition,) = summary["conditions"]
    assert condition["name"] == "unseen_0dB"
    uars = []
    for seed in (1, 2):
        path = tmp_path / "out" / f"seed_{seed}" / "results.json"
        (one,) = json.loads(path.read_text())["conditions"]
        uars.append(one["ser"]["uar"])
    assert condition["ser"]["uar"]["mean"] == pytest.approx(sum(uars) / 2)
    # Without folds, pooled is what each run says.
    pooled = condition["pooled"]
    assert pooled["ser"] == {
        k: pytest.approx(v)
        for k, v in condition["ser"].items()
        if k != "ece_calibrated"  # each run has a temperature of its own
    }
    for side in ("noisy", "enhanced", "gain"):
        assert pooled["se"][side]["si_sdr_db"]["mean"] == pytest.approx(
            condition["se"][side]["si_sdr_db"]["mean"]
        )


def test_what_a_run_said_last_is_text(tmp_path, capfd):
    says = ["sh", "-c", r"printf '\033[2Jno\n'; exit 3"]
    task = Task("bad", says, tmp_path / "log.txt")
    failed = run_tasks([task], [{}], check=lambda task: None)
    assert r"exit code 3: \u001b[2Jno" in failed["bad"]
    assert "\x1b" not in capfd.readouterr().out

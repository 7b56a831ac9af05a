"""Two processes train and test as one, and end as one."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG

from merit_modules.commands.evaluate import evaluate_run
from merit_modules.evaluation.run_folder import read_results
from tests.conftest import ROOT, write_tiny_experiment
from tests.helpers import two_processes
from tests.helpers.training import last_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """What came of training on halves of batches, by process."""
    folder = tmp_path_factory.mktemp("halves")
    paths = str(folder / "store"), folder, str(folder / "found")
    torch.multiprocessing.spawn(two_processes.run, paths, nprocs=2)
    return [
        torch.load(folder / f"found_{rank}.pt", weights_only=False)
        for rank in (0, 1)
    ]


def distance(one, other):
    return max(float((one[k] - other[k]).abs().max()) for k in one)


@pytest.mark.parametrize("case", [*two_processes.CASES, "repeated"])
def test_halves_of_a_batch_train_as_the_whole(halves, tmp_path, case):
    name, which = case, slice(None)
    if case == "repeated":  # the second process's batch counts nowhere
        name, which = "attributes", slice(0, 2)
    whole = two_processes.train(name, which, tmp_path)
    first, second = (found[case] for found in halves)
    assert distance(whole["weights"], first["weights"]) < 1e-6
    assert distance(first["weights"], second["weights"]) == 0.0
    for stats in ("stats_1", "stats_2"):
        assert first[stats] == second[stats]
        assert first[stats] == pytest.approx(whole[stats], abs=1e-6)


def test_the_comparison_can_fail(halves, tmp_path):
    """Without weighing, and experts are idle as is said."""
    whole = two_processes.train("plain", slice(None), tmp_path)
    first, second = (found["control"] for found in halves)
    assert distance(whole["weights"], first["weights"]) > 1e-4
    busy = list(zip(halves[0]["plain"]["busy"], halves[1]["plain"]["busy"]))
    assert ({0}, {0, 1}) in busy and ({0, 1}, {0}) in busy


# ---- the command ----------------------------------------------------------

#: What the second process does after two steps.
MISBEHAVING = """
import os, subprocess, sys
sys.path.insert(0, {root!r})
from merit_modules.errors import InputError
from merit_modules.training import experiment, recipe
from merit_modules.training.brain import JointBrain

what, rank = sys.argv.pop(1), int(os.environ["RANK"])

def in_the_middle(self, *args):
    if rank == 1 and self.optimizer_step == 2 and not hasattr(self, "was"):
        self.was = True
        if what == "fails":
            raise InputError("utt1.wav: expected audio")
        # As torchrun does it: to all that the process started, too.
        subprocess.run(["kill", "-TERM", "--", f"-{{os.getpgid(0)}}"])

JointBrain.on_fit_batch_end = in_the_middle
sys.exit(experiment.as_command(recipe.main))
"""
OPTIONS = [
    *("--noprogressbar", "--device", "cpu", "--distributed_backend", "gloo"),
]


def torchrun(folder, *words, batch_length_s=12):
    """Run a command in two processes, as ``torchrun`` does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", *map(str, words), *OPTIONS]
    command += ["--batch_length_s", str(batch_length_s)]
    if folder is not None:
        command += ["--output_folder", str(folder)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(miniemo, tmp_path_factory):
    """A folder with an experiment and with programs that misbehave."""
    folder = tmp_path_factory.mktemp("ranks")
    write_tiny_experiment(folder / "tiny.yaml", miniemo)
    (folder / "do.py").write_text(MISBEHAVING.format(root=str(ROOT)))
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """The folder of a run in two processes."""
    done = torchrun(folder / "whole", "train.py", folder / "tiny.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "whole"


def scores_of(run):
    (found,) = read_results(run)["conditions"]
    del found["seconds"]
    return found, (run / "scores.csv").read_text()


def test_two_processes_train_and_test(trained, tmp_path, capsys):
    """And give what one gives, or two of which one has nothing to test."""
    log = (trained / "train_log.txt").read_text().splitlines()
    assert [line[:8] for line in log] == ["epoch: 1", "epoch: 2"]
    expected, rows = scores_of(trained)
    assert expected["ser"]["n"] == len(rows.splitlines()) - 1 == 12
    routing = expected.pop("routing")
    for name in ("alone", "idle"):
        run = tmp_path / name
        shutil.copytree(trained, run)
        for path in ("results.json", "scores.csv", "routing", "mixtures"):
            path = run / path
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    evaluate_run([str(tmp_path / "alone"), "--device", "cpu"])
    merit = ("-m", "merit_modules.commands", "evaluate", tmp_path / "idle")
    done = torchrun(None, *merit, batch_length_s=1000)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("alone", "idle"):
        found, text = scores_of(tmp_path / name)
        used = found.pop("routing")
        if name == "alone":  # in the same batches
            assert (found, text) == (expected, rows)
            assert used == pytest.approx(routing, abs=1e-6)
        assert used["se_load_0"] == pytest.approx(routing["se_load_0"])
        assert found["ser"]["confusion"] == expected["ser"]["confusion"]
        mixtures = tmp_path / name / "mixtures" / "unseen_0dB.csv"
        whole = trained / "mixtures" / "unseen_0dB.csv"
        assert mixtures.read_text() == whole.read_text()


def test_sigterm_to_one_saves_and_ends_all(folder, trained):
    words = folder / "do.py", "ends", folder / "tiny.yaml"
    done = torchrun(folder / "ended", *words, "--num_workers", "1")
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1
    # torchrun's own signal may meet the second one while it cleans up.
    codes = re.findall(r"exitcode  : (-?\d+)", done.stderr)
    assert set(codes) <= {"143", "-15"} and "143" in codes, done.stderr
    assert done.stderr.count("ended by SIGTERM; the same command goes on") == 1
    last = last_checkpoint(folder / "ended")
    assert INTRA_EPOCH_CKPT_FLAG in (last / "CKPT.yaml").read_text()
    done = torchrun(folder / "ended", "train.py", folder / "tiny.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    whole, ended = (
        torch.load(last_checkpoint(run) / "system.ckpt", weights_only=True)
        for run in (trained, folder / "ended")
    )
    assert distance(whole, ended) == 0.0
    logs = [run / "train_log.txt" for run in (trained, folder / "ended")]
    assert logs[0].read_text() == logs[1].read_text()


def test_the_error_of_one_ends_all_and_is_told_once(folder):
    words = folder / "do.py", "fails", folder / "tiny.yaml"
    done = torchrun(folder / "failed", *words)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert output.count("error: utt1.wav: expected audio") == 1
    assert output.count("Traceback") == 1, output[-3000:]  # torchrun's own
    assert "exitcode  : 2 " in output


ALARM = """
import sys, time
from merit_modules.training import alarm
alarm.GRACE_S = 0.5
with alarm.Alarm() as a:
    if sys.argv[1] == "1":
        assert a.is_first() and not a.is_first()
    else:
        time.sleep(60)  # waits for the other, in a call that never ends
"""


def test_who_waits_for_one_that_failed_is_ended():
    store = dist.TCPStore("localhost", 0, is_master=True)
    start_s = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ALARM, rank],
            env={
                **os.environ,
                **{"RANK": rank, "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)},
                **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)},
            },
            start_new_session=True,
        )
        for rank in "01"
    ]
    assert [p.wait(timeout=50) for p in processes] == [-signal.SIGKILL, 0]
    assert time.monotonic() - start_s < 50

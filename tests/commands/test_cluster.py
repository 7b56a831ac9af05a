"""The scripts of docs/cluster.md, with stand-ins for what a cluster has."""

import os
import signal
import subprocess
import time

import pytest

from tests.helpers.pages import blocks

#: scancel signals the step, not the script; torchrun saves, then ends with 1.
PROGRAMS = {
    "srun": 'exec "$@"',
    "scancel": "echo $* > scancel.txt; kill -TERM $(cat pid.txt)",
    "scontrol": '[ $1 = show ] && echo "node1\nnode2" || echo $* > queue.txt',
    "torchrun": "echo $* > torchrun.txt; echo $$ > new.txt; mv new.txt pid.txt;"
    "[ -n \"$FAST\" ] && exit 0; trap 'sleep 0.2; touch saved; exit 1' TERM;"
    "sleep 30 & wait",
}


@pytest.fixture
def start(tmp_path):
    """Start a script of the page."""
    train, array = blocks("docs/cluster.md", "sh")
    (tmp_path / "train.sh").write_text(train)
    (tmp_path / "array.sh").write_text(array)
    (tmp_path / "bin").mkdir()
    for name, code in PROGRAMS.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{code}\n")
        path.chmod(0o755)

    def start_it(script, **environment):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, **environment},
        )

    return start_it


NODES = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"},
    **{"SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"},
}


def test_the_script_saves_and_queues_again(start, tmp_path):
    script = start("train.sh", **NODES)
    deadline_s = time.monotonic() + 20
    while not (tmp_path / "pid.txt").is_file():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    script.send_signal(signal.SIGUSR1)
    assert script.wait(timeout=20) > 0
    assert (tmp_path / "saved").is_file()
    assert (tmp_path / "scancel.txt").read_text() == "--signal=TERM 7\n"
    assert (tmp_path / "queue.txt").read_text() == "requeue 7\n"
    options = (tmp_path / "torchrun.txt").read_text()
    assert "--nnodes 2 --nproc_per_node 4 " in options
    assert "--rdzv_endpoint node1:29500 train.py" in options


def test_the_script_ends_when_all_is_done(start, tmp_path):
    assert start("train.sh", FAST="yes", **NODES).wait(timeout=20) == 0
    assert not (tmp_path / "queue.txt").exists()


@pytest.mark.parametrize("code", [0, 2, 143])
def test_the_job_array_runs_its_line(start, tmp_path, code):
    lines = [
        "false",
        f"sh -c 'echo ran > \"$1\"; exit {code}' - 'a b'",
        "false",
    ]
    (tmp_path / "commands.txt").write_text("\n".join(lines) + "\n")
    task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
    assert start("array.sh", **task).wait(timeout=20) == code
    assert (tmp_path / "a b").read_text() == "ran\n"
    queue = tmp_path / "queue.txt"
    assert queue.exists() == (code == 143)
    if code == 143:
        assert queue.read_text() == "requeue 5_2\n"

"""Two commands on one folder: one works, the other says who does."""

import os
import signal
import subprocess
import sys

import pytest

from merit_modules.commands.__main__ import main
from merit_modules.data.state import hold
from merit_modules.errors import InputError
from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT
from tests.helpers.exported import write_results, write_run
from tests.helpers.releases import (
    head_tensors,
    mmoe_tensors,
    wavlm_tensors,
    write_model,
)

HOLDER = """
import sys, time
from merit_modules.data.state import hold
hold(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process, folder
    process.kill()
    process.wait()


def test_who_holds_a_folder_is_told(holder):
    process, folder = holder
    with pytest.raises(InputError, match=f"{folder}: process {process.pid} is"):
        hold(folder)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_process_holds_nothing(holder, how):
    process, folder = holder
    os.kill(process.pid, how)
    process.wait()
    hold(folder)
    hold(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        hold(tmp_path / "run")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("no folder")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(InputError, match="run.*cannot be written"):
            hold(folder)


def test_a_job_says_so_and_touches_nothing(holder, tmp_path):
    _, folder = holder
    before = sorted(path.name for path in folder.iterdir())
    save_folder(tiny_system(), tmp_path / "model", list("abcd"))
    (tmp_path / "a.wav").write_bytes(b"")
    words = ["analyze", str(tmp_path / "a.wav"), "--out", str(folder)]
    assert main([*words, "--model", str(tmp_path / "model")]) == 2
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nobody trained, and a release."""
    place = tmp_path_factory.mktemp("finished")
    write_run(place / "run")
    write_results(place / "run")
    rest = mmoe_tensors(), head_tensors()
    write_model(place / "release", wavlm_tensors(), *rest)
    return place


@pytest.mark.parametrize(
    "words",
    [
        "train sparse_merit --output_folder {held}",
        "evaluate {held}",
        "export {run} {held}",
        "report {run} --out {held}",
        "convert {release} {held} --labels a b",
    ],
)
def test_every_command_says_who_is_at_work(
    words, holder, finished, capsys, caplog
):
    process, held = holder
    before = sorted(held.rglob("*"))
    places = {name: finished / name for name in ("run", "release")}
    words = words.format(held=held, **places).split()
    assert main(words) == 2
    told = "".join(capsys.readouterr()) + caplog.text
    assert f"{held}: process {process.pid} is at work there" in told
    # Loading YAML makes SpeechBrain's folders and an empty board, no state.
    left = [path for path in held.rglob("*") if path.is_file()]
    assert [p for p in left if "tfevents" not in p.name] == before


def test_folds_say_so_too(holder, capsys):
    process, held = holder
    words = ["folds", str(ROOT / "train.py"), "hparams/sparse_merit.yaml"]
    assert main([*words, "--seeds", "1", "--out", str(held)]) == 2
    assert f"process {process.pid} is at work" in capsys.readouterr().err


def test_a_command_lets_go_at_its_end(finished, tmp_path):
    words = ["export", str(finished / "run"), str(tmp_path / "model")]
    assert main(words) == 0
    for folder in (tmp_path / "model", finished / "run"):
        done = subprocess.run([sys.executable, "-c", ONCE, folder])
        assert done.returncode == 0


ONCE = (
    "import sys; from merit_modules.data.state import hold; hold(sys.argv[1])"
)

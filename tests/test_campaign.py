"""Kills at any write, damage in any file: resumed, repaired or named.

A few cases in the whole suite; ``MERIT_CAMPAIGN=10`` tries ten times as many.
"""

import errno
import io
import json
import os
import random
import re
import shutil

import pytest
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.evaluation.run_folder import read_results
from merit_modules.export import export_run
from tests.conftest import ROOT, write_tiny_experiment
from tests.helpers import forking
from tests.helpers.training import last_checkpoint, run_train

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("MERIT_CAMPAIGN", 1))

#: Counts what is written below a folder; at the n-th time the process is
#: killed, or the system refuses.
COUNTER = """
import os, signal, sys
folder, last, why, counts, code = sys.argv[1:6]
sys.argv = sys.argv[5:]
n, me = 0, os.getpid()

def watch(event, args):
    global n
    if os.getpid() != me:
        return
    if event == "open":
        path, mode, flags = args
        writes = isinstance(mode, str) and set(mode) & set("wax+")
    elif event in ("os.rename", "os.remove", "os.mkdir", "shutil.rmtree"):
        path, writes = args[0], True
    else:
        return
    if writes and str(path).startswith(folder):
        n += 1
        if n == int(last) and why == "kill":
            os.kill(me, signal.SIGKILL)
        if n >= int(last) > 0:
            raise OSError(int(why), os.strerror(int(why)), str(path))

sys.addaudithook(watch)
sys.path.insert(0, {root!r})
exec(code)
total, me = n, 0
with open(counts, "w") as stream:
    stream.write(str(total))
sys.exit(code)
"""
TRAIN = (
    "from merit_modules.training import recipe; "
    "from merit_modules.training.experiment import as_command; "
    "sys.modules['__main__'].__doc__ = ''; code = as_command(recipe.main)"
)
MERIT = (
    "from merit_modules.commands.__main__ import main; "
    "code = main(sys.argv[1:])"
)


def watched(folder, code, words, counts, die_at=0, why="kill"):
    program = COUNTER.format(root=str(ROOT))
    where = [folder, die_at, why, counts, code]
    return forking.run(["-c", program, *where, *words])


def places(n, number):
    """Numbers of write events to die at, ``number`` of ``n`` or more."""
    every = list(range(1, n + 1))
    return sorted(random.Random(n).sample(every, min(number * TIMES, n)))


@pytest.fixture(scope="module")
def trained(miniemo, tmp_path_factory):
    """A finished run: its YAML file and its folder."""
    place = tmp_path_factory.mktemp("campaign")
    path = write_tiny_experiment(place / "tiny.yaml", miniemo)
    done = run_train(path, place / "run")
    assert done.returncode == 0, done.stderr
    return path, place / "run"


@pytest.fixture(scope="module")
def model(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_run(trained[1], folder)
    return folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    for name in ("a.wav", "b.wav"):
        wav = 0.1 * torch.randn(16000)
        soundfile.write(path.with_name(name), wav.numpy(), 16000)
    return path


def state_of(folder):
    """What two runs must agree in, bit for bit."""
    weights = {}
    for name in ("system", "optimizer"):
        path = last_checkpoint(folder) / f"{name}.ckpt"
        weights[name] = torch.load(path, weights_only=True)
    results = read_results(folder)
    for entry in results["conditions"]:
        entry.pop("seconds")
    return weights, results["conditions"], (folder / "scores.csv").read_text()


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same(one[key], other[key]) for key in one
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_run_killed_at_any_write_ends_the_same(trained, tmp_path):
    path, whole = trained
    expected, counts = state_of(whole), tmp_path / "n"
    words = [path, "--noprogressbar", "--output_folder"]
    done = watched(tmp_path, TRAIN, [*words, tmp_path / "count"], counts)
    assert done.returncode == 0, done.stderr
    assert same(state_of(tmp_path / "count"), expected)
    n = int(counts.read_text())
    assert n > 50
    for k in places(n, 2):
        run = tmp_path / f"at_{k}"
        killed = watched(tmp_path, TRAIN, [*words, run], counts, k)
        assert killed.returncode == -9, (k, killed.stderr)
        resumed = run_train(path, run)
        assert resumed.returncode == 0, (k, resumed.stdout, resumed.stderr)
        assert same(state_of(run), expected), k
        shutil.rmtree(run)


def folder_bytes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def job_rows(folder):
    rows = (folder / "results.jsonl").read_text().splitlines()
    return sorted(rows)


COMMANDS = {
    "evaluate": lambda run, model, wav, out: (
        ["evaluate", out / "run", "--test_snrs_db", "[0, 5]"]
    ),
    "export": lambda run, model, wav, out: ["export", run, out / "model"],
    "classify": lambda run, model, wav, out: (
        ["classify", wav, wav.with_name("b.wav"), "--model", model]
        + ["--out", out / "rows"]
    ),
    "enhance": lambda run, model, wav, out: (
        ["enhance", wav, "--model", model, "--out", out / "wavs"]
    ),
    "report": lambda run, model, wav, out: (
        ["report", run, "--out", out / "report"]
    ),
}


def outcome(command, out):
    """What a command leaves behind, as far as it is always the same."""
    if command == "classify":
        return job_rows(out / "rows")
    if command == "evaluate":
        return state_of(out / "run")[1:]
    folder = {"export": "model", "enhance": "wavs", "report": "report"}
    found = folder_bytes(out / folder[command])
    here = str(out).encode()
    compared = {
        k: v.replace(here, b"OUT")
        for k, v in found.items()
        if k.endswith(COMPARED)
    }
    for name in [name for name in compared if name.endswith(".wav")]:
        # Beside the samples, libsndfile writes the time.
        wav, _ = soundfile.read(io.BytesIO(found[name]))
        compared[name] = wav.tobytes()
    return compared


#: Files without times and names of folders in them.
COMPARED = (".safetensors", ".wav", "results.jsonl", ".csv", ".tex", ".yaml")


SOME = sorted(COMMANDS) if TIMES > 1 else ["classify", "evaluate", "export"]


@pytest.fixture(scope="module", params=SOME)
def command(request, trained, model, recording, tmp_path_factory):
    """A command that worked: its name, how to run it, what it left."""
    name, place = request.param, tmp_path_factory.mktemp(request.param)
    counts = place / "n"

    def run(out, *how):
        if name == "evaluate" and not (out / "run").exists():
            shutil.copytree(trained[1], out / "run")
        words = COMMANDS[name](trained[1], model, recording, out)
        return watched(out, MERIT, words, counts, *how)

    whole = place / "whole"
    whole.mkdir()
    done = run(whole)
    assert done.returncode == 0, done.stderr
    n = int(counts.read_text())
    assert n > 2
    return name, run, outcome(name, whole), n


def test_a_command_killed_at_any_write_goes_on(command, tmp_path):
    name, run, expected, n = command
    for k in places(n, 1):
        out = tmp_path / f"at_{k}"
        out.mkdir()
        assert run(out, k).returncode == -9
        again = run(out)
        assert again.returncode == 0, (k, again.stderr)
        assert same(outcome(name, out), expected), k


def test_what_cannot_be_written_is_one_message(command, tmp_path):
    name, run, expected, n = command
    reasons = (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT)
    cases = [(k, why) for k in range(1, n + 1) for why in reasons]
    cases = random.Random(name).sample(cases, min(TIMES, len(cases)))
    for k, why in cases:
        out = tmp_path / f"at_{k}_{why}"
        out.mkdir()
        refused = run(out, k, why)
        shown = refused.stdout + refused.stderr
        assert refused.returncode in (1, 2), (k, why, shown)
        assert "Traceback" not in shown, (k, why, shown)
        assert str(out) in shown, (k, why, shown)
        again = run(out)
        assert again.returncode == 0, (k, why, again.stderr)
        assert same(outcome(name, out), expected), (k, why)


def test_a_training_that_cannot_write_says_so(trained, tmp_path):
    path, whole = trained
    expected, counts = state_of(whole), tmp_path / "n"
    words = [path, "--noprogressbar", "--output_folder"]
    watched(tmp_path, TRAIN, [*words, tmp_path / "count"], counts)
    n = int(counts.read_text())
    for k in places(n, 1):
        run = tmp_path / f"at_{k}"
        refused = watched(
            tmp_path, TRAIN, [*words, run], counts, k, errno.ENOSPC
        )
        shown = refused.stdout + refused.stderr
        assert refused.returncode == 2, (k, shown)
        assert "Traceback" not in shown, (k, shown)
        assert "disk" in shown or str(run) in shown, (k, shown)
        resumed = run_train(path, run)
        assert resumed.returncode == 0, (k, resumed.stdout, resumed.stderr)
        assert same(state_of(run), expected), k


def flip(content, rng):
    content = bytearray(content)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def cut(content, rng):
    return content[: rng.randrange(len(content))]


#: What no command reads back: logs, pictures, sound, tables for people.
UNREAD = re.compile(
    r"log\.txt|env\.log|train\.py|.*tfevents.*|.*\.wav|results\.md|tensorboard"
    r"|README\.md|custom\.py|mixtures/.*|\w+\.npz"
    r"|gradient_conflict\.json|train_log\.txt"
)


def damages(folder, number, unread=UNREAD):
    files = [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not unread.fullmatch(path.name)
        and not unread.fullmatch(path.relative_to(folder).as_posix())
    ]
    cases = [(name, how) for name in files for how in (flip, cut)]
    return random.Random(1).sample(cases, min(number * TIMES, len(cases)))


def check_told(case, words, clean, screen, outcome):
    """Run a command on a damaged folder: the file is named, or no matter."""
    capfd, caplog = screen
    caplog.clear()
    capfd.readouterr()
    code = main([str(word) for word in words])
    shown = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in shown, (case, words[0], shown)
    # A manifest is told by the name that it has in settings: valid.
    is_told = case[0].stem in shown or case[0].parent.name in shown
    if code:
        assert code in (1, 2) and is_told, (case, words[0], shown)
    elif not is_told:
        assert outcome() == clean, (case, words[0], shown)


def test_damage_in_a_run_is_named_or_repaired(trained, tmp_path, capfd, caplog):
    screen = capfd, caplog
    rng, run, model = random.Random(2), tmp_path / "run", tmp_path / "model"
    clean_export = tmp_path / "clean"
    export_run(trained[1], clean_export)
    weights = (clean_export / "model.safetensors").read_bytes()
    scores = (trained[1] / "scores.csv").read_text()
    for case in damages(trained[1], 16):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained[1], run)
        content = (run / case[0]).read_bytes()
        if not content:
            continue
        (run / case[0]).write_bytes(case[1](content, rng))
        shutil.rmtree(model, ignore_errors=True)
        check_told(
            case,
            ["export", run, model],
            weights,
            screen,
            lambda: (model / "model.safetensors").read_bytes(),
        )
        out = tmp_path / "report"
        if TIMES > 1 or case[0].name in ("results.json", "scores.csv"):
            words = ["report", run, "--out", out]
            check_told(case, words, 0, screen, lambda: 0)
        check_told(
            case,
            ["evaluate", run],
            scores,
            screen,
            lambda: (run / "scores.csv").read_text(),
        )


def test_damage_in_a_model_is_named(model, recording, tmp_path, capfd, caplog):
    rng, copy = random.Random(3), tmp_path / "model"
    capfd.readouterr()
    words = ["classify", recording, "--model", copy]
    shutil.copytree(model, copy)
    assert main([str(word) for word in words]) == 0
    clean = json.loads(capfd.readouterr().out)
    for case in damages(model, 6) * 3:
        shutil.rmtree(copy)
        shutil.copytree(model, copy)
        content = (copy / case[0]).read_bytes()
        (copy / case[0]).write_bytes(case[1](content, rng))
        caplog.clear()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        err += caplog.text
        assert "Traceback" not in err, (case, err)
        if code:
            assert code == 2 and case[0].name in err, (case, err)
        elif case[0].name not in err:
            assert json.loads(out) == clean, (case, err)

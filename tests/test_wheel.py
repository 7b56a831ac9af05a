"""Whoever has only the wheel can train, evaluate, export and use a model."""

import json
import os
import subprocess
import sys
import sysconfig

import pytest

import merit_modules
from tests.conftest import ROOT
from tests.helpers.training import SHORT

pytestmark = pytest.mark.slow

OUTSIDE = """
import sys, merit_modules, torch
from merit_modules import SparseMERIT
assert merit_modules.__file__.startswith({venv!r}), merit_modules.__file__
model = SparseMERIT.from_hparams(source="MODEL")
print(model.analyze(torch.randn(8000)).emotion.label in model.labels)
"""


def run(*command, cwd):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """A fresh environment: the wheel, and dependencies as they are here."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    # From what git tracks: what lies about here must not get into it.
    source = folder / "source"
    source.mkdir()
    files = run("git", "ls-files", cwd=ROOT).splitlines()
    wanted = ("merit_modules/", "hparams/", "pyproject", "setup.py")
    for name in (*files, "README.md", "LICENSE"):
        if name.startswith((*wanted, "README.md", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = ("wheel", "--no-deps", "--no-build-isolation", "-w", folder)
    run(*pip, *build, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 12e6
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder)
    (packages,) = venv.glob("lib/python3*/site-packages")
    # A path alone: no .pth file there is read, so the clone is not found.
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(paths)))
    install = ("install", "--no-deps", "--no-index", wheel)
    run(*pip, "--python", venv / "bin/python", *install, cwd=folder)
    return venv


def test_the_wheel_alone_is_enough(venv, miniemo, tmp_path):
    merit = venv / "bin" / "merit"
    shown = run(merit, "--version", cwd=tmp_path)
    assert shown == f"merit {merit_modules.__version__}\n"
    short = SHORT | {"data_folder": miniemo, "output_folder": "run"}
    options = []
    for key, value in short.items():
        text = (
            value if isinstance(value, str) else json.dumps(value, default=str)
        )
        options += [f"--{key}", text.strip('"')]
    shown = run(merit, "train", "sparse_merit", *options, cwd=tmp_path)
    assert "unseen_0dB" in shown
    assert (tmp_path / "run" / "results.json").is_file()
    shown = run(merit, "evaluate", "run", "--test_snrs_db", "[5]", cwd=tmp_path)
    assert "unseen_5dB" in shown
    run(merit, "export", "run", "MODEL", cwd=tmp_path)
    code = OUTSIDE.format(venv=str(venv))
    assert run(venv / "bin/python", "-c", code, cwd=tmp_path) == "True\n"

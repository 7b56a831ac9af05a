"""The command behind README's first picture and sounds."""

import re

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT
from tests.helpers.pages import PAGES, commands, run

ROW = r"\| \[noisy\].*, \[enhanced\].* \| (\w+) \| (-?[\d.]+) -> .* \|"
FILES = {f"{n}_{side}.wav" for n in "123" for side in ("noisy", "enhanced")}


@pytest.mark.slow
def test_the_command(miniemo, tmp_path):
    """Three pairs, a picture and a table with them."""
    labels = ["angry", "sad", "happy", "neutral"]
    save_folder(tiny_system(), tmp_path / "model", labels)
    (command,) = [c for c in commands("CONTRIBUTING.md") if "first_look" in c]
    command = command.replace("MODEL_DIR", str(tmp_path / "model"))
    command = command.replace("--out docs/first_look", f"--out {tmp_path}/out")
    command += f" --data_folder {miniemo} --n_sentences 1"
    done = run(command, ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == FILES | {"first_look.png"}
    rows = [re.fullmatch(ROW, x) for x in done.stdout.splitlines()[2:]]
    assert len(rows) == 3 and all(rows), done.stdout
    for number, row in enumerate(rows, 1):
        noisy, enhanced = (
            soundfile.read(out / f"{number}_{side}.wav")
            for side in ("noisy", "enhanced")
        )
        assert noisy[1] == enhanced[1] == 16000
        assert len(noisy[0]) == len(enhanced[0]) > 8000
        assert not np.array_equal(noisy[0], enhanced[0])
        assert abs(float(row[2])) < 0.5  # mixed at 0 dB
    assert 990 <= imread(out / "first_look.png").shape[1] <= 1010


def test_what_is_shipped_is_small():
    """And all of it is in the README."""
    folder = ROOT / "docs" / "first_look"
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(files) == FILES | {"first_look.png"}
    assert files.pop("first_look.png") <= 150_000
    assert sum(files.values()) <= 600_000
    for path in folder.iterdir():
        assert f"docs/first_look/{path.name})" in PAGES["README.md"]

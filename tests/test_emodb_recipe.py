"""The EMO-DB recipe's documented command, on a tree of its form."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT

RECIPE = ROOT / "recipes" / "EMODB" / "joint_se_ser"
SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")


@pytest.fixture
def tree(tmp_path):
    """Every speaker in four emotions, synthetic; six noise files."""
    rng = np.random.default_rng(0)
    (tmp_path / "emodb" / "wav").mkdir(parents=True)
    for speaker in SPEAKERS:
        for letter in "WTFN":
            path = tmp_path / "emodb" / "wav" / f"{speaker}a01{letter}a.wav"
            tone = np.sin(np.arange(12000) * rng.uniform(0.05, 0.2))
            soundfile.write(path, 0.1 * tone, 16000)
    (tmp_path / "noise").mkdir()
    for number in range(6):
        path = tmp_path / "noise" / f"n{number}.wav"
        soundfile.write(path, 0.1 * rng.normal(size=20000), 20000)
    return tmp_path


def test_the_documented_command_runs(tree):
    command = [
        *(sys.executable, "train.py", "hparams/sparse_merit.yaml"),
        *("--data_folder", tree / "emodb", "--noise_folder", tree / "noise"),
        *("--output_folder", tree / "run", "--noprogressbar"),
        *("--stage_1_epochs", 1, "--stage_2_epochs", 1, "--num_workers", 0),
        *("--metrics", "[si_sdr_db]", "--test_snrs_db", "[0]"),
    ]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=RECIPE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tree / "run" / "results.json").read_text())
    assert [c["name"] for c in results["conditions"]] == ["unseen_0dB", "clean"]
    assert results["conditions"][0]["ser"]["n"] == 8


def test_a_missing_placeholder_is_named(tmp_path):
    done = subprocess.run(
        [sys.executable, "train.py", "hparams/sparse_merit.yaml"],
        cwd=RECIPE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "needs a value: add --data_folder VALUE" in done.stderr
    assert "Traceback" not in done.stderr

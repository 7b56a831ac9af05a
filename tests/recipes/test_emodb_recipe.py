"""The EMO-DB recipe's documented command, on a tree of its form."""

import json
import re

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.helpers import forking
from tests.helpers.experiments import SYSTEMS
from tests.helpers.pages import commands, run

pytestmark = pytest.mark.slow

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
        *("train.py", "hparams/sparse_merit.yaml"),
        *("--data_folder", tree / "emodb", "--noise_folder", tree / "noise"),
        *("--output_folder", tree / "run", "--noprogressbar"),
        *("--stage_1_epochs", 1, "--stage_2_epochs", 1, "--num_workers", 0),
        *("--metrics", "[si_sdr_db]", "--test_snrs_db", "[0]"),
        *("--measure_cost", False),
    ]
    done = forking.run(command, RECIPE)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tree / "run" / "results.json").read_text())
    assert [c["name"] for c in results["conditions"]] == ["unseen_0dB", "clean"]
    assert results["conditions"][0]["ser"]["n"] == 8


def test_the_documented_study_runs(tree):
    """From training to the report, short, with three of its systems."""
    printed = commands("recipes/EMODB/joint_se_ser/README.md")
    (script,) = [command for command in printed if "for fold in" in command]
    (systems,) = re.findall(r'systems="(.*?)"', script, re.S)
    study = (ROOT / "docs" / "study_emodb.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `(\w+)` \|", study, re.M))
    assert {*systems.split(), "sparse_merit_reference"} == shown
    assert set(systems.split()) <= SYSTEMS
    changes = {
        systems: "naive_mtl sparse_merit",
        "0 1 2": "1",
        "1 2;": "2;",
        "/corpora/EMO-DB": str(tree / "emodb"),
        "/corpora/noise": str(tree / "noise"),
        "--stage_2_epochs 12": "--stage_1_epochs 1 --stage_2_epochs 0 "
        "--num_workers 0 --measure_cost False --test_snrs_db [0] "
        "--num_metric_workers 0 --noprogressbar",
        "results/study": str(tree / "study"),
    }
    for old, new in changes.items():
        assert old in script
        script = script.replace(old, new)
    done = run(script, RECIPE)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tree / "study_report" / "report.json").read_text())
    assert report["columns"] == ["unseen_0dB", "clean"]
    systems = {"naive_mtl", "sparse_merit", "sparse_merit_reference"}
    assert set(report["scores"]["f1_macro"]) == systems
    cell = report["scores"]["f1_macro"]["sparse_merit"]["unseen_0dB"]
    assert cell["n"] == 8 and "p_holm" in cell
    assert set(report["scores"]) >= {"pesq_wb", "stoi", "si_sdr_db"}


def test_a_missing_placeholder_is_named(tmp_path):
    done = forking.run(["train.py", "hparams/sparse_merit.yaml"], RECIPE)
    assert done.returncode == 2
    assert "needs a value: add --data_folder VALUE" in done.stderr
    assert "Traceback" not in done.stderr

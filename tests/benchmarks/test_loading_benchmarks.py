"""The benchmarks of large corpora and of loading run and measure."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Options that name a folder of speech and one of noise."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    rng = np.random.default_rng(0)
    for name in ("speech", "noise"):
        (tmp_path / name).mkdir()
        for i in range(3):
            wav = 0.1 * rng.normal(size=32000)
            soundfile.write(tmp_path / name / f"{i}.wav", wav, 16000)
    return ["--speech", f"{tmp_path}/speech", "--noise", f"{tmp_path}/noise"]


def test_loading(folders, tmp_path, capsys):
    path = tmp_path / "found.json"
    options = ["--files", "2", "--repeats", "1", "--json", str(path)]
    importlib.import_module("loading").main([*folders, *options])
    rows = {r["step"]: r for r in json.loads(path.read_text())["rows"]}
    assert rows["read speech"]["workers"] is None
    anew, kept = rows["all, noise anew"], rows["all, noise kept"]
    assert 0 < anew["rate"] < kept["rate"]
    assert anew["workers"] == pytest.approx(400 / anew["rate"])
    assert "resample noise" in capsys.readouterr().out


@pytest.mark.slow
def test_the_rehearsal(folders, tmp_path, capsys, monkeypatch):
    rehearsal = importlib.import_module("rehearsal")
    monkeypatch.syspath_prepend(rehearsal.RECIPE)

    def in_this_process(command, env, **options):
        monkeypatch.setenv("MERIT_CACHE", env["MERIT_CACHE"])
        rehearsal.main(command[2:])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(rehearsal.subprocess, "run", in_this_process)
    options = "--utterances 300 --noises 12 --epochs 2 --batches 2"
    options += " --systems sparse_merit --workers 0"
    path = tmp_path / "found.json"
    rehearsal.main([*folders, *options.split(), "--json", str(path)])
    first, later, seed = json.loads(path.read_text())["rows"]
    assert first["statistics"] == later["statistics"] != seed["statistics"]
    for row in (first, later, seed):
        assert row["peak_all_mib"] > 0 and len(row["epochs"]) == 2
    assert "first start: MiB after each epoch" in capsys.readouterr().out

"""The benchmark of the training loop runs and prints what it measured."""

import importlib
import json

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_it_measures(tiny_experiment, miniemo, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    benchmark = importlib.import_module("training_loop")
    path = tmp_path / "found.json"
    argv = ["training_loop", "--hparams", str(tiny_experiment), "--repeats"]
    argv += ["1", "--batches", "1", "--data_folder", str(miniemo)]
    monkeypatch.setattr("sys.argv", [*argv, "--json", str(path)])
    benchmark.main()
    found = json.loads(path.read_text())
    assert found["n_batches"] == 1 and found["audio_s"] > 0
    rows = {row["form"]: row for row in found["rows"]}
    assert list(rows) == ["bare loop", "Brain", "loading"]
    assert rows["bare loop"]["ratio"] == 1.0
    assert all(row["seconds"] > 0 for row in rows.values())
    assert set(found["audio_s_per_s"]) == {"resampling", "mixing"}
    printed = capsys.readouterr().out
    assert "x bare loop" in printed and "resampling" in printed

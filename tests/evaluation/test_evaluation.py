"""Evaluation of a finished run: alone, repeatable, and where it was stopped."""

import csv
import json
import shutil

import pytest

from merit_modules.commands.__main__ import main as merit
from merit_modules.commands.evaluate import evaluate_run
from merit_modules.errors import InputError
from merit_modules.evaluation import evaluation
from merit_modules.training import recipe
from tests.conftest import write_tiny_experiment
from tests.helpers.training import run_short

pytestmark = pytest.mark.slow

GRID = {
    "test_noise_sets": "[test_unseen, test_seen]",
    "test_snrs_db": "[-5, 5]",
    "test_clean": "True",
}
NAMES = [
    *("unseen_-5dB", "unseen_5dB", "seen_-5dB", "seen_5dB"),
    "clean",
]


def options_of(**keys):
    return [word for key in keys for word in (f"--{key}", str(keys[key]))]


@pytest.fixture(scope="module")
def finished(miniemo, tmp_path_factory):
    """A finished run that was tested under one condition."""
    folder = tmp_path_factory.mktemp("evaluation")
    path = write_tiny_experiment(folder / "tiny.yaml", miniemo)
    recipe.main(
        [
            str(path),
            *("--device", "cpu", "--noprogressbar"),
            *options_of(output_folder=folder / "run", stage_2_epochs=0),
        ]
    )
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, elsewhere, not tested yet."""
    moved = shutil.copytree(finished, tmp_path / "moved")
    (moved / "results.json").unlink()
    (moved / "scores.csv").unlink()
    return moved


def evaluate(folder, **keys):
    argv = [str(folder), "--device", "cpu", "--noprogressbar"]
    return evaluate_run(argv + options_of(**keys))


def table_of(folder):
    with open(folder / "scores.csv", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_grid_in_one_table(run):
    results = evaluate(run, **GRID, measure_cost=True)
    assert [c["name"] for c in results["conditions"]] == NAMES
    rows = table_of(run)
    assert len(rows) == 12 * len(NAMES)
    assert {row["condition"] for row in rows} == set(NAMES)
    noisy = [row for row in rows if row["condition"] == "seen_-5dB"]
    assert {row["noise_set"] for row in noisy} == {"test_seen"}
    assert all(row["noise"] and row["noise_type"] for row in noisy)
    assert all(float(row["snr_db"]) == -5 for row in noisy)
    clean = [row for row in rows if row["condition"] == "clean"]
    assert not any(row["noise"] or row["snr_db"] for row in clean)
    # What is infinite is absent, and counted by name.
    assert not any(row["noisy_si_sdr_db"] for row in clean)
    failures = results["conditions"][-1]["failures"]
    assert len(failures) == 12
    assert len({row["spk_id"] for row in rows}) > 1
    assert (run / "routing" / "seen_-5dB.npz").is_file()
    cost = results["cost"]
    assert cost["parameters"] > cost["active_parameters"] > 0
    assert cost["macs_per_s"] > 0 and cost["rtf"] > 0


def test_the_same_mixtures_for_every_system(run, miniemo, tmp_path):
    keys = {"test_snrs_db": [0], "metrics": ["si_sdr_db"]}
    run_short("naive_mtl", miniemo, tmp_path / "other", **keys)
    evaluate(run)
    mixtures = [
        (folder / "mixtures" / "unseen_0dB.csv").read_text()
        for folder in (run, tmp_path / "other")
    ]
    assert mixtures[0] == mixtures[1]
    noisy = [
        {row["utt_id"]: row["noisy_si_sdr_db"] for row in table_of(folder)}
        for folder in (run, tmp_path / "other")
    ]
    assert noisy[0] == noisy[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_metric_workers": 2, "num_workers": 2},
        {"max_batch_size": 1},
        {"batch_length_s": 5.0, "n_length_buckets": 2},
    ],
    ids=["workers", "alone", "small-batches"],
)
def test_scores_do_not_hang_on_batches_and_workers(run, tmp_path, changes):
    other = shutil.copytree(run, tmp_path / "other")
    metrics = "[seg_snr_db, pesq_wb, stoi, estoi, si_sdr_db]"
    evaluate(run, metrics=metrics)
    evaluate(other, metrics=metrics, **changes)
    rows = [table_of(folder) for folder in (run, other)]
    assert len(rows[0]) == len(rows[1]) == 12
    for one, two in zip(*rows):
        assert one["utt_id"] == two["utt_id"]
        assert one["prediction"] == two["prediction"]
        for key in one:
            if key.startswith(("prob_", "noisy_", "enhanced_")):
                assert float(one[key]) == pytest.approx(
                    float(two[key]), abs=1e-4
                ), key


def test_an_interrupted_evaluation_goes_on(run, monkeypatch):
    whole = shutil.copytree(run, run.parent / "whole")
    expected = evaluate(whole, **GRID)
    work, done = evaluation.Evaluation._evaluate, []

    def until_the_third(self, condition, n_examples):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(condition.name)
        return work(self, condition, n_examples)

    monkeypatch.setattr(evaluation.Evaluation, "_evaluate", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, **GRID)
    results = json.loads((run / "results.json").read_text())
    assert [c["name"] for c in results["conditions"]] == NAMES[:2]

    def note(self, condition, n_examples):
        done.append(condition.name)
        return work(self, condition, n_examples)

    monkeypatch.setattr(evaluation.Evaluation, "_evaluate", note)
    results = evaluate(run, **GRID)
    assert done == NAMES
    assert (run / "scores.csv").read_text() == (
        whole / "scores.csv"
    ).read_text()
    for one, two in zip(results["conditions"], expected["conditions"]):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}
    # And nothing at all is left to do.
    evaluate(run, **GRID)
    assert done == NAMES


def test_chosen_conditions_join_what_is_there(run):
    evaluate(run, **GRID, test_conditions="[seen_5dB]")
    results = evaluate(run, **GRID, test_conditions="[unseen_5dB]")
    assert [c["name"] for c in results["conditions"]] == [
        *("unseen_5dB", "seen_5dB")
    ]
    assert [row["condition"] for row in table_of(run)][::12] == [
        *("unseen_5dB", "seen_5dB")
    ]
    with pytest.raises(InputError, match="expected some of unseen_-5dB.*'x'"):
        evaluate(run, **GRID, test_conditions="[x]")


def test_nothing_that_was_scored_is_lost(run, monkeypatch):
    """Whatever a later call asks for; and only what is missing is computed."""
    evaluate(run, **GRID)
    before = table_of(run)
    results = evaluate(
        run, test_conditions="[unseen_0dB]", metrics="[stoi, si_sdr_db]"
    )
    assert len(results["conditions"]) == len(NAMES) + 1
    assert results["conditions"][0]["name"] == "unseen_0dB"
    rows = {(r["condition"], r["utt_id"]): r for r in table_of(run)}
    for row in before:
        assert rows[row["condition"], row["utt_id"]].items() >= row.items()
    # One more metric for a condition that is there: the others stay.
    name = "unseen_5dB"
    results = evaluate(
        run, **GRID, test_conditions=f"[{name}]", metrics="[stoi]"
    )
    (entry,) = [c for c in results["conditions"] if c["name"] == name]
    assert {"stoi", "si_sdr_db"} <= set(entry["se"]["enhanced"])
    assert {"stoi", "si_sdr_db"} <= set(entry["se"]["gain"])
    extended = [row for row in table_of(run) if row["condition"] == name]
    assert all(float(row["enhanced_stoi"]) > 0 for row in extended)
    for row in extended:
        earlier = rows[name, row["utt_id"]]
        assert row["enhanced_si_sdr_db"] == earlier["enhanced_si_sdr_db"]

    def never(self, condition, n_examples):
        raise AssertionError(f"{condition.name} is there already")

    monkeypatch.setattr(evaluation.Evaluation, "_evaluate", never)
    evaluate(run, **GRID, test_conditions=f"[{name}]", metrics="[si_sdr_db]")


def test_experts_are_taken_away(run):
    results = evaluate(run, removal_conditions="[unseen_0dB]")
    removed = results["expert_removal"]
    assert [entry["expert"] for entry in removed] == [None, 0, 1, 2]
    (condition,) = results["conditions"]
    assert removed[0]["f1_macro"] == condition["ser"]["f1_macro"]
    before = condition["se"]["enhanced"]["si_sdr_db"]["mean"]
    assert removed[0]["si_sdr_db"] == pytest.approx(before)
    assert any(r["si_sdr_db"] != removed[0]["si_sdr_db"] for r in removed[1:])
    with pytest.raises(InputError, match="removal_conditions: expected some"):
        evaluate(run, removal_conditions="[x]")


def test_a_cascade_needs_no_training_to_be_evaluated(miniemo, tmp_path):
    folder = tmp_path / "cascade"
    run_short("cascade", miniemo, folder)
    before = table_of(folder)
    moved = shutil.move(folder, tmp_path / "moved")
    (moved / "results.json").unlink()
    results = evaluate(moved)
    assert len(results["conditions"]) == 1
    assert table_of(moved) == before


def test_what_is_no_run(run, capsys, caplog):
    assert merit(["evaluate", "--help"]) == 0
    assert "RUN" in capsys.readouterr().out
    assert merit(["evaluate"]) == 2
    assert "arguments are required: RUN" in capsys.readouterr().err
    assert merit(["evaluate", str(run.parent / "nowhere")]) == 2
    shutil.rmtree(run / "save")
    (run / "save").mkdir()
    assert merit(["evaluate", str(run)]) == 2
    assert "no checkpoint to evaluate" in caplog.text

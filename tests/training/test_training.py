"""Whole runs of the recipe on a tiny corpus, undisturbed and disturbed."""

import importlib
import json
import signal

import pytest
import torch

from tests.conftest import ROOT, write_tiny_experiment
from tests.helpers.training import (
    last_checkpoint,
    run_train,
    start,
    train,
)

pytestmark = pytest.mark.slow


def final_state(output_folder):
    folder = last_checkpoint(output_folder)
    return {
        name: torch.load(folder / f"{name}.ckpt", weights_only=True)
        for name in ("system", "optimizer")
    }


def assert_identical(left, right):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_identical(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        for a, b in zip(left, right, strict=True):
            assert_identical(a, b)
    else:
        assert left == right


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, miniemo):
    """A run of two epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_tiny_experiment(folder / "tiny.yaml", miniemo)
    done = run_train(path, folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_ends_in_a_table_and_files(undisturbed):
    folder, stdout = undisturbed
    results = json.loads((folder / "results.json").read_text())
    (condition,) = results["conditions"]
    assert condition["name"] == "unseen_0dB"
    assert "unseen_0dB" in stdout and "F1-macro" in stdout
    assert condition["ser"]["n"] == 12
    noisy = condition["se"]["noisy"]["si_sdr_db"]
    assert noisy["mean"] == pytest.approx(0.0, abs=0.1)
    assert (folder / "mixtures" / "valid.csv").is_file()
    assert (folder / "mixtures" / "unseen_0dB.csv").is_file()
    scores = (folder / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + 12
    examples = [p.name for p in (folder / "examples/unseen_0dB").iterdir()]
    assert len(examples) == 3
    log = (folder / "train_log.txt").read_text()
    for word in ("se_load", "ser_load", "se_entropy", "same_expert"):
        assert f"train {word}" in log and f"valid {word}" in log
    assert list((folder / "tensorboard").iterdir())
    # The user's own train.py is kept with the run.
    kept = (folder / "train.py").read_text()
    assert kept == (ROOT / "train.py").read_text()


def test_forms_for_a_cpu_are_scored_as_the_run_was(
    undisturbed, tmp_path, monkeypatch
):
    pytest.importorskip("onnxscript")
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    benchmark = importlib.import_module("deployment")
    folder, name = undisturbed[0], "unseen_0dB"
    options = f"{folder} --conditions {name} {name} --timed 1 --repeats 1"
    written = tmp_path / "deployment.json"
    benchmark.main([*options.split(), "--json", str(written)])
    results = json.loads((folder / "results.json").read_text())
    (condition,) = results["conditions"]
    found = json.loads(written.read_text())["conditions"]
    fp32 = found[name]["fp32"]
    assert fp32["f1_macro"] == pytest.approx(condition["ser"]["f1_macro"])
    expected = condition["se"]["enhanced"]["si_sdr_db"]["mean"]
    assert fp32["si_sdr_db"] == pytest.approx(expected, abs=1e-3)
    for form in ("onnx fp32", "int8", "onnx int8"):
        row = found[name][form]
        assert row["time_ratio"] > 0
        assert row["si_sdr_db"] == pytest.approx(expected, abs=0.1)
        assert row["same_expert"] > 0.99
        # Twice the same utterances, taken together.
        again = found["all of these"][form]
        assert again["f1_macro"] == pytest.approx(row["f1_macro"])
        assert again["si_sdr_db"] == pytest.approx(row["si_sdr_db"])


@pytest.mark.parametrize(
    "epoch, step, overrides",
    [
        (1, 2, ()),
        (2, 2, ()),
        (2, 2, ("--ckpt_interval_minutes", 0, "--ckpt_interval_steps", 1)),
    ],
    ids=["first-epoch", "second-epoch", "saved-within-the-epoch"],
)
def test_killed_and_resumed_is_as_undisturbed(
    undisturbed, tmp_path, miniemo, epoch, step, overrides
):
    path = write_tiny_experiment(tmp_path / "tiny.yaml", miniemo)
    folder = tmp_path / "run"
    killed = run_train(path, folder, *overrides, kill_at=(epoch, step))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_train(path, folder, *overrides)
    assert resumed.returncode == 0, resumed.stderr
    assert_identical(final_state(folder), final_state(undisturbed[0]))
    logs = [
        (run / "train_log.txt").read_text().splitlines()[-1]
        for run in (folder, undisturbed[0])
    ]
    assert logs[0] == logs[1]


def test_worker_count_changes_nothing(undisturbed, tmp_path, miniemo):
    path = write_tiny_experiment(tmp_path / "tiny.yaml", miniemo)
    done = run_train(path, tmp_path / "run", "--num_workers", 2)
    assert done.returncode == 0, done.stderr
    assert_identical(final_state(tmp_path / "run"), final_state(undisturbed[0]))


def test_a_finished_run_is_only_evaluated_again(undisturbed, tmp_path):
    folder = undisturbed[0]
    before = (folder / "results.json").read_text()
    path = folder.parent / "tiny.yaml"
    again = run_train(path, folder)
    assert again.returncode == 0, again.stderr
    old, new = (
        json.loads(before),
        json.loads((folder / "results.json").read_text()),
    )
    for results in (old, new):
        for condition in results["conditions"]:
            del condition["seconds"]
    assert old == new


def test_both_stages_train_what_they_should(tiny_experiment, tmp_path):
    states = {}
    for epochs in (1, 2):
        hparams = start(tiny_experiment, tmp_path, number_of_epochs=epochs)
        system = hparams["system"]
        states[0] = states.get(0) or copy_state(system)
        train(hparams)
        states[epochs] = copy_state(system)
    for name in states[0]:
        frozen = name.startswith(("ssl_encoder.", "normalizer."))
        first = torch.equal(states[0][name], states[1][name])
        if name.startswith("ssl_encoder."):
            assert first, f"{name} changed in stage 1"
        elif not frozen and "router" not in name:
            assert not first, f"{name} did not learn in stage 1"
    learnt = [
        name
        for name in states[1]
        if name.startswith("ssl_encoder.model.encoder.layers.0")
        and not torch.equal(states[1][name], states[2][name])
    ]
    assert learnt


def test_bf16_trains_both_stages(tiny_experiment, tmp_path):
    hparams = start(tiny_experiment, tmp_path)
    brain = train(hparams, precision="bf16")
    assert brain.precision == "bf16"
    stats = brain.tracker.means()
    assert all(value == value for value in stats.values())
    weights = hparams["system"].state_dict().values()
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights)


def test_accumulated_gradients_step_less_often(tiny_experiment, tmp_path):
    steps = []
    for factor in (1, 2):
        hparams = start(
            tiny_experiment, tmp_path / str(factor), number_of_epochs=1
        )
        brain = train(hparams, grad_accumulation_factor=factor)
        steps.append(brain.optimizer_step)
    assert steps[1] == steps[0] // 2 > 0


def copy_state(system):
    return {k: v.clone() for k, v in system.state_dict().items()}

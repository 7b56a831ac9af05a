"""The compared systems: golden values, and each trains by its YAML file."""

import json

import pytest
import torch

from merit_modules.commands.__main__ import main as merit
from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams
from merit_modules.moe.layer_mix import WeightedLayerSum
from merit_modules.moe.task_sums import TaskLayerSums
from merit_modules.pretrained import load_parts, save_folder
from merit_modules.released.parts import build_mixture, rename_part
from merit_modules.system import CascadeSystem
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT
from tests.helpers.training import (
    NAMES,
    make_short,
    run_short,
)

TASKS = ("se", "ser")


@pytest.mark.parametrize("top_k, kind", [(1, "sparse"), (3, "dense")])
@pytest.mark.parametrize("form", ["weighted_sum", "layer_mixers"])
def test_experts_agree_with_the_released_code(golden, form, top_k, kind):
    case = torch.load(golden / f"moe_{form}_{kind}.pt", weights_only=True)
    layer_reps = case["layer_reps"]
    mixture = build_mixture(case["state_dict"], top_k=top_k)
    renamed = rename_part("mmoe", case["state_dict"])
    mixture.load_state_dict(
        {k.removeprefix("mixture."): v for k, v in renamed.items()}
    )
    n_frames = torch.full((layer_reps.shape[1],), layer_reps.shape[2])
    with torch.no_grad():
        out = mixture.route(list(layer_reps), n_frames)
    for task in TASKS:
        torch.testing.assert_close(
            out.features[task], case[f"out_{task}"], atol=1e-5, rtol=0
        )
    with torch.no_grad():
        mixture.layer_mix.weight.mul_(1.01)
        wrong = mixture.route(list(layer_reps), n_frames).features["se"]
    assert (wrong - case["out_se"]).abs().max() > 1e-5


def test_the_weighted_sum_agrees_with_the_released_code(golden):
    case = torch.load(golden / "weighted_sum.pt", weights_only=True)
    layer_reps, state = case["layer_reps"], case["state_dict"]
    n_layers, batch, n_rows, dim = layer_reps.shape
    mix = WeightedLayerSum(n_layers, dim)
    with torch.no_grad():
        mix.layer_weights.copy_(state["weights"])
        for i in range(n_layers):
            mix.weight[i] = state[f"layer_norm.{i}.weight"]
            mix.bias[i] = state[f"layer_norm.{i}.bias"]
        sums = TaskLayerSums({"se": mix})
        n_frames = torch.full((batch,), n_rows)
        features = sums.route(list(layer_reps), n_frames).features["se"]
        torch.testing.assert_close(features, case["out"], atol=1e-5, rtol=0)
        mix.layer_weights[0] += 0.01
        wrong = sums.route(list(layer_reps), n_frames).features["se"]
    assert (wrong - case["out"]).abs().max() > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_system_trains(name, miniemo, tmp_path):
    brain = run_short(name, miniemo, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (condition,) = results["conditions"]
    assert ("ser" in condition) == (not name.startswith("se_"))
    assert ("se" in condition) == (not name.startswith("ser_"))
    scores = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + 12
    conflict = tmp_path / "gradient_conflict.json"
    if len(brain.system.tasks) == 1:
        assert not conflict.exists()
        return
    measured = json.loads(conflict.read_text())["measurements"]
    groups = {group for m in measured for group in m["groups"]}
    assert "ssl_layer_1" in groups
    assert ("layer_mix" in groups) == hasattr(brain.system.mixture, "experts")


def test_conflict_is_that_of_the_loss_without_its_scale(miniemo, tmp_path):
    """Float16 multiplies losses by 65,536 before it takes gradients."""
    brain, _, _ = make_short("naive_mtl", miniemo, tmp_path)
    weights = [p for p in brain.system.parameters() if p.requires_grad]
    losses = {
        "se": sum(weight.square().sum() for weight in weights),
        "ser": sum(weight.sum() for weight in weights),
    }
    measured = []
    brain.conflict_log.add = lambda *of_step: measured.append(of_step[-1])
    for enabled in (False, True):
        brain.scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        brain._log_conflict(losses)
    plain, scaled = measured
    assert set(plain) == set(scaled) != set()
    for name, values in plain.items():
        assert values["norm_se"] > 0
        assert scaled[name] == pytest.approx(values, rel=1e-5)


@pytest.mark.slow
def test_a_cascade_trains_its_front_end_first(miniemo, tmp_path):
    folder = tmp_path / "noisy"
    brain = run_short("cascade", miniemo, folder)
    front_end = brain.system.front_end
    saved = sorted((folder / "se_only" / "save").glob("CKPT+*"))[-1]
    saved = torch.load(saved / "system.ckpt", weights_only=True)
    for key, value in front_end.state_dict().items():
        assert torch.equal(value, saved[key])
    assert not any(p.requires_grad for p in front_end.parameters())
    other = run_short(
        "cascade", miniemo, tmp_path / "enhanced", ser_input="enhanced"
    )
    assert_equal = torch.testing.assert_close
    assert_equal(other.system.front_end.state_dict(), front_end.state_dict())
    left, right = (b.system.ser_system for b in (brain, other))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(left.parameters(), right.parameters())
    )


def test_a_cascade_is_its_two_parts():
    torch.manual_seed(0)
    back, front = tiny_system(), tiny_system()
    cascade = CascadeSystem(back, "enhanced")
    cascade.front_end = front
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    with torch.no_grad():
        out = cascade.eval()(wavs, lens)
        enhanced = front.enhanced_wavs(front(wavs, lens, ["se"]), 8000)
        assert torch.equal(cascade.enhanced_wavs(out, 8000), enhanced)
        assert torch.equal(out.logits, back(enhanced, lens, ["ser"]).logits)
        cascade.train()
        assert not front.training
        assert cascade(wavs, lens).enhancement is None
    with pytest.raises(InputError, match="ser_input: expected one of noisy"):
        CascadeSystem(back, "clean")
    with pytest.raises(RuntimeError, match="no front_end"):
        CascadeSystem(back)(wavs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"task_weighting": "uncertainty", "se_si_sdr_weight": 0.0},
        {"gradient_surgery": "pcgrad", "grad_accumulation_factor": 2},
        {"top_k": 2},
        {"balance_loss": "kl"},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_other_ways_of_training(changes, miniemo, tmp_path):
    brain = run_short("sparse_merit", miniemo, tmp_path, **changes)
    assert (tmp_path / "results.json").is_file()
    weighting = brain.hparams.loss.weighting
    assert (weighting is not None) == ("task_weighting" in changes)
    if weighting is not None:
        weights = weighting.weights()
        assert all(weights[task] != 1.0 for task in TASKS)
        assert "se_task_weight" in (tmp_path / "train_log.txt").read_text()


def test_surgery_needs_two_tasks(miniemo, tmp_path):
    with pytest.raises(InputError, match="expected a system with two tasks"):
        run_short("ser_only", miniemo, tmp_path, gradient_surgery="pcgrad")


def test_uncertainty_needs_losses_above_zero(miniemo, tmp_path):
    with pytest.raises(InputError, match="se_si_sdr_weight is 0.3: set it"):
        run_short(
            "sparse_merit", miniemo, tmp_path, task_weighting="uncertainty"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", ["all", ["ssl_encoder", "se_head", "ser_head"]], ids=["all", "2"]
)
def test_training_starts_from_a_folder(parts, miniemo, tmp_path):
    """All parts, or those that the authors' stage 2 starts from."""
    donor, hparams, _ = make_short("sparse_merit", miniemo, tmp_path, seed=7)
    save_folder(donor.system, tmp_path / "donor", hparams["emotions"])
    options = {"init_from": str(tmp_path / "donor"), "init_parts": parts}
    brain, _, _ = make_short("sparse_merit", miniemo, tmp_path / "2", **options)
    fresh, _, _ = make_short("sparse_merit", miniemo, tmp_path / "3")
    given, own = donor.system.state_dict(), fresh.system.state_dict()
    for key, value in brain.system.state_dict().items():
        taken = parts == "all" or key.split(".")[0] in parts
        source = own if key.startswith("normalizer") or not taken else given
        assert torch.equal(value, source[key]), key


@pytest.mark.slow
def test_a_start_that_does_not_fit_is_listed(miniemo, tmp_path):
    donor, hparams, _ = make_short("sparse_merit", miniemo, tmp_path)
    save_folder(donor.system, tmp_path / "donor", hparams["emotions"])
    with pytest.raises(InputError, match=r"experts\.0\.2\.weight.*16.*12"):
        make_short(
            "sparse_merit",
            miniemo,
            tmp_path / "2",
            init_from=str(tmp_path / "donor"),
            expert_output=12,
            expert_start="apart",
        )


@pytest.mark.slow
def test_training_reads_mixtures_from_disk(miniemo, tmp_path):
    """The statistics, taken over all mixtures, are those of mixing anew."""
    fresh, hparams, _ = make_short("sparse_merit", miniemo, tmp_path / "1")
    options = ["--data_folder", miniemo, "--output_folder", tmp_path / "1"]
    options += ["--split", "train", "--out", tmp_path / "mixtures"]
    path = ROOT / "hparams" / "sparse_merit.yaml"
    command = [path, *options, "--n_sentences", 1]
    assert merit(["mix", *map(str, command)]) == 0
    brain = run_short(
        "sparse_merit",
        miniemo,
        tmp_path / "2",
        train_mixtures=str(tmp_path / "mixtures" / "train"),
    )
    for name in ("mean", "std", "clean_mean"):
        left, right = (
            getattr(b.system.normalizer, name) for b in (fresh, brain)
        )
        torch.testing.assert_close(left, right)


@pytest.mark.slow
def test_an_experiment_takes_its_encoder_from_the_folder(tmp_path, monkeypatch):
    donor = tiny_system()
    save_folder(donor, tmp_path / "donor", ["angry", "sad", "happy", "calm"])
    recipe = ROOT / "recipes" / "MSP-Podcast" / "joint_se_ser"
    monkeypatch.syspath_prepend(str(recipe))
    path = recipe / "hparams" / "sparse_merit_release.yaml"
    options = {"expert_hidden": 32, "expert_output": 12, "ser_hidden": 16}
    options |= {"se_hidden": 16, "output_folder": str(tmp_path)}
    options |= {"data_folder": "none", "noise_folder": "none"}
    options["init_from"] = str(tmp_path / "donor")
    system = load_hparams(path, options)["system"]
    assert load_parts(system, options["init_from"])  # all of it fits
    for key, value in donor.state_dict().items():
        if not key.startswith("normalizer"):
            assert torch.equal(system.state_dict()[key], value), key
    with pytest.raises(InputError, match="init_from: expected a folder"):
        load_hparams(path, {**options, "init_from": None})

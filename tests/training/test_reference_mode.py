"""The released training step, reproduced through the Brain (REFERENCE)."""

import copy

import pytest
import speechbrain as sb
import torch

from merit_modules.data.mixing import NoiseMixer
from merit_modules.hparams import load_hparams
from merit_modules.released import load_release
from merit_modules.released.parts import rename_system
from merit_modules.training.brain import JointBrain
from merit_modules.training.targets import EmotionTarget
from tests.conftest import ROOT

YAML = ROOT / "hparams" / "sparse_merit_reference.yaml"


class Batch:
    """What the data pipeline gives the Brain, made of a golden batch."""

    class Wavs(tuple):
        @property
        def data(self):
            return self[0]

    def __init__(self, noisy, clean, wav_lens, labels):
        self.noisy_wav = self.Wavs((noisy, wav_lens))
        self.clean_wav = self.Wavs((clean, wav_lens))
        self.ser_label = self.Wavs((labels.unsqueeze(1), wav_lens))
        self.id = [f"utt{i}" for i in range(len(labels))]

    def to(self, device, non_blocking):
        return self


@pytest.fixture
def case(golden):
    """Batch and expected outcome."""
    forward = torch.load(golden / "system_forward.pt", weights_only=True)
    step = torch.load(golden / "training_step.pt", weights_only=True)
    return forward, step


@pytest.fixture
def trained(golden, case, tmp_path):
    """The Brain of the reference YAML, after one step from the release."""
    return take_step(golden, case, tmp_path)


def take_step(golden, case, tmp_path, **changes):
    forward, step = case
    hparams = load_hparams(
        YAML, {"output_folder": str(tmp_path), "tensorboard_logger": None}
    )
    # What differs from a run of the file: weights, no dropout, and a step
    # after the one batch.
    rule = changes.get("padding_rule", hparams["padding_rule"])
    system = load_release(golden / "release", padding_rule=rule).system
    for router in system.mixture.routers.values():
        router.requires_grad_(hparams["router_gradient"] != "reference")
        router.gradient = hparams["router_gradient"]
    for module in system.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    config = system.ssl_encoder.model.config
    for name in ("hidden", "attention", "activation", "feat_proj"):
        setattr(config, f"{name}_dropout", 0.0)
    for layer in system.ssl_encoder.model.encoder.layers:
        layer.attention.dropout = 0.0
    hparams["modules"] = {"system": system, "loss": hparams["loss"]}
    hparams["epoch_counter"].current = hparams["stage_1_epochs"] + 1
    names = hparams["emotions"]
    target = EmotionTarget({"train": {n: {"emo": n} for n in names}}, names)
    target.loss.class_weights = step["class_weights"]
    brain = JointBrain(
        target=target,
        train_mixer=NoiseMixer(None, snr_db=None, seed=0),
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts={"device": "cpu", "grad_accumulation_factor": 1},
    )
    brain.gradients = {}

    def keep_gradients(*_):
        brain.gradients = {
            name: copy.deepcopy(parameter.grad)
            for name, parameter in system.named_parameters()
        }

    brain.init_optimizers()
    brain.optimizer.register_step_pre_hook(keep_gradients)
    brain.modules.train()
    brain.on_stage_start(sb.Stage.TRAIN, hparams["stage_1_epochs"] + 1)
    brain.step = 1
    n = forward["wav"].shape[1]
    brain.loss = brain.fit_batch(
        Batch(
            forward["wav"],
            forward["clean"],
            forward["lengths"] / n,
            step["labels"],
        )
    )
    return brain


def test_loss_terms(trained, case):
    _, step = case
    terms = trained.tracker.means()
    for ours, theirs in (("ser_ce", "ce"), ("se_l1", "l1")):
        assert terms[ours] == pytest.approx(step[theirs].item(), abs=1e-5)
    torch.testing.assert_close(trained.loss, step["loss"], atol=1e-5, rtol=0)


def test_every_gradient(trained, case):
    _, step = case
    expected = rename_system(step["grads"])
    assert set(expected) == set(trained.gradients)
    for name, gradient in trained.gradients.items():
        if expected[name] is None:
            assert gradient is None, name
            continue
        torch.testing.assert_close(
            gradient, expected[name], atol=1e-5, rtol=0, msg=name
        )


@pytest.mark.slow
def test_every_parameter_after_the_step(trained, case):
    _, step = case
    expected = rename_system(step["params_after"])
    rates = [group["lr"] for group in trained.optimizer.param_groups]
    assert rates == pytest.approx([step["lr"], step["ssl_lr"]])
    state = trained.system.state_dict()
    worst = {
        name: (state[name] - value).abs().max().item()
        for name, value in expected.items()
    }
    assert max(worst.values()) < 1e-5, sorted(
        worst.items(), key=lambda item: -item[1]
    )[:5]


def test_the_default_padding_rule_gives_another_step(golden, case, tmp_path):
    """The agreement depends on the reference mode, so it can fail."""
    _, step = case
    brain = take_step(golden, case, tmp_path, padding_rule="exact")
    assert (brain.loss - step["loss"]).abs() > 1e-4

"""The host never waits for a GPU but for the experts' counts: seen without one.

Tensors on PyTorch's device ``meta`` have shapes and no values: whatever asks
one for a value, as code that makes a GPU's host wait does, raises an error. So
does what mixes them with tensors on the CPU, where the lengths stay.
"""

import contextlib

import pytest
import torch

from merit_modules.heads import PaddedBLSTM
from merit_modules.inference.prepack import arrange_
from merit_modules.losses import JointLoss
from merit_modules.moe import mixture
from merit_modules.tiny import tiny_system

NO_VALUE = (NotImplementedError, RuntimeError)


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    """The device ``meta`` has none."""
    nothing = contextlib.nullcontext()
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nothing)


def take_step():
    """Compute the loss of a ragged batch and its gradients."""
    system = tiny_system().train().to("meta")
    wavs = torch.randn(2, 8000, device="meta")
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    output = system(wavs, torch.tensor([1.0, 0.6]))
    loss = JointLoss(se_si_sdr=0.1, load_balance=0.01, router_z=0.001)
    loss(loss.terms(system, output, wavs, labels)).backward()
    assert output.n_samples.device.type == "cpu"
    return system


def all_to_the_first(features, experts, decisions, checkpoint_experts=False):
    """In place of what counts each expert's frames."""
    return [experts[0](features) * decision.weights for decision in decisions]


def test_only_the_counts_of_the_experts_are_waited_for(monkeypatch):
    with pytest.raises(NO_VALUE) as caught:
        take_step()
    assert caught.traceback[-1].name == "plan_dispatch"
    monkeypatch.setattr(mixture, "dispatch", all_to_the_first)
    system = take_step()
    assert system.se_head.output_layer.weight.grad is not None
    assert system.ser_head.pooling.projection.weight.grad is not None


@torch.no_grad()
def test_an_arranged_model_waits_for_nothing_else(monkeypatch):
    system = arrange_(tiny_system().to("meta"))
    assert not system.mixture.layer_mix.affine
    batch = torch.randn(2, 8000, device="meta"), torch.tensor([1.0, 0.6])
    with pytest.raises(NO_VALUE) as caught:
        system(*batch)
    assert caught.traceback[-1].name == "plan_dispatch"
    monkeypatch.setattr(mixture, "dispatch", all_to_the_first)
    enhanced = system.enhanced_wavs(system(*batch), 8000)
    assert enhanced.shape == (2, 8000)


def test_the_filled_up_lstm_asks_for_nothing():
    blstm = PaddedBLSTM(4, 3, num_layers=2).to("meta")
    frames = torch.randn(17, 9, 4, device="meta", requires_grad=True)
    output = blstm._in_filled_pieces(frames, torch.arange(17) % 9 + 1)
    output.sum().backward()
    assert frames.grad.shape == frames.shape
    with pytest.raises(NO_VALUE):
        blstm._packed(frames, torch.arange(17, device="meta") % 9 + 1)


@pytest.mark.parametrize(
    "asks", [lambda x: x.sum().item(), lambda x: bool(x.any()), torch.nonzero]
)
def test_the_check_can_fail(monkeypatch, asks):
    def curious(features, *args):
        asks(features)
        return all_to_the_first(features, *args)

    monkeypatch.setattr(mixture, "dispatch", curious)
    with pytest.raises(NO_VALUE):
        take_step()

"""Compiled parts: same results, compiled once, done without where it fails."""

import copy

import pytest
import torch
from torch._dynamo.utils import counters
from torch.testing import assert_close

from merit_modules.cpu import onednn
from merit_modules.ssl import compiled
from merit_modules.tiny import tiny_system


@pytest.fixture(autouse=True)
def from_the_start(as_on_a_gpu):
    """On a CPU nothing is compiled, so take the ways of a GPU."""
    config = torch._functorch.config
    with config.patch(
        force_non_lazy_backward_lowering=False, donated_buffer=True
    ):
        torch._dynamo.reset()
        counters.clear()
        yield
    torch._dynamo.reset()


def make_system(stable=True):
    torch.manual_seed(0)
    system = tiny_system(do_stable_layer_norm=stable, num_hidden_layers=3)
    with torch.no_grad():
        for parameter in system.ssl_encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return system.eval()


def batch(n_utterances, n_samples, shortest=0.5):
    generator = torch.Generator().manual_seed(n_samples)
    wavs = torch.randn(n_utterances, n_samples, generator=generator)
    return wavs, torch.linspace(1.0, shortest, n_utterances)


def gradients_of(system, *batch):
    system.zero_grad(set_to_none=True)
    output = system(*batch)
    loss = output.logits.square().sum() + output.enhancement.log1p.sum()
    # Twice, as gradient conflict asks for them.
    loss.backward(retain_graph=True)
    loss.backward()
    return output, [p.grad for p in system.parameters()]


def assert_same(ours, theirs, *batch):
    (a, found), (b, expected) = (
        gradients_of(system, *batch) for system in (ours, theirs)
    )
    assert_close(a.logits, b.logits, atol=1e-5, rtol=1e-4)
    for mine, other in zip(found, expected, strict=True):
        if other is None:
            assert mine is None
            continue
        scale = other.abs().max().clamp_min(1.0)
        assert_close(mine / scale, other / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize("stable", [True, False])
def test_results_are_the_same_and_no_size_is_compiled_again(stable):
    plain = make_system(stable)
    system = copy.deepcopy(plain)
    # As many utterances as heads, at first.
    assert compiled.compile_(system, backend="aot_eager")
    assert_same(system, plain, *batch(2, 9000))
    assert counters["stats"]["unique_graphs"] == 3
    assert_same(system, plain, *batch(3, 7777))
    assert_same(system, plain, *batch(5, 8000, shortest=1.0))
    assert counters["stats"]["unique_graphs"] == 3
    with torch.no_grad():
        for sizes in ((2, 8000), (4, 7000), (3, 6000, 1.0)):
            expected = plain(*batch(*sizes)).logits
            assert_close(system(*batch(*sizes)).logits, expected)
    assert counters["stats"]["unique_graphs"] == 6
    # The bias of a single utterance, not the rest, is another one.
    assert_same(system, plain, *batch(1, 8000))
    assert_same(system, plain, *batch(1, 7000))
    assert counters["stats"]["unique_graphs"] == 7
    # A copy, as one for another process, is not compiled.
    assert "pieces" in vars(system.ssl_encoder)
    assert "pieces" not in vars(copy.deepcopy(system.ssl_encoder))


def test_where_it_fails_all_goes_on_with_a_message(caplog):
    plain = make_system()
    system = copy.deepcopy(plain)

    def broken(graph, examples):
        raise RuntimeError("no compiler here")

    assert compiled.compile_(system, backend=broken)
    with torch.no_grad():
        for sizes in ((2, 8000), (3, 7000)):
            expected = plain(*batch(*sizes)).logits
            assert torch.equal(system(*batch(*sizes)).logits, expected)
    told = [r.getMessage() for r in caplog.records if "compil" in r.message]
    assert len(told) == 2 and "first batches" in told[0]
    assert "failed" in told[1] and "no compiler here" in told[1]


def test_nothing_is_compiled_on_a_cpu(monkeypatch, caplog):
    monkeypatch.setattr(onednn, "suits", lambda device: True)
    system = make_system()
    assert not compiled.compile_(system)
    assert "pieces" not in vars(system.ssl_encoder)
    assert "--compile: nothing is compiled on a CPU" in caplog.text


class WholeModules:
    """As speechbrain.Brain."""

    def _compile(self):
        self.done = "whole modules"


@pytest.mark.parametrize(
    "wanted, keys, done",
    [
        (True, None, "parts"),
        (True, ["system"], "whole modules"),
        (False, None, "whole modules"),  # none of them
    ],
)
def test_plain_compile_takes_the_parts(monkeypatch, wanted, keys, done):
    class Brain(compiled.CompilesParts, WholeModules):
        system, compile_mode = "it", "default"
        compile, compile_module_keys = wanted, keys

    brain = Brain()

    def compile_(system, mode):
        assert (system, mode) == ("it", "default")
        brain.done = "parts"

    monkeypatch.setattr(compiled, "compile_", compile_)
    brain._compile()
    assert brain.done == done

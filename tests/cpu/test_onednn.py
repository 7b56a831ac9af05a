"""Products by oneDNN: gradients, and what autograd may do with them."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from merit_modules.cpu import onednn
from merit_modules.moe.experts import FeedForwardExpert
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from tests.helpers.encoding import encode

pytestmark = pytest.mark.skipif(
    not onednn.is_available(), reason="needs oneDNN, and fast paths allowed"
)


@pytest.fixture(autouse=True)
def products(monkeypatch):
    """Give even small products to oneDNN; list them."""
    found, multiply = [], onednn.multiply

    def watch(x, weight, bias, gelu=False):
        found.append(tuple(weight.shape))
        return multiply(x, weight, bias, gelu)

    monkeypatch.setattr(onednn, "multiply", watch)
    monkeypatch.setattr(onednn, "MIN_MACS", 1)
    return found


def gradients(function, *inputs):
    """Compute a result and its gradients by what is trained."""
    trained = [x for x in inputs if x is not None and x.requires_grad]
    result = function(*inputs)
    torch.manual_seed(1)
    weights = torch.randn_like(result)
    return result, torch.autograd.grad((result * weights).sum(), trained)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(
    "trained", ["x", "weight", "bias", "x weight", "x weight bias"]
)
@pytest.mark.parametrize("shape", [(7, 16), (2, 3, 16), (0, 16), (16,)])
def test_gradients(shape, trained, gelu, products):
    torch.manual_seed(0)
    inputs = {
        "x": torch.randn(shape),
        "weight": torch.randn(24, 16),
        "bias": torch.randn(24),
    }
    for name in trained.split():
        inputs[name].requires_grad_()

    def plain(x, weight, bias):
        x = nn.functional.linear(x, weight, bias)
        return nn.functional.gelu(x) if gelu else x

    expected = gradients(plain, *inputs.values())
    found = gradients(
        lambda *args: onednn.linear(*args, gelu=gelu), *inputs.values()
    )
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # An empty product is none.
    n_products = 0 if 0 in shape else 1 + ("x" in trained)
    assert len(products) == n_products


def test_the_gradient_of_large_weights(products, monkeypatch):
    monkeypatch.setattr(onednn, "LARGE_WEIGHT", 24 * 16)
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in ((2, 7, 16), (24, 16), (24,))]
    inputs = [x.requires_grad_() for x in inputs]
    expected = gradients(nn.functional.linear, *inputs)
    found = gradients(onednn.linear, *inputs)
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert products == [(24, 16), (16, 24), (16, 14)]


def test_gradients_without_bias():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8)
    result, (gradient,) = gradients(onednn.linear, x, weight, None)
    assert_close(result, x @ weight.t())
    assert gradient.shape == x.shape


@pytest.mark.parametrize("recompute", [False, True])
def test_an_expert_that_works_in_place(recompute, products):
    torch.manual_seed(0)
    expert, x = FeedForwardExpert(16, 32, 8), torch.randn(5, 16)
    x.requires_grad_()
    wanted = [x, *expert.parameters()]
    expected = torch.autograd.grad(
        nn.Sequential.forward(expert, x).square().sum(), wanted
    )
    assert not products
    if recompute:
        result = checkpoint(expert, x, use_reentrant=False)
    else:
        result = expert(x)
    found = torch.autograd.grad(result.square().sum(), wanted)
    assert_close(found, expected)
    assert len(products) >= 2


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_an_encoder_that_is_trained_all_over(norm, products):
    config = {
        **TINY_SSL,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "apply_spec_augment": False,
    }
    torch.manual_seed(0)
    encoder = RandomSSLEncoder("wavlm", config)
    wavs, lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    trained = [p for p in encoder.parameters() if p.requires_grad]
    found = []
    for fast in (True, False):
        encoder.arrange(fast=fast)
        products.clear()
        reps = encode(encoder, wavs, lens)
        loss = sum(
            rep[i, :n].square().mean()
            for rep in reps.layer_reps
            for i, n in enumerate(reps.n_frames)
        )
        found.append(torch.autograd.grad(loss, trained, allow_unused=True))
        assert bool(products) is fast
    assert_close(found[0], found[1], atol=2e-4, rtol=2e-3)
    assert sum(g is not None for g in found[0]) > 30


def test_a_second_derivative_is_refused():
    x = torch.randn(3, 8, requires_grad=True)
    weight = torch.randn(4, 8, requires_grad=True)
    result = onednn.linear(x, weight, None).square().sum()
    (gradient,) = torch.autograd.grad(result, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()

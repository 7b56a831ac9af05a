"""Losses of routers: worked values, golden values, what they do to routers."""

import pytest
import torch

from merit_modules.losses.routing import (
    expert_load,
    load_balance,
    load_kl,
    pool_load,
    router_z,
)
from merit_modules.moe.experts import (
    ExpertPool,
)
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import RoutingDecision, TopKRouter

TASKS = ("se", "ser")


def make_mixture(n_experts=3, top_k=1, gradient="straight_through", **sizes):
    n_layers, dim = sizes.get("n_layers", 4), sizes.get("dim", 6)
    layer_mix = LayerNormConcat(n_layers, dim)
    torch.nn.init.normal_(layer_mix.weight)
    torch.nn.init.normal_(layer_mix.bias)
    size = layer_mix.output_size
    return ExpertMixture(
        layer_mix,
        ExpertPool(n_experts, size, hidden_size=16, output_size=5),
        {t: TopKRouter(size, n_experts, top_k, gradient) for t in TASKS},
    )


def decision_of(logits):
    probs = logits.softmax(-1)
    index = logits.argmax(-1, keepdim=True)
    return RoutingDecision(logits, probs, index, torch.ones(len(logits), 1))


def test_balance_losses_on_worked_values(golden):
    even = decision_of(10 * torch.eye(3))
    assert load_balance(even).item() == pytest.approx(1.0)
    collapsed = decision_of(torch.tensor([[50.0, 0.0, 0.0]] * 4))
    assert load_balance(collapsed).item() == pytest.approx(3.0)
    assert expert_load(collapsed).tolist() == [1.0, 0.0, 0.0]
    logits = torch.zeros(2, 3)
    z = torch.tensor(3.0).log().square().item()
    assert router_z(decision_of(logits)).item() == pytest.approx(z)
    case = torch.load(golden / "balance_losses.pt", weights_only=True)
    ours = load_balance(decision_of(case["gate_probs"].flatten(0, 1).log()))
    torch.testing.assert_close(
        case["alpha"] * ours, case["switch"], atol=1e-6, rtol=0
    )
    kl = load_kl(decision_of(case["gate_probs"].flatten(0, 1).log()))
    torch.testing.assert_close(
        case["alpha"] * kl, case["kl"], atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("loss", [load_balance, load_kl])
def test_tasks_with_experts_of_their_own_balance_the_pool(loss):
    """Each router is one-sided, both together are even."""
    one = decision_of(torch.tensor([[20.0, 0.0]] * 4))
    other = decision_of(torch.tensor([[0.0, 20.0]] * 4))
    load = pool_load(map(expert_load, [one, other]))
    assert load.tolist() == [0.5, 0.5]
    even = loss(decision_of(20 * torch.eye(2)))
    for decision in (one, other):
        assert loss(decision, load) == pytest.approx(even.item(), abs=1e-4)
        assert loss(decision) > even + 0.5
    # Averaged over the tasks it is the loss of all decisions together.
    torch.manual_seed(0)
    tasks = [decision_of(torch.randn(10, 3)) for _ in TASKS]
    load = pool_load(map(expert_load, tasks))
    mean = sum(load_balance(d, load) for d in tasks) / 2
    together = decision_of(torch.cat([d.logits for d in tasks]))
    torch.testing.assert_close(mean, load_balance(together))


def test_the_kl_loss_pulls_an_idle_expert_back():
    logits = torch.tensor([[2.0, 1.0, -1.0]] * 4, requires_grad=True)
    loss = load_kl(decision_of(logits))
    loss.backward()
    assert loss > load_kl(decision_of(10 * torch.eye(3)))
    assert (logits.grad[:, 2] < 0).all() and (logits.grad[:, 0] > 0).all()
    assert torch.isfinite(logits.grad).all()


def test_padding_does_not_count_in_the_balance_loss():
    torch.manual_seed(0)
    mixture = make_mixture()
    reps = torch.randn(4, 1, 20, 6)
    alone = mixture.route(list(reps[:, :, :12]), torch.tensor([12]))
    padded = mixture.route(list(reps), torch.tensor([12]))
    for task in TASKS:
        assert torch.equal(
            load_balance(alone.routing[task]),
            load_balance(padded.routing[task]),
        )

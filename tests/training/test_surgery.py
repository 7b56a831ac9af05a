"""PCGrad in a training loop: accumulation, stages, unshared parameters."""

import torch

from merit_modules.losses.joint import JointLoss, UncertaintyWeighting
from merit_modules.tiny import tiny_system
from merit_modules.training.gradients import GradientSurgery


def losses_of(system, wavs):
    loss = JointLoss(load_balance=0.01, router_z=0.001)
    labels = torch.tensor([0, 3])
    terms = loss.terms(system, system(wavs), 0.5 * wavs, labels)
    return loss.by_task(terms)


def test_two_batches_are_projected_as_one():
    torch.manual_seed(0)
    system = tiny_system()
    system.ssl_encoder.set_frozen(False)
    parameters = [p for p in system.parameters() if p.requires_grad]
    batches = torch.randn(2, 2, 8000)
    surgery = GradientSurgery()
    for wavs in batches:
        surgery.accumulate(losses_of(system, wavs), parameters)
    surgery.set_gradients(seed=1)
    stepwise = [p.grad.clone() for p in parameters]

    first, second = (losses_of(system, wavs) for wavs in batches)
    surgery.accumulate({t: first[t] + second[t] for t in first}, parameters)
    surgery.set_gradients(seed=1)
    for parameter, gradient in zip(parameters, stepwise, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, atol=1e-5, rtol=1e-3
        )


def test_heads_keep_their_gradient_and_conflicts_go():
    torch.manual_seed(1)
    system = tiny_system()
    system.ssl_encoder.set_frozen(False)
    parameters = [p for p in system.parameters() if p.requires_grad]
    wavs = torch.randn(2, 8000)
    losses = losses_of(system, wavs)
    # Opposite tasks: whatever one shares with the other conflicts.
    losses["se"] = losses["se"] - 3.0 * losses["ser"]
    surgery = GradientSurgery()
    surgery.accumulate(losses, parameters)
    surgery.set_gradients(seed=0)
    surgical = [p.grad.clone() for p in parameters]
    plain = torch.autograd.grad(sum(losses.values()), parameters)
    head = {id(p) for p in system.se_head.parameters()}
    shared = {id(p) for p in system.mixture.experts.parameters()}
    for parameter, ours, theirs in zip(parameters, surgical, plain):
        if id(parameter) in head:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    assert any(
        not torch.allclose(ours, theirs, atol=1e-5, rtol=1e-3)
        for parameter, ours, theirs in zip(parameters, surgical, plain)
        if id(parameter) in shared
    )


def test_more_parameters_may_come_within_a_step():
    """A step that begins in stage 1 and ends in stage 2."""
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    surgery = GradientSurgery()
    surgery.accumulate({"se": a.sum(), "ser": 2 * a.sum()}, [a])
    both = (a * b).sum()
    surgery.accumulate({"se": both, "ser": both}, [a, b])
    surgery.set_gradients(seed=0)
    assert a.grad.tolist() == [5.0, 5.0] and b.grad.tolist() == [2.0, 2.0]
    again = (a * b).sum()
    surgery.accumulate({"se": again, "ser": again}, [a, b])
    surgery.set_gradients(seed=0)
    assert a.grad.tolist() == [2.0, 2.0]


def test_uncertainty_weights_settle_at_the_losses_own_scale():
    """d/ds (exp(-s) L + c s) = 0 where exp(s) = L / c."""
    weighting = UncertaintyWeighting()
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (
            weighting("se", torch.tensor(0.25))
            + weighting("ser", torch.tensor(1.5))
        ).backward()
        optimizer.step()
    weights = weighting.weights()
    torch.testing.assert_close(
        weights["se"], torch.tensor(4.0), atol=0.01, rtol=0
    )
    torch.testing.assert_close(
        weights["ser"], torch.tensor(1 / 3), atol=0.01, rtol=0
    )

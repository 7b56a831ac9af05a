"""Sparse routing: as the masked dense form, as the released code, learning."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.evaluation.cost import pair_share
from merit_modules.inference.prepack import fold_norms_
from merit_modules.lengths import valid_mask
from merit_modules.losses.routing import (
    load_balance,
)
from merit_modules.moe.experts import (
    ExpertPool,
    LayerMixingExpert,
    LayerMixingPool,
)
from merit_modules.moe.layer_mix import LayerNormConcat, WeightedLayerSum
from merit_modules.moe.mixture import ExpertMixture, dispatch
from merit_modules.moe.routers import GRADIENTS, TopKRouter
from merit_modules.moe.task_sums import TaskLayerSums
from merit_modules.tiny import tiny_system

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


def masked_dense(features, experts, decisions):
    """Run every expert on every frame; weigh with 0 what was not chosen."""
    everything = torch.stack([expert(features) for expert in experts], dim=1)
    outputs = []
    for decision in decisions:
        weights = torch.zeros_like(decision.probs)
        weights = weights.scatter(1, decision.expert_index, decision.weights)
        outputs.append((weights.unsqueeze(-1) * everything).sum(dim=1))
    return outputs


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("n_frames", [1, 40])
def test_sparse_equals_masked_dense(gradient, top_k, n_frames):
    torch.manual_seed(0)
    mixture = make_mixture(top_k=top_k, gradient=gradient).double()
    parameters = [p for p in mixture.parameters() if p.requires_grad]
    layers = torch.randn(4, 1, n_frames, 6, dtype=torch.double)
    upstream = torch.randn(2, n_frames, 5, dtype=torch.double)
    results = []
    for form in (dispatch, masked_dense):
        x = layers.clone().requires_grad_()
        features = mixture.layer_mix.rows(list(x), None)
        decisions = [mixture.routers[task](features) for task in TASKS]
        outputs = torch.stack(form(features, mixture.experts, decisions))
        gradients = torch.autograd.grad(
            (outputs * upstream).sum(),
            [x, *parameters],
            allow_unused=True,
            materialize_grads=True,
        )
        results.append([outputs, *gradients])
    for sparse, dense in zip(*results):
        torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=0)


class Counting(torch.nn.Module):
    """Counts the frames that an expert is run on."""

    def __init__(self, expert):
        super().__init__()
        self.expert = expert
        self.n_frames = 0

    def forward(self, x):
        self.n_frames += len(x)
        return self.expert(x)


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    top_k=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_only_chosen_pairs_of_valid_frames_are_computed(lengths, top_k, seed):
    torch.manual_seed(seed)
    mixture = make_mixture(top_k=top_k)
    for i, expert in enumerate(mixture.experts):
        mixture.experts[i] = Counting(expert)
    reps = list(torch.randn(4, len(lengths), 12, 6))
    out = mixture.route(reps, torch.tensor(lengths))
    pairs = {
        (frame, expert)
        for decision in out.routing.values()
        for frame, experts in enumerate(decision.expert_index.tolist())
        for expert in experts
    }
    assert sum(e.n_frames for e in mixture.experts) == len(pairs)
    assert len(out.routing["se"].probs) == sum(lengths)
    padding = ~valid_mask(torch.tensor(lengths), 12)
    for task in TASKS:
        assert not out.features[task][padding].any()


def test_frames_of_both_tasks_are_computed_once():
    mixture = make_mixture()
    mixture.routers["ser"].load_state_dict(mixture.routers["se"].state_dict())
    for i, expert in enumerate(mixture.experts):
        mixture.experts[i] = Counting(expert)
    reps = list(torch.randn(4, 2, 12, 6))
    out = mixture.route(reps, torch.tensor([12, 12]))
    assert sum(e.n_frames for e in mixture.experts) == 24
    assert torch.equal(out.features["se"], out.features["ser"])


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_what_each_gradient_mode_promises(gradient):
    torch.manual_seed(0)
    features = torch.randn(30, 8)
    router = TopKRouter(8, 3, gradient=gradient)
    decision = router(features)
    best = decision.probs.max(dim=-1, keepdim=True).values
    if gradient == "scaled":
        torch.testing.assert_close(decision.weights, best)
    else:
        assert torch.equal(decision.weights, torch.ones(30, 1))
    if gradient == "reference":
        assert not any(p.requires_grad for p in router.parameters())
        assert not decision.weights.requires_grad
    else:
        upstream = torch.randn(30, 1)
        (got,) = torch.autograd.grad(
            (decision.weights * upstream).sum(),
            router.linear.weight,
            retain_graph=True,
        )
        (wanted,) = torch.autograd.grad(
            (best * upstream).sum(), router.linear.weight
        )
        torch.testing.assert_close(got, wanted)
        assert got.any()


def test_all_experts_chosen_is_the_dense_softmax():
    torch.manual_seed(0)
    decision = TopKRouter(8, 3, top_k=3)(torch.randn(10, 8))
    laid_out = torch.zeros(10, 3).scatter(
        1, decision.expert_index, decision.weights
    )
    torch.testing.assert_close(laid_out, decision.probs)


@pytest.mark.parametrize("name, top_k", [("sparse", 1), ("dense", 3)])
def test_agrees_with_the_released_code(golden, name, top_k):
    case = torch.load(golden / f"moe_concat_{name}.pt", weights_only=True)
    weights = case["state_dict"]
    n_layers, _, _, dim = case["layer_reps"].shape
    hidden, size = weights["experts.0.fc1.weight"].shape
    width = weights["experts.0.fc2.weight"].shape[0]
    mixture = ExpertMixture(
        LayerNormConcat(n_layers, dim),
        ExpertPool(3, size, hidden, width),
        {task: TopKRouter(size, 3, top_k) for task in TASKS},
    )
    state = {}
    for kind in ("weight", "bias"):
        state[f"layer_mix.{kind}"] = torch.stack(
            [weights[f"layer_norms.{i}.{kind}"] for i in range(n_layers)]
        )
        for e in range(3):
            for ours, theirs in ((0, "fc1"), (2, "fc2")):
                key = f"experts.{e}.{theirs}.{kind}"
                state[f"experts.{e}.{ours}.{kind}"] = weights[key]
        for t, task in enumerate(TASKS):
            key = f"gates.{t}.fc.{kind}"
            state[f"routers.{task}.linear.{kind}"] = weights[key]
    mixture.load_state_dict(state)
    layer_reps = case["layer_reps"]
    n_frames = torch.full((layer_reps.shape[1],), layer_reps.shape[2])
    with torch.no_grad():
        out = mixture.route(list(layer_reps), n_frames)
    for task in TASKS:
        torch.testing.assert_close(
            out.features[task], case[f"out_{task}"], atol=1e-5, rtol=0
        )
        if case[f"gate_probs_{task}"] is not None:
            torch.testing.assert_close(
                out.routing[task].probs.view_as(case[f"gate_probs_{task}"]),
                case[f"gate_probs_{task}"],
                atol=1e-5,
                rtol=0,
            )
    # The agreement can fail: one changed weight breaks it.
    mixture.experts[0][0].weight.data.mul_(1.01)
    with torch.no_grad():
        wrong = mixture.route(list(layer_reps), n_frames).features["se"]
    assert (wrong - case["out_se"]).abs().max() > 1e-5


def test_routers_learn_to_send_two_kinds_of_frames_apart():
    """On a task that only a good routing can solve."""
    torch.manual_seed(0)
    kind = torch.arange(64) % 2
    features = torch.randn(64, 4) * 0.1
    features[:, 0] = 2.0 * kind - 1.0
    target = torch.where(kind.bool(), 1.0, -1.0).unsqueeze(-1)
    router = TopKRouter(4, 2)
    constants = torch.nn.ModuleList([Constant(1.0), Constant(-1.0)])
    optimizer = torch.optim.Adam(router.parameters(), lr=0.05)
    for _ in range(60):
        decision = router(features)
        (output,) = dispatch(features, constants, [decision])
        loss = (output - target).square().mean() + load_balance(decision) * 0.1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (output,) = dispatch(features, constants, [router(features)])
    assert torch.equal(output, target)


class Constant(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x.new_full((len(x), 1), self.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"top_k": 0}, "top_k: expected 1 to 3"),
        ({"top_k": 4}, "top_k: expected 1 to 3"),
        ({"gradient": "magic"}, "gradient: expected one of"),
    ],
)
def test_impossible_routers_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        TopKRouter(8, 3, **change)


def test_parts_that_do_not_fit_are_refused():
    mix, pool = LayerNormConcat(2, 3), ExpertPool(2, 6, 4, 4)
    with pytest.raises(ValueError, match="expected input_size 6"):
        ExpertMixture(mix, ExpertPool(2, 7, 4, 4), {"se": TopKRouter(6, 2)})
    with pytest.raises(ValueError, match="expected 2 experts, got 3"):
        ExpertMixture(mix, pool, {"se": TopKRouter(6, 3)})
    with pytest.raises(ValueError, match=r"expected .*\(2, 3\), got \(1, 3\)"):
        mix([torch.zeros(1, 1, 3)], None)


def test_experts_that_start_alike_do_the_same_and_grow_apart():
    torch.manual_seed(0)
    pool = ExpertPool(3, 8, 16, 4, start="alike")
    x = torch.randn(5, 8)
    assert torch.equal(pool[0](x), pool[1](x))
    assert torch.equal(pool[0](x), pool[2](x))
    pool[1][0].weight.data.add_(1.0)
    assert not torch.equal(pool[0](x), pool[1](x))
    assert torch.equal(pool[0](x), pool[2](x))
    with pytest.raises(ValueError, match="'near'"):
        ExpertPool(3, 8, 16, 4, start="near")


@pytest.mark.parametrize("n_layer_reps", [1, 4])
@pytest.mark.parametrize("hidden_size", [12, 17])
def test_experts_that_start_as_the_mean_of_layers(n_layer_reps, hidden_size):
    torch.manual_seed(0)
    size = n_layer_reps * 6
    pool = ExpertPool(3, size, hidden_size, 6, start="layer_mean")
    x = torch.randn(50, size)
    mean = x.unflatten(-1, (n_layer_reps, 6)).mean(dim=1)
    for expert in pool:
        out = expert(x)
        torch.testing.assert_close(out, mean)
        # All that can matter later learns from the first step.
        out.square().sum().backward()
        assert expert[2].weight.grad.abs().sum(dim=0).min() > 0


@pytest.mark.parametrize("sizes", [(24, 11, 6), (24, 20, 5), (24, 100, 7)])
def test_the_mean_of_layers_needs_room(sizes):
    with pytest.raises(ValueError, match=f"got {sizes[0]} -> {sizes[1]} ->"):
        ExpertPool(2, *sizes, start="layer_mean")


def make_residual(**changes):
    options = {
        "layer_mix": LayerNormConcat(4, 6),
        "experts": ExpertPool(3, 24, 16, 6, start="zero"),
        "routers": {task: TopKRouter(24, 3) for task in TASKS},
        "skips": {task: LayerMixingExpert(4, equal=True) for task in TASKS},
    }
    return ExpertMixture(**{**options, **changes})


def test_a_skip_adds_the_tasks_weighted_sum_of_layers():
    torch.manual_seed(0)
    mixture = make_residual()
    reps = torch.randn(4, 2, 20, 6)
    n_frames = torch.tensor([20, 12])
    normed = torch.nn.functional.layer_norm(reps, (6,))
    out = mixture.route(list(reps), n_frames)
    for task in TASKS:
        # The experts are silent: the feature of naive multi-task learning.
        expected = normed.mean(dim=0)
        expected[1, 12:] = 0
        torch.testing.assert_close(out.features[task], expected)
    with torch.no_grad():
        mixture.skips["se"].layer_weights[2] = 50.0
    out = mixture.route(list(reps), n_frames)
    torch.testing.assert_close(out.features["se"][0], normed[2, 0])
    torch.testing.assert_close(out.features["ser"][0], normed[:, 0].mean(0))
    (only,) = mixture.route(
        list(reps), n_frames, tasks=["se"]
    ).features.values()
    assert torch.equal(only, out.features["se"])
    out.features["se"].sum().backward()
    assert mixture.skips["ser"].layer_weights.grad is None
    assert any(e[-1].weight.grad.abs().sum() > 0 for e in mixture.experts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skips": {"se": LayerMixingExpert(4)}}, "one for each of se, ser"),
        (
            {"skips": {task: LayerMixingExpert(3) for task in TASKS}},
            r"experts' output \(6\), got 24 / 3",
        ),
        ({"experts": ExpertPool(3, 24, 16, 5)}, r"output \(5\)"),
    ],
)
def test_skips_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_residual(**changes)


def test_layers_come_one_after_another_and_only_once():
    torch.manual_seed(0)
    reps = list(torch.randn(4, 2, 20, 6))
    n_frames = torch.tensor([20, 12])
    sums = TaskLayerSums({task: WeightedLayerSum(4, 6) for task in TASKS})
    with torch.no_grad():
        sums.layer_mixes["ser"].layer_weights.copy_(torch.randn(4))
    for mixture in (make_mixture(), sums):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                expected = mixture.route(reps, n_frames).features
                layers = iter(reps)
                out = mixture.route(layers, n_frames, n_rows=20).features
                assert next(layers, None) is None
            for task in TASKS:
                assert torch.equal(out[task], expected[task])
                assert out[task].requires_grad == grad
        with pytest.raises(ValueError, match="n_rows: expected"):
            mixture.route(iter(reps), n_frames)
        for wrong in (reps[:3], reps + reps):
            with pytest.raises(ValueError, match=r"expected .*\(4, 6\), got"):
                mixture.route(iter(wrong), n_frames, n_rows=20)
            with pytest.raises(ValueError, match=rf"got \({len(wrong)}, 6\)"):
                mixture.route(wrong, n_frames)
        with pytest.raises(ValueError, match=r"got \(4, 5\)"):
            mixture.route(torch.randn(4, 2, 20, 5), n_frames)


def test_sums_of_layers_are_those_of_each_task():
    torch.manual_seed(0)
    reps = torch.randn(4, 1, 20, 6)
    mixes = {task: WeightedLayerSum(4, 6) for task in TASKS}
    for mix in mixes.values():
        for parameter in mix.parameters():
            torch.nn.init.normal_(parameter)
    out = TaskLayerSums(mixes)(reps)
    for task, mix in mixes.items():
        assert torch.equal(out[task], mix(reps))
        normed = torch.stack([mix.norm(i, rep) for i, rep in enumerate(reps)])
        weights = mix.layer_weights.softmax(0)
        expected = torch.einsum("l,lbtd->btd", weights, normed)
        torch.testing.assert_close(out[task], expected)
    with pytest.raises(ValueError, match="one .layers, width."):
        TaskLayerSums(
            {"a": WeightedLayerSum(4, 6), "b": WeightedLayerSum(3, 6)}
        )


@settings(max_examples=25)
@given(
    n_frames=st.integers(1, 30),
    max_frames=st.integers(1, 40),
    top_k=st.integers(1, 3),
    gradient=st.sampled_from(GRADIENTS),
    seed=st.integers(0, 99),
)
def test_inference_is_what_training_computes(
    n_frames, max_frames, top_k, gradient, seed
):
    torch.manual_seed(seed)
    mixture = make_mixture(top_k=top_k, gradient=gradient)
    reps = list(torch.randn(4, 1, n_frames, 6))
    lengths = torch.tensor([n_frames])
    expected = mixture.route(reps, lengths)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("merit_modules.moe.mixture.MAX_FRAMES", max_frames)
        out = mixture.route(reps, lengths)
    for task in TASKS:
        torch.testing.assert_close(
            out.features[task], expected.features[task], atol=1e-5, rtol=0
        )
        assert torch.equal(
            out.routing[task].expert_index, expected.routing[task].expert_index
        )


def test_an_expert_takes_no_more_frames_at_once_than_it_may(monkeypatch):
    monkeypatch.setattr("merit_modules.moe.mixture.MAX_FRAMES", 8)
    mixture, sizes = make_mixture(top_k=2), []
    for expert in mixture.experts:
        expert.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0])))
    with torch.no_grad():
        out = mixture.route(torch.randn(4, 1, 30, 6), torch.tensor([30]))
    assert max(sizes) <= 8 and min(sizes) > 0
    assert sum(sizes) == pair_share(out.routing) * 30 * 3


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_weights_that_say_they_are_one_are(gradient, top_k):
    torch.manual_seed(0)
    router = TopKRouter(8, 3, top_k, gradient)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            decision = router(torch.randn(30, 8))
        constant = not (grad and gradient == "straight_through")
        assert decision.unit == (
            top_k == 1 and gradient != "scaled" and constant
        )
        if decision.unit:
            assert torch.equal(decision.weights, torch.ones(30, 1))


def gradients_of(mixture, layers):
    layers = layers.clone().requires_grad_()
    out = mixture.route(list(layers), torch.tensor([layers.shape[2]]))
    sum(y.square().sum() for y in out.features.values()).backward()
    found = {k: p.grad for k, p in mixture.named_parameters()}
    mixture.zero_grad()
    return {**found, "layers": layers.grad}


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_experts_computed_again_give_the_same_gradients(top_k):
    torch.manual_seed(0)
    mixture, layers = make_mixture(top_k=top_k), torch.randn(4, 1, 20, 6)
    calls = []
    mixture.experts[0].register_forward_pre_hook(lambda *_: calls.append(1))
    expected = gradients_of(mixture, layers)
    assert len(calls) == 1
    mixture.checkpoint_experts = True
    found = gradients_of(mixture, layers)
    assert len(calls) == 3
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("checkpoint_experts", [False, True])
def test_an_idle_expert_has_a_gradient_of_zero(checkpoint_experts):
    torch.manual_seed(0)
    mixture = make_mixture()
    mixture.checkpoint_experts = checkpoint_experts
    with torch.no_grad():
        for router in mixture.routers.values():
            router.linear.bias[1] = -100.0
    found = gradients_of(mixture, torch.randn(4, 1, 20, 6))
    idle = [g for name, g in found.items() if name.startswith("experts.1.")]
    assert len(idle) == 4 and not any(g.any() for g in idle)
    assert all(g.any() for n, g in found.items() if n.startswith("experts.0."))


@pytest.mark.parametrize("top_k", [1, 3])
def test_folded_norms_change_nothing_but_the_weights(top_k):
    torch.manual_seed(0)
    mixture = make_mixture(top_k=top_k).eval()
    reps, n_frames = torch.randn(4, 2, 40, 6), torch.tensor([40, 25])
    state = {k: v.clone() for k, v in mixture.state_dict().items()}
    with torch.no_grad():
        before = mixture.route(reps, n_frames)
        assert fold_norms_(mixture)
        assert not fold_norms_(mixture)
        after = mixture.route(reps, n_frames)
        # The norm runs without weights: these would do nothing.
        mixture.layer_mix.weight.fill_(7.0)
        unused = mixture.route(reps, n_frames)
        mixture.layer_mix.weight.fill_(1.0)
    for task in TASKS:
        torch.testing.assert_close(
            after.features[task], before.features[task], atol=1e-5, rtol=0
        )
        assert torch.equal(after.expert_map(task), before.expert_map(task))
        assert torch.equal(after.features[task], unused.features[task])
    # A folded state fits a mixture that was not folded, and the reverse.
    other = make_mixture(top_k=top_k)
    other.load_state_dict(mixture.state_dict())
    mixture.load_state_dict(state)
    with torch.no_grad():
        again, elsewhere = (
            mixture.route(reps, n_frames),
            other.route(reps, n_frames),
        )
    for task in TASKS:
        assert torch.equal(again.features[task], before.features[task])
        torch.testing.assert_close(
            elsewhere.features[task], after.features[task], atol=1e-5, rtol=0
        )


def test_norms_are_folded_where_that_can_be_done():
    system = tiny_system()
    torch.nn.init.normal_(system.mixture.layer_mix.weight)
    wavs = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    before = system(wavs)
    assert fold_norms_(system)
    after = system(wavs)
    torch.testing.assert_close(after.logits, before.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        after.enhancement.log1p, before.enhancement.log1p, atol=1e-5, rtol=0
    )
    routers = {task: TopKRouter(6, 3) for task in TASKS}
    summed = ExpertMixture(
        WeightedLayerSum(4, 6), ExpertPool(3, 6, 8, 6), routers
    )
    mixing = ExpertMixture(
        LayerNormConcat(4, 6),
        LayerMixingPool(3, 4, 6),
        {task: TopKRouter(24, 3) for task in TASKS},
    )
    sums = TaskLayerSums({task: WeightedLayerSum(4, 6) for task in TASKS})
    for other in (make_residual(), summed, mixing, sums):
        state = {k: v.clone() for k, v in other.state_dict().items()}
        assert not fold_norms_(other)
        for key, value in other.state_dict().items():
            assert torch.equal(value, state[key]), key

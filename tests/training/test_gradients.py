"""Gradients per task: groups, cosines, surgery and their log."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from merit_modules.errors import InputError
from merit_modules.tiny import tiny_system
from merit_modules.training.conflict import ConflictLog, conflict
from merit_modules.training.gradients import (
    inner_product,
    parameter_groups,
    project_conflicting,
    task_gradients,
)

GROUPS = [
    "ssl_front_end",
    "ssl_input",
    "ssl_layer_1",
    "ssl_layer_2",
    "layer_mix",
    "expert_0",
    "expert_1",
    "expert_2",
    "router_se",
    "router_ser",
]
SHAPES = [(2, 3), (4,), (1, 1, 2)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def task_losses(system, n_samples=6000):
    wavs = torch.randn(2, n_samples, generator=generator(3))
    output = system(wavs, torch.tensor([1.0, 0.7]))
    labels = torch.tensor([0, 3])
    return {
        "se": output.enhancement.log1p.square().mean(),
        "ser": nn.functional.cross_entropy(output.logits, labels),
    }


def flat(groups):
    return [p for members in groups.values() for p in members]


def surgery(*rows):
    """PCGrad of tasks with one gradient each, given as lists of numbers."""
    gradients = {f"task_{i}": [torch.tensor(row)] for i, row in enumerate(rows)}
    return project_conflicting(gradients, generator())[0]


def random_gradients(n_tasks, seed, dtype=torch.float32):
    draw = generator(seed)
    # Every task against the first one: most of them are in conflict.
    common = [torch.randn(shape, generator=draw) for shape in SHAPES]
    signs = [1.0] + [-1.0] * (n_tasks - 1)
    return {
        f"task_{i}": [
            (sign * c + 0.5 * torch.randn(c.shape, generator=draw)).to(dtype)
            for c in common
        ]
        for i, sign in enumerate(signs)
    }


def as_vectors(gradients):
    return [
        np.concatenate([g.double().numpy().ravel() for g in of_task])
        for of_task in gradients.values()
    ]


def naive_pcgrad(vectors, draw):
    """Algorithm 1 of the paper as it stands, one long vector per task."""
    projected = []
    for i, own in enumerate(vectors):
        own = own.copy()
        for j in torch.randperm(len(vectors), generator=draw).tolist():
            if j == i:
                continue
            inner = own @ vectors[j]
            if inner < 0:
                own -= inner / (vectors[j] @ vectors[j]) * vectors[j]
        projected.append(own)
    return projected


# ---- groups ---------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["wavlm", "hubert", "wav2vec2"])
@pytest.mark.parametrize("stable", [False, True])
def test_groups_cover_what_is_shared_once(model_type, stable):
    system = tiny_system(model_type, do_stable_layer_norm=stable)
    groups = parameter_groups(system)
    assert list(groups) == GROUPS
    found = flat(groups)
    assert len(found) == len(set(found))
    shared = [*system.ssl_encoder.parameters(), *system.mixture.parameters()]
    assert set(found) == {p for p in shared if p.requires_grad}


def test_each_group_holds_its_own_part():
    system = tiny_system()
    groups = parameter_groups(system)
    model, mixture = system.ssl_encoder.model, system.mixture
    for name, part in (
        ("ssl_layer_2", model.encoder.layers[1]),
        ("expert_1", mixture.experts[1]),
        ("router_se", mixture.routers["se"]),
    ):
        assert set(groups[name]) == set(part.parameters())
    for part in (model.feature_projection, model.encoder.pos_conv_embed):
        assert set(part.parameters()) < set(groups["ssl_input"])


def test_frozen_parts_are_left_out():
    system = tiny_system(gradient="reference")  # routers that never learn
    system.ssl_encoder.train_front_end = False
    system.ssl_encoder.set_frozen(False)
    assert list(parameter_groups(system)) == GROUPS[1:-2]
    system.ssl_encoder.set_frozen(True)
    assert list(parameter_groups(system)) == GROUPS[4:-2]


def test_mixture_without_experts():
    system = tiny_system()
    system.mixture = nn.ModuleDict({"se": nn.Linear(2, 2)})
    assert list(parameter_groups(system)) == GROUPS[:4]


# ---- gradients ------------------------------------------------------------


def test_gradients_leave_the_backward_pass_as_it_was():
    torch.manual_seed(0)
    system = tiny_system()
    parameters = flat(parameter_groups(system))
    total = sum(task_losses(system).values())
    total.backward()
    expected = [p.grad.clone() for p in parameters]
    system.zero_grad(set_to_none=True)

    losses = task_losses(system)
    gradients = task_gradients(losses, parameters)
    assert all(p.grad is None for p in system.parameters())
    sum(losses.values()).backward()
    for i, parameter in enumerate(parameters):
        torch.testing.assert_close(parameter.grad, expected[i], rtol=0, atol=0)
        of_tasks = [gradients[task][i] for task in losses]
        total = sum(g for g in of_tasks if g is not None)
        torch.testing.assert_close(total, parameter.grad)


def test_a_gradient_that_is_there_already_stays():
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.tensor([5.0, 6.0])
    task_gradients({"se": w.sum()}, [w])
    assert w.grad.tolist() == [5.0, 6.0]


def test_a_router_has_a_gradient_from_its_own_task_only():
    torch.manual_seed(0)
    system = tiny_system()
    routers = parameter_groups(system)
    own, other = routers["router_se"], routers["router_ser"]
    gradients = task_gradients(task_losses(system), own + other)
    given = [g is not None for g in gradients["se"]]
    assert given == [True, True, False, False]
    assert [g is not None for g in gradients["ser"]] == [not g for g in given]


def test_scale_is_divided_out():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    losses = {"se": 1024.0 * w.square().sum()}
    for scale in (1024.0, torch.tensor(1024.0)):
        assert task_gradients(losses, [w], scale)["se"][0].tolist() == [2, 4]
    assert task_gradients(losses, [w])["se"][0].tolist() == [2048, 4096]


def test_scale_with_a_gradient_that_two_parameters_share():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    losses = {"se": (a + b).sum() * 8.0}
    gradients = task_gradients(losses, [a, b], scale=8.0)["se"]
    assert [g.tolist() for g in gradients] == [[1, 1], [1, 1]]


def test_nothing_to_differentiate():
    w = nn.Parameter(torch.ones(2))
    assert task_gradients({"se": w.sum()}, []) == {"se": []}
    assert task_gradients({"se": torch.ones(())}, [w]) == {"se": [None]}


# ---- conflict -------------------------------------------------------------


@pytest.mark.parametrize(
    "se, ser, cosine",
    [
        ([1.0, 0.0], [-2.0, 0.0], -1.0),
        ([1.0, 0.0], [0.0, 3.0], 0.0),
        ([3.0, 4.0], [6.0, 8.0], 1.0),
        ([1.0, 0.0], [-1.0, 1.0], -(0.5**0.5)),
        ([1.0, 0.0], [0.0, 0.0], None),
        ([1.0, float("inf")], [1.0, 1.0], None),
        ([1.0, float("nan")], [1.0, 1.0], None),
    ],
)
def test_cosine_by_hand(se, ser, cosine):
    w = nn.Parameter(torch.zeros(2))
    gradients = {"se": [torch.tensor(se)], "ser": [torch.tensor(ser)]}
    measured = conflict(gradients, [w], {"w": [w]})["w"]
    assert list(measured) == ["cosine", "norm_se", "norm_ser"]
    assert measured["norm_ser"] == pytest.approx(np.linalg.norm(ser))
    if np.isfinite(se).all():
        assert measured["norm_se"] == pytest.approx(np.linalg.norm(se))
    else:
        assert measured["norm_se"] is None
    assert measured["cosine"] == (
        None if cosine is None else pytest.approx(cosine)
    )


def test_cosines_of_a_system_against_numpy():
    torch.manual_seed(0)
    system = tiny_system()
    groups = parameter_groups(system)
    parameters = flat(groups)
    gradients = task_gradients(task_losses(system), parameters)
    measured = conflict(gradients, parameters, groups)
    assert list(measured) == GROUPS

    se, ser = (
        {
            p: np.zeros(p.shape) if g is None else g.double().numpy()
            for p, g in zip(parameters, gradients[task])
        }
        for task in ("se", "ser")
    )
    n_measured = 0
    for name, members in groups.items():
        a = np.concatenate([se[p].ravel() for p in members])
        b = np.concatenate([ser[p].ravel() for p in members])
        norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
        assert measured[name]["norm_se"] == pytest.approx(norm_a, rel=1e-4)
        assert measured[name]["norm_ser"] == pytest.approx(norm_b, rel=1e-4)
        cosine = measured[name]["cosine"]
        if norm_a == 0 or norm_b == 0:
            assert cosine is None
        else:
            assert cosine == pytest.approx(a @ b / norm_a / norm_b, abs=1e-5)
            n_measured += 1
    assert measured["router_se"]["cosine"] is None
    assert measured["router_ser"]["norm_se"] == 0.0
    assert n_measured >= 5  # encoder, layer mix


def test_sums_are_float32_whatever_the_gradients_are():
    # 4096 squares of 4: 65536 is beyond float16, and in bfloat16 a sum of
    # ones stops at 256.
    for dtype, value in ((torch.float16, 4.0), (torch.bfloat16, 1.0)):
        ones = [torch.full((4096,), value, dtype=dtype)]
        assert inner_product(ones, ones).item() == 4096 * value**2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        thirds = [torch.full((30,), 1 / 3)]
        product = inner_product(thirds, thirds)
    assert product.dtype == torch.float32
    assert product.item() == pytest.approx(30 / 9, rel=1e-6)


def test_conflict_says_what_is_wrong():
    w = nn.Parameter(torch.zeros(2))
    one = {"se": [torch.ones(2)]}
    both = {**one, "ser": [torch.ones(2)]}
    with pytest.raises(ValueError, match="expected two tasks, got .'se'"):
        conflict(one, [w], {"w": [w]})
    with pytest.raises(ValueError, match="'other' has a parameter"):
        conflict(both, [w], {"other": [nn.Parameter(torch.ones(1))]})
    assert conflict(both, [w], {}) == {}


# ---- surgery --------------------------------------------------------------


def test_surgery_by_hand():
    # <a, b> = -1: a loses -1/2 of b, b loses -1 of a.
    assert surgery([1.0, 0.0], [-1.0, 1.0]).tolist() == [0.5, 1.5]
    assert surgery([1.0, 0.0], [0.0, 2.0]).tolist() == [1.0, 2.0]
    assert surgery([1.0, 1.0], [2.0, 0.0]).tolist() == [3.0, 1.0]
    assert surgery([1.0, 0.0], [0.0, 0.0]).tolist() == [1.0, 0.0]
    # Opposite gradients leave nothing of each other.
    assert surgery([1.0, 2.0], [-2.0, -4.0]).tolist() == [0.0, 0.0]
    # Conflict with a gradient too short to divide by its square.
    assert surgery([1e15, 0.0], [-1e-25, 0.0])[0].item() == float(
        torch.tensor(1e15)
    )


@pytest.mark.parametrize("n_tasks", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_surgery_as_in_the_paper(n_tasks, seed):
    gradients = random_gradients(n_tasks, seed)
    vectors = as_vectors(gradients)
    expected = sum(naive_pcgrad(vectors, generator(seed)))
    assert np.abs(expected - sum(vectors)).max() > 0.1  # there was conflict
    found = project_conflicting(gradients, generator(seed))
    assert [g.shape for g in found] == [torch.Size(s) for s in SHAPES]
    found = np.concatenate([g.numpy().ravel() for g in found])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_order_comes_from_the_generator():
    gradients = random_gradients(3, seed=1)

    def total(seed):
        found = project_conflicting(gradients, generator(seed))
        return torch.cat([g.flatten() for g in found])

    torch.manual_seed(0)
    first = total(0)
    torch.manual_seed(1)  # the global state has no say
    assert torch.equal(first, total(0))
    assert any(not torch.allclose(first, total(seed)) for seed in range(1, 9))


ENTRY = st.floats(-8, 8, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(
            st.lists(ENTRY, min_size=n, max_size=n), min_size=2, max_size=2
        )
    )
)
def test_neither_of_two_tasks_loses_by_the_other(rows):
    """Result = both projections; each is at no odds with the other task."""
    a, b = (torch.tensor(row) for row in rows)
    found = surgery(*rows).double()
    a, b = a.double(), b.double()
    size = (a.norm() + b.norm()) ** 2
    if a @ b >= 0:
        torch.testing.assert_close(found, a + b, rtol=1e-6, atol=1e-6)
        return
    # The projections follow from the result: it is
    # a - (a.b / b.b) b + b - (a.b / a.a) a.
    projected_a = a - (a @ b) / (b @ b) * b
    projected_b = found - projected_a
    tolerance = 1e-4 * size.item() * max(1.0, (a.norm() / b.norm()).item())
    assert abs((projected_b @ a).item()) <= tolerance
    assert (found @ a).item() >= -tolerance
    assert (found @ b).item() >= -tolerance


def test_without_conflict_it_is_the_gradient_of_the_sum():
    w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    v = nn.Parameter(torch.tensor([1.0]))
    losses = {"se": w.square().sum(), "ser": w.exp().sum() + v.sum()}
    gradients = task_gradients(losses, [w, v])
    found = project_conflicting(gradients, generator())
    sum(losses.values()).backward()
    assert torch.equal(found[0], w.grad)
    assert torch.equal(found[1], v.grad)


def test_what_only_one_task_uses_is_not_operated_on():
    se = [torch.tensor([1.0, 0.0]), torch.tensor([7.0]), None, None]
    ser = [torch.tensor([-1.0, 1.0]), None, torch.tensor([9.0]), None]
    found = project_conflicting({"se": se, "ser": ser}, generator())
    assert [None if g is None else g.tolist() for g in found] == [
        [0.5, 1.5],
        [7.0],
        [9.0],
        None,
    ]
    nothing = {"se": [None], "ser": [torch.ones(1)]}
    assert project_conflicting(nothing, generator())[0].tolist() == [1.0]


def test_the_result_is_new_memory_and_the_input_is_as_before():
    gradients = random_gradients(2, seed=0)
    gradients["task_0"].append(torch.ones(1).expand(3))
    gradients["task_1"].append(None)
    before = {
        k: [g if g is None else g.clone() for g in v]
        for k, v in gradients.items()
    }
    for result in project_conflicting(gradients, generator()):
        result.mul_(0.0)  # as clipping does
    for task, row in gradients.items():
        for found, expected in zip(row, before[task]):
            assert (found is expected is None) or torch.equal(found, expected)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(bad):
    """A gradient scaler must see an overflow."""
    assert not torch.isfinite(surgery([bad, 1.0], [-1.0, 1.0])).all()
    assert not torch.isfinite(surgery([-1.0, 1.0], [bad, 1.0])).all()


def test_half_precision_stays_half():
    gradients = random_gradients(2, seed=0, dtype=torch.bfloat16)
    found = project_conflicting(gradients, generator())
    assert {g.dtype for g in found} == {torch.bfloat16}
    expected = sum(naive_pcgrad(as_vectors(gradients), generator()))
    found = np.concatenate([g.double().numpy().ravel() for g in found])
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.05)


def test_surgery_says_what_is_wrong():
    with pytest.raises(ValueError, match="two or more tasks"):
        project_conflicting({"se": [torch.ones(1)]}, generator())
    uneven = {"se": [torch.ones(1)], "ser": []}
    with pytest.raises(ValueError):
        project_conflicting(uneven, generator())


# ---- log ------------------------------------------------------------------


class Board:
    """Stands for SpeechBrain's TensorboardLogger."""

    def __init__(self):
        self.writer = self
        self.scalars = []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))


def measurement(**cosines):
    return {
        name: {"cosine": cosine, "norm_se": 1.0, "norm_ser": 2.0}
        for name, cosine in cosines.items()
    }


def read(log):
    return json.loads(log.path.read_text())


def test_log_by_hand(tmp_path):
    board = Board()
    log = ConflictLog(tmp_path / "new" / "conflict.json", board)
    log.add(5, 1, measurement(a=-0.5, b=0.5, router=None))
    log.add(10, 2, measurement(a=-0.25, b=-0.5, router=None))
    content = read(log)
    assert content["negative_share"] == 0.75
    assert content["summary"] == {
        "a": {"mean_cosine": -0.375, "negative_share": 1.0, "n": 2},
        "b": {"mean_cosine": 0.0, "negative_share": 0.5, "n": 2},
        "router": {"mean_cosine": None, "negative_share": None, "n": 0},
    }
    first, second = content["measurements"]
    assert first == {
        "step": 5,
        "epoch": 1,
        "negative_share": 0.5,
        "groups": measurement(a=-0.5, b=0.5, router=None),
    }
    assert (second["step"], second["negative_share"]) == (10, 1.0)
    assert board.scalars == [
        ("gradient_cosine/a", -0.5, 5),
        ("gradient_cosine/b", 0.5, 5),
        ("gradient_cosine/negative_share", 0.5, 5),
        ("gradient_cosine/a", -0.25, 10),
        ("gradient_cosine/b", -0.5, 10),
        ("gradient_cosine/negative_share", 1.0, 10),
    ]


def test_log_without_any_cosine(tmp_path):
    board = Board()
    log = ConflictLog(tmp_path / "conflict.json", board)
    log.add(1, 1, measurement(router=None))
    assert read(log)["negative_share"] is None
    assert read(log)["measurements"][0]["negative_share"] is None
    assert board.scalars == []


def test_resumed_log_equals_one_that_was_not_interrupted(tmp_path):
    cosines = [0.1, -0.2, 0.3, -0.4, 0.123456789]
    whole = ConflictLog(tmp_path / "whole.json")
    for step, cosine in enumerate(cosines):
        whole.add(step, 1, measurement(a=cosine))

    path = tmp_path / "resumed.json"
    broken_off = ConflictLog(path)
    for step, cosine in enumerate(cosines[:4]):
        # After the checkpoint at step 2 the first try went another way.
        broken_off.add(step, 1, measurement(a=cosine if step < 2 else 0.9))
    resumed = ConflictLog(path)
    for step in (2, 3, 4):
        resumed.add(step, 1, measurement(a=cosines[step]))
    assert path.read_text() == whole.path.read_text()


def test_resume_drops_at_once_what_comes_again(tmp_path):
    log = ConflictLog(tmp_path / "conflict.json")
    log.resume(0)
    assert not log.path.exists()
    for step in (10, 20, 30):
        log.add(step, 1, measurement(a=-0.5))
    log = ConflictLog(log.path)
    log.resume(20)
    assert [m["step"] for m in read(log)["measurements"]] == [10]
    assert read(log)["summary"]["a"]["n"] == 1
    log.resume(0)
    assert read(log) == {
        "measurements": [],
        "summary": {},
        "negative_share": None,
    }
    assert ConflictLog(log.path).measurements == []


@pytest.mark.parametrize(
    "text",
    [
        '{"measurements": [{"st',
        "[]",
        '{"summary": {}}',
        '{"measurements": {}}',
        '{"measurements": [3]}',
        '{"measurements": [{"epoch": 1, "groups": {}}]}',
        '{"measurements": [{"step": 1, "epoch": 1, "groups": []}]}',
        '{"measurements": [{"step": 1, "epoch": 1, "groups": {"a": {}}}]}',
        '{"measurements": [{"step": 1, "epoch": 1, '
        '"groups": {"a": {"cosine": "much"}}}]}',
    ],
)
def test_a_broken_log_is_named(tmp_path, text):
    path = tmp_path / "conflict.json"
    path.write_text(text)
    with pytest.raises(InputError, match="conflict.json: "):
        ConflictLog(path)
    assert path.read_text() == text


def test_log_of_a_system(tmp_path):
    torch.manual_seed(0)
    system = tiny_system()
    groups = parameter_groups(system)
    parameters = flat(groups)
    gradients = task_gradients(task_losses(system), parameters)
    log = ConflictLog(tmp_path / "conflict.json")
    log.add(1, 1, conflict(gradients, parameters, groups))
    (entry,) = ConflictLog(log.path).measurements
    assert list(entry["groups"]) == GROUPS
    measured = [g["cosine"] for g in entry["groups"].values()]
    negative = [c < 0 for c in measured if c is not None]
    assert entry["negative_share"] == pytest.approx(
        sum(negative) / len(negative), rel=1e-5
    )

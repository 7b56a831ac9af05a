"""What a system costs, against counts by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from merit_modules.cpu import onednn
from merit_modules.evaluation.cost import (
    count_macs,
    count_parameters,
    measure,
    pair_share,
)
from merit_modules.heads.se import PaddedBLSTM
from merit_modules.moe.experts import ExpertPool, FeedForwardExpert
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import RoutingDecision, TopKRouter
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system

TASKS = ("se", "ser")


@pytest.fixture(params=[torch.no_grad, torch.inference_mode, torch.enable_grad])
def gradient_mode(request):
    with request.param():
        yield


def test_linear(gradient_mode):
    layer = nn.Linear(8, 4)
    assert count_macs(lambda: layer(torch.rand(2, 5, 8))) == 2 * 5 * 8 * 4


def test_matrix_times_vector(gradient_mode):
    matrix, vector = torch.rand(2, 5, 8), torch.rand(8)
    assert count_macs(lambda: matrix @ vector) == 2 * 5 * 8


def test_nothing_is_nothing():
    assert count_macs(lambda: torch.rand(4).tanh() * 2.0) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_convolution(gradient_mode, groups):
    layer = nn.Conv1d(6, 4, kernel_size=3, stride=2, groups=groups)
    n_out = (11 - 3) // 2 + 1
    expected = 2 * n_out * 4 * (6 // groups) * 3
    assert count_macs(lambda: layer(torch.rand(2, 6, 11))) == expected


@pytest.mark.parametrize("n_frames", [[7, 7], [7, 5]], ids=["full", "padded"])
def test_blstm(gradient_mode, n_frames):
    blstm = PaddedBLSTM(5, 3, num_layers=2)
    frames, n_frames = torch.rand(2, 7, 5), torch.tensor(n_frames)
    # Four gates of 3 units; the second layer reads both directions.
    per_direction = 4 * 3 * (5 + 3) + 4 * 3 * (2 * 3 + 3)
    expected = 2 * 7 * 2 * per_direction
    assert count_macs(lambda: blstm(frames, n_frames=n_frames)) == expected


def test_cudnn_blstm():
    # Shapes alone: the operator exists without a GPU, on the meta device.
    lstm = nn.LSTM(5, 3, num_layers=2, bidirectional=True, device="meta")
    packed_frames = torch.rand(12, 5, device="meta")  # of 7 + 5 frames
    start = torch.rand(4, 2, 3, device="meta")
    weights = [w for layer in lstm.all_weights for w in layer]
    mode, hidden, projected, n_layers = 2, 3, 0, 2
    sizes = mode, hidden, projected, n_layers

    def run():
        torch.ops.aten._cudnn_rnn(
            packed_frames, weights, 4, None, start, start, *sizes,
            False, 0.0, False, True, [2] * 5 + [1] * 2, None,
        )  # fmt: skip

    per_direction = 4 * 3 * (5 + 3) + 4 * 3 * (2 * 3 + 3)
    assert count_macs(run) == 12 * 2 * per_direction


def test_fused_attention(gradient_mode):
    query, memory = torch.rand(2, 3, 10, 8), torch.rand(2, 3, 6, 8)
    attend = nn.functional.scaled_dot_product_attention
    # Scores, then weighted values.
    expected = 2 * 3 * (10 * 6 * 8 + 10 * 6 * 8)
    assert count_macs(lambda: attend(query, memory, memory)) == expected


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_self_attention_with_projections(gradient_mode, masked, need_weights):
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    layer.eval().requires_grad_(False)
    x = torch.rand(3, 5, 8)
    options = {
        "attn_mask": torch.zeros(5, 5) if masked else None,
        "need_weights": need_weights,
    }
    projections = 4 * 3 * 5 * 8 * 8
    expected = projections + 2 * 3 * 2 * 5 * 5 * 4
    assert count_macs(lambda: layer(x, x, x, **options)) == expected


@pytest.mark.parametrize("fast", [False, True])
def test_a_whole_ssl_encoder(fast, monkeypatch):
    monkeypatch.delenv("MERIT_FAST_PATH", raising=False)
    encoder = RandomSSLEncoder("wavlm", TINY_SSL, fast=fast).eval()
    n_samples, batch, width = 16000, 2, 8
    expected, n_in = 0, 1
    if fast:
        # The norm of the first convolution is folded into its weights: means
        # and covariances of the windows, and each filter's share of them.
        n_windows = (n_samples - 10) // 5 + 1
        expected += n_windows * 10 * 10 + width * 10 * 10 + width * 10
        n_samples = 48 * 320 + 400  # what the 49 frames see
    for kernel, stride in zip([10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]):
        n_samples = (n_samples - kernel) // stride + 1
        expected += n_samples * kernel * n_in * width
        n_in = width
    n, dim, n_heads = n_samples, 16, 2
    expected += n * width * dim  # projection
    layer = n * (4 * dim * dim + 2 * dim * 32)  # attention, feed-forward
    layer += 2 * n * n * dim  # scores, weighted values
    layer += n * n_heads * 8 * (2 if fast else 8)  # gate of the positions
    expected = batch * (expected + 2 * layer)
    # Positions: 16 taps, 2 groups; utterances in one row, 8 zeros apart.
    n_convolved = batch * n + 8 + 1 if fast else batch * (n + 1)
    expected += n_convolved * dim * (dim // 2) * 16
    assert count_macs(lambda: encoder(torch.randn(batch, 16000))) == expected


def test_linear_layer_by_onednn():
    weight, bias = torch.rand(2048, 1024), torch.rand(2048)
    with torch.no_grad():
        macs = count_macs(
            lambda: onednn.linear(torch.rand(5, 1024), weight, bias)
        )
    assert macs == 5 * 1024 * 2048


def test_one_expert():
    expert = FeedForwardExpert(8, 16, 4)
    macs = count_macs(lambda: expert(torch.rand(5, 8)))
    assert macs == 5 * (8 * 16 + 16 * 4)
    n_weights = macs // 5
    assert count_parameters(expert)["total"] == n_weights + 16 + 4


def test_full_size_expert_and_published_operations():
    with torch.device("meta"):
        expert = FeedForwardExpert(25 * 1024, 4096, 1024)
        frames = torch.rand(50, 25 * 1024)  # one second
    macs = count_macs(lambda: expert(frames))
    assert count_parameters(expert)["total"] == pytest.approx(109e6, rel=0.01)
    assert macs == pytest.approx(5.45e9, rel=0.01)


def make_mixture(top_k, n_experts=3):
    layer_mix = LayerNormConcat(n_layer_reps=2, dim=4)
    return ExpertMixture(
        layer_mix,
        ExpertPool(n_experts, 8, hidden_size=16, output_size=5),
        {task: TopKRouter(8, n_experts, top_k) for task in TASKS},
    ).requires_grad_(False)


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(0, 99))
def test_a_mixture_costs_its_routers_and_the_chosen_pairs(top_k, n, seed):
    generator = torch.Generator().manual_seed(seed)
    mixture = make_mixture(top_k)
    for parameter in mixture.parameters():
        parameter.normal_(generator=generator)
    reps = list(torch.randn(2, 1, n, 4, generator=generator))
    outputs = []
    macs = count_macs(
        lambda: outputs.append(mixture.route(reps, torch.tensor([n])))
    )
    share = pair_share(outputs[0].routing)
    routers = len(TASKS) * n * 8 * 3
    expert = 8 * 16 + 16 * 5
    assert macs == routers + round(share * n * 3) * expert
    assert top_k / 3 <= share <= min(1, 2 * top_k / 3)


def test_pair_share_by_hand():
    def decision(index):
        index = torch.tensor(index)
        return RoutingDecision(None, torch.zeros(len(index), 4), index, None)

    # Frame 1: experts 0 and 3. Frame 2: both tasks choose expert 2.
    routing = {"se": decision([[0], [2]]), "ser": decision([[3], [2]])}
    assert pair_share(routing) == 3 / 8
    assert pair_share({"se": decision([[0, 1], [2, 1]])}) == 4 / 8
    assert pair_share({}) is None


@pytest.mark.parametrize(
    "top_k, n_experts, n_idle", [(1, 3, 1), (2, 3, 0), (1, 5, 3), (5, 5, 0)]
)
def test_active_parameters(top_k, n_experts, n_idle):
    found = count_parameters(make_mixture(top_k, n_experts))
    expert = 8 * 16 + 16 + 16 * 5 + 5
    routers, norms = 2 * (8 * n_experts + n_experts), 2 * 2 * 4
    assert found["total"] == n_experts * expert + routers + norms
    assert found["total"] - found["active"] == n_idle * expert


def test_a_system_costs_more_for_more_tasks_and_experts():
    wavs = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    sparse, dense = tiny_system(top_k=1), tiny_system(top_k=3)
    both = count_macs(lambda: sparse(wavs))
    assert count_macs(lambda: sparse(wavs, tasks=["ser"])) < both
    assert both < count_macs(lambda: dense(wavs))
    assert count_macs(lambda: sparse.ssl_encoder(wavs)) < both


def measured(system, n_samples=80000, **options):
    return measure(
        *(system.eval(), torch.randn(2, n_samples), torch.ones(2)),
        duration_s=2 * n_samples / 16000,
        **options,
    )


def test_time_and_memory_are_those_of_another_process():
    system = tiny_system()
    # What this process took before is of no account.
    with torch.no_grad():
        system.eval()(torch.randn(2, 160000))
    before = {name: t.clone() for name, t in system.state_dict().items()}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        short, long = measured(system, 16000), measured(system, 160000)
    finally:
        torch.set_num_threads(threads)
    assert short["own_process"] and short["threads"] == threads + 1
    assert 0 < short["rtf"] < 10
    if "peak_memory_bytes" in short:  # else a machine without /proc
        # Waveforms, layers, spectra of ten seconds, not of one.
        assert long["peak_memory_bytes"] > 5e6
        assert long["peak_memory_bytes"] > 3 * short["peak_memory_bytes"]
    after = system.state_dict()
    assert list(after) == list(before)  # weight norm is where it was
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_what_no_other_process_can_have_is_not_measured(caplog):
    system = tiny_system()
    system.hook = lambda: None
    found = measured(system, 16000)
    assert found["macs_per_s"] > 0 and found["threads"] > 0
    assert not {"rtf", "peak_memory_bytes", "own_process"} & set(found)
    assert "inference not measured" in caplog.text


class Breaks:
    """What another process cannot read."""

    def __reduce__(self):
        return int, ("nothing",)


def test_a_process_that_fails_says_why(monkeypatch, caplog):
    system = tiny_system()
    system.part = Breaks()
    assert "rtf" not in measured(system, 16000)
    assert "invalid literal for int() with base 10: 'nothing'" in caplog.text
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "rtf" not in measured(tiny_system(), 16000)
    assert "No such file or directory: '/nowhere/python'" in caplog.text

"""Costs against counts by hand; the benchmark prints what it measured."""

import importlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from merit_modules.cpu import onednn
from merit_modules.evaluation.cost import (
    count_macs,
    count_parameters,
    pair_share,
)
from merit_modules.heads.se import PaddedBLSTM
from merit_modules.moe.experts import ExpertPool, FeedForwardExpert
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import RoutingDecision, TopKRouter
from merit_modules.ssl.encoder import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system
from tests.conftest import ROOT

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
    assert count_macs(lambda: blstm(frames, n_frames)) == expected


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


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(0, 99))
def test_a_mixture_costs_its_routers_and_the_chosen_pairs(top_k, n, seed):
    generator = torch.Generator().manual_seed(seed)
    mixture = make_mixture(top_k)
    for parameter in mixture.parameters():
        parameter.normal_(generator=generator)
    reps = list(torch.randn(2, 1, n, 4, generator=generator))
    outputs = []
    macs = count_macs(lambda: outputs.append(mixture(reps, torch.tensor([n]))))
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


@pytest.fixture
def systems(monkeypatch):
    """The benchmark, imported as it runs: with its folder on the path."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("systems")


@pytest.mark.slow
def test_the_benchmark_prints_and_writes_all_columns(systems, tmp_path, capsys):
    options = "--ssl wavlm_small --seconds 0.5 --batch 2 --repeats 1"
    names = ["sparse_merit", "cascade"]
    path = tmp_path / "costs.json"
    arguments = [*options.split(), "--json", str(path), "--systems", *names]
    systems.main([*arguments, "--markdown"])
    heading, _, *lines = capsys.readouterr().out.splitlines()[:5]
    headings = [h for h, _, _ in systems.COLUMNS]
    assert [cell.strip() for cell in heading.split("|")[1:-1]] == headings
    result = json.loads(path.read_text())
    sparse, cascade = result["rows"]
    rows = [sparse, cascade, cascade["ssl_encoder"]]
    for row, line in zip(rows, lines, strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells == systems.cells_of(row)
        for key in ("gmac_per_s", "s_per_s", "weights_gib", "time_ratio"):
            assert row[key] > 0
    encoder = cascade["ssl_encoder"]
    assert [row["system"] for row in result["rows"]] == names
    # Router shares of three experts and two tasks; the cascade routes nothing.
    assert 1 / 3 <= sparse["pair_share"] <= 2 / 3
    assert cascade["pair_share"] is None
    assert sparse["active_m"] < sparse["parameters_m"]
    # Every encoder is the same; a cascade has two of them.
    assert encoder["parameters_m"] == sparse["ssl_encoder"]["parameters_m"]
    assert cascade["parameters_m"] > 2 * encoder["parameters_m"]
    assert cascade["gmac_per_s"] > 2 * encoder["gmac_per_s"]
    for row in rows:
        n_bytes = 4e6 * row["parameters_m"]  # fp32, and a few buffers
        assert row["weights_gib"] * 2**30 == pytest.approx(n_bytes, rel=0.01)


@pytest.mark.slow
def test_the_benchmark_builds_each_system_from_its_files(systems, tmp_path):
    parts = [
        count_parameters(systems.build(name, "wavlm_small", tmp_path))["total"]
        for name in ("se_only", "ser_only", "cascade")
    ]
    assert parts[2] == parts[0] + parts[1]
    system = systems.build("weighted_sum_experts", "wavlm_small", tmp_path)
    assert system.normalizer.is_fitted and not system.training
    wavs = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    systems.balance(system, wavs)
    for decision in systems.infer(system, wavs).mixture.routing.values():
        assert decision.logits.mean(dim=0).abs().max() < 1e-4


def test_an_unknown_system_is_refused(systems, capsys):
    with pytest.raises(SystemExit):
        systems.main(["--systems", "sparse_merits"])
    assert "sparse_merits" in capsys.readouterr().err


def test_nothing_cannot_be_measured(systems, capsys):
    with pytest.raises(SystemExit):
        systems.main(["--repeats", "0"])
    assert "--repeats" in capsys.readouterr().err


def test_all_compared_systems_are_measured(systems):
    there = {path.stem for path in (ROOT / "hparams/systems").glob("*.yaml")}
    # Trained otherwise, but the same system as ser_only.
    assert set(systems.SYSTEMS) == there - {"ser_only_clean"}


@pytest.fixture
def run_benchmark(monkeypatch, tmp_path, capsys):
    """Run a benchmark as a command does; return what it wrote and printed."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name, options):
        path = tmp_path / f"{name}.json"
        module = importlib.import_module(name)
        module.main([*options.split(), "--json", str(path), "--markdown"])
        lines = capsys.readouterr().out.splitlines()
        table = [
            [cell.strip() for cell in line.split("|")[1:-1]]
            for line in lines
            if line.startswith("|")
        ]
        return module, json.loads(path.read_text()), table

    return run


def test_the_mixture_is_compared_with_its_floor(run_benchmark):
    sizes = "--layers 2 --dim 8 --hidden 16 --output 4 --repeats 2"
    module, result, table = run_benchmark(
        "mixture", f"{sizes} --frames 20 30 --experts 2 3"
    )
    assert table[0] == [heading for heading, _, _ in module.COLUMNS]
    rows = result["rows"]
    assert len(table) == 2 + len(rows) == 2 + 8
    for row in rows:
        assert row["floor_ratio"] >= row["best_floor_ratio"] > 0
        assert 1 / row["experts"] <= row["computed_share"] <= 1
        for seconds in row["seconds"].values():
            assert len(seconds) == 2


def test_the_floor_counts_the_pairs_and_no_more(run_benchmark):
    module, _, _ = run_benchmark(
        "mixture", "--layers 2 --dim 4 --hidden 16 --output 5 --repeats 1"
    )
    mixture = make_mixture(top_k=1)
    mixture.experts = ExpertPool(3, 8, hidden_size=16, output_size=5)
    args = mixture, list(torch.randn(2, 1, 12, 4)), torch.tensor([12])
    floor, both = module.Floor(*args, False), module.Floor(*args, True)
    share = pair_share(mixture(*args[1:]).routing)
    assert count_macs(floor) == round(share * 36) * (8 * 16 + 16 * 5)
    assert 2 * count_macs(both) == both.n_flops == 3 * floor.n_flops


SMALL = "--ssl wavlm_small --repeats 1"


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["", "--padded"])
def test_inference_is_compared_with_the_baseline(run_benchmark, padding):
    module, result, table = run_benchmark(
        "inference",
        f"{SMALL} --seconds 0.5 1 --batch 2 {padding} "
        "--forms baseline sparse prepacked int8",
    )
    assert table[0] == [heading for heading, _, _ in module.COLUMNS]
    rows = result["rows"]
    assert len(table) == 2 + len(rows) == 2 + 2 * 2 * len(module.FORMS)
    assert result["largest_difference"] <= 1e-4
    for row in rows:
        assert row["time_s"] > 0 and len(row["all_s"]) == 1
        if row["form"] == "baseline":
            assert row["time_ratio"] == 1.0
        audio_s = row["seconds"] * (1.5 if padding else 2)
        assert row["s_per_s"] == pytest.approx(row["time_s"] / audio_s)


@pytest.mark.slow
def test_a_training_step_is_compared_with_the_baseline(run_benchmark):
    module, result, table = run_benchmark(
        "training_step", f"{SMALL} --seconds 0.5 --batch 2 --ssl_layers 2"
    )
    assert table[0] == [heading for heading, _, _ in module.COLUMNS]
    published, ours, fused = result["rows"]
    assert published["time_ratio"] == 1.0
    assert 0 < fused["optimizer_s"] < fused["time_s"]
    assert ours["optimizer_s"] == published["optimizer_s"]
    assert result["largest_difference"] <= 1e-4


def test_the_baseline_has_the_weights_of_the_system(run_benchmark, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    module = importlib.import_module("baseline")
    torch.manual_seed(0)
    system = tiny_system(feat_extract_norm="layer")
    encoder = system.ssl_encoder
    learned = {n for n, p in encoder.named_parameters() if p.requires_grad}
    baseline = module.Baseline(system)
    # The convolutions are frozen, as there; the rest stays as it was.
    learned -= {n for n in learned if "feature_extractor" in n}
    still = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert still == learned
    shared = {id(parameter) for parameter in system.parameters()}
    assert {id(parameter) for parameter in baseline.parameters()} < shared
    batch = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    assert module.check_equal(system, *batch) <= 1e-5
    # What differs is found: a number, or the expert of a frame.
    eps, mix = 1e-5, system.mixture.layer_mix
    monkeypatch.setattr(
        mix, "norm", lambda i, x: LayerNormConcat.norm(mix, i, x) + eps
    )
    assert module.check_equal(system, *batch, atol=1.0) > 0
    with pytest.raises(RuntimeError, match="differ by"):
        module.check_equal(system, *batch, atol=0.0)
    forward = system.mixture.routers["se"].forward
    monkeypatch.setattr(
        system.mixture.routers["se"], "forward", lambda x: forward(-x)
    )
    with pytest.raises(RuntimeError, match="se: other experts on"):
        module.check_equal(system, *batch)


@pytest.mark.parametrize("batch", [["--padded"], ["--batch", "2"]])
def test_the_ssl_encoder_is_compared_with_transformers(
    monkeypatch, tmp_path, capsys, batch
):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    benchmark = importlib.import_module("ssl_encoder")
    path = tmp_path / "encoder.json"
    options = ["--style", "tiny", "--seconds", "1", "--repeats", "1", *batch]
    benchmark.main([*options, "--json", str(path), "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(path.read_text())
    assert [row["form"] for row in result["rows"]] == [
        "transformers",
        "plain",
        "fast",
        *(["prepacked"] if onednn.is_available() else []),
    ]
    for row, line in zip(result["rows"], lines[2:]):
        assert line.startswith(f"| {row['form']} |")
        assert row["median_s"] > 0 and row["floor_ratio"] > 0
    theirs, plain, *fast = result["rows"]
    assert theirs["time_ratio"] == 1.0 and theirs["max_error"] is None
    assert plain["max_error"] == 0.0
    assert all(row["max_error"] < 1e-4 for row in fast)
    assert result["floor_s"] > 0


def test_the_ssl_encoder_needs_no_operations_for_padding(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    benchmark = importlib.import_module("ssl_encoder")
    encoder = RandomSSLEncoder("wavlm", TINY_SSL, fast=True).eval()
    wavs = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    alone = benchmark.needed_macs(encoder, wavs[:, :8000], torch.ones(1))
    assert benchmark.needed_macs(encoder, wavs, torch.tensor([0.5])) == alone

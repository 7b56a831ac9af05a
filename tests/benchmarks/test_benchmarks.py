"""The benchmarks print and write what they measured."""

import importlib
import json

import pytest
import torch

from merit_modules.cpu import onednn
from merit_modules.evaluation.cost import (
    count_macs,
    count_parameters,
    pair_share,
)
from merit_modules.moe.experts import ExpertPool
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import TopKRouter
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system
from tests.conftest import ROOT
from tests.helpers.experiments import SYSTEMS

TASKS = ("se", "ser")


def make_mixture(top_k, n_experts=3):
    layer_mix = LayerNormConcat(n_layer_reps=2, dim=4)
    return ExpertMixture(
        layer_mix,
        ExpertPool(n_experts, 8, hidden_size=16, output_size=5),
        {task: TopKRouter(8, n_experts, top_k) for task in TASKS},
    ).requires_grad_(False)


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
    # Trained otherwise, but the same system as ser_only.
    assert set(systems.SYSTEMS) == SYSTEMS - {"ser_only_clean"}


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
    share = pair_share(mixture.route(*args[1:]).routing)
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


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    benchmark = importlib.import_module("gpu")
    path = tmp_path / "gpu.json"
    options = "--ssl wavlm_small --device cpu --batch 2 --inference_batch 1"
    options += " --compile --compile_backend eager --loop_audio_s 32"
    options += f" --seconds 0.5 --repeats 1 --json {path}"
    benchmark.main(options.split())
    assert onednn.suits(torch.device("cpu"))
    found = json.loads(path.read_text())
    for form in ("sparse", "arranged"):
        assert found["agreement"][f"same_expert, {form}"] > 0.9
    assert found["agreement"]["cpu_difference"] <= 1e-5
    whats = [(row["what"], row["form"]) for row in found["rows"]]
    inference = ["baseline", "sparse", "arranged", "arranged, compiled"]
    step = ["baseline", "sparse", "sparse, compiled"]
    assert whats == [
        *(("both", form) for form in [*inference, "floor"]),
        *(("emotion", form) for form in [*inference, "floor"]),
        *(("step", form) for form in [*step, "floor", "released"]),
        ("train.py", "sparse"),
    ]
    *rows, loop = found["rows"]
    assert loop["n_steps"] > 0 and loop["audio_s_per_s"] > 0
    for row in rows:
        assert row["audio_s_per_s"] > 0
        if row["form"] in (*inference, *step):
            assert row["time_ratio"] > 0 and row["floor_ratio"] > 0
        if "compiled" in row["form"]:
            assert row["n_graphs"] > 0
    counts = {k: v["operations"] for k, v in found["counts"].items()}
    for what in ("both", "emotion"):
        assert counts[f"{what}, arranged"] < counts[f"{what}, sparse"]
    assert counts["step, sparse"] > counts["both, sparse"]
    assert "arranged, compiled" in capsys.readouterr().out

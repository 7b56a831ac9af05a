"""Export to ONNX: the same numbers and decisions, without PyTorch."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.cpu.int8 import quantize_
from merit_modules.errors import InputError
from merit_modules.export.onnx.graph import frozen_copy
from merit_modules.export.onnx.quantize import quantize
from merit_modules.export.onnx.runtime import OnnxMERIT
from merit_modules.export.onnx.writer import export_onnx
from merit_modules.heads.se import SEHead
from merit_modules.heads.ser import MeanPooling, SERHead
from merit_modules.heads.spectral import LogSpectrum
from merit_modules.moe.experts import (
    ExpertPool,
    LayerMixingExpert,
    LayerMixingPool,
)
from merit_modules.moe.layer_mix import LayerNormConcat, WeightedLayerSum
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import TopKRouter
from merit_modules.moe.task_sums import TaskLayerSums
from merit_modules.pretrained import load_folder
from merit_modules.system import CascadeSystem, JointSystem
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT
from tests.helpers.exported import write_run

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

LABELS = ["angry", "sad", "happy", "calm"]
TASKS = ("se", "ser")
#: Small in all but its kinds of layers, and quickly exported.
SMALL_SSL = {
    "conv_dim": [8, 8, 8],
    "conv_kernel": [400, 2, 2],
    "conv_stride": [80, 2, 2],
    "num_hidden_layers": 1,
}
LARGE_STYLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}


def with_mixture(kind, tasks=TASKS, top_k=1):
    """Replace a tiny system's mixture, and its heads to fit."""
    system = tiny_system(**SMALL_SSL, **LARGE_STYLE)
    n_layers, dim = system.ssl_encoder.n_layer_reps, system.ssl_encoder.dim
    concat = LayerNormConcat(n_layers, dim)
    if kind == "sums":
        mixture = TaskLayerSums(
            {task: WeightedLayerSum(n_layers, dim) for task in tasks}
        )
    elif kind == "layer_mixing":
        mixture = ExpertMixture(
            concat,
            LayerMixingPool(3, n_layers, dim),
            {task: TopKRouter(concat.output_size, 3, top_k) for task in tasks},
        )
    else:
        mix = WeightedLayerSum(n_layers, dim) if kind == "weighted" else concat
        skips = {task: LayerMixingExpert(n_layers) for task in tasks}
        mixture = ExpertMixture(
            mix,
            ExpertPool(3, mix.output_size, 32, dim),
            {task: TopKRouter(mix.output_size, 3, top_k) for task in tasks},
            skips=skips if kind == "residual" else None,
        )
    level_db = -25.0 if kind == "sums" else None
    se_head = SEHead(LogSpectrum(), dim, 8, observation_level_db=level_db)
    ser_head = SERHead(MeanPooling(dim), n_classes=4, hidden_size=8)
    system = JointSystem(
        system.normalizer,
        system.ssl_encoder,
        mixture,
        se_head if "se" in tasks else None,
        ser_head if "ser" in tasks else None,
    )
    return system.eval()


@torch.no_grad()
def with_idle_expert(idle):
    """Let no frame go to an expert, which would spoil it."""
    system = tiny_system(num_hidden_layers=1)
    system.ssl_encoder.attention_span_s = 0.5
    for router in system.mixture.routers.values():
        router.linear.bias[idle] = -1e3
    for weight in system.mixture.experts[idle].parameters():
        weight.fill_(1e6)
    return system


def cascade():
    front_end = with_mixture("sums", ["se"])
    front_end.normalizer.set_statistics(mean=0.01, std=0.5)
    ser_system = tiny_system(**SMALL_SSL, **LARGE_STYLE)
    return CascadeSystem(ser_system, front_end=front_end).eval()


SYSTEMS = {
    "sparse_merit": lambda: with_idle_expert(2),
    "dense_merit": lambda: tiny_system(
        "hubert", top_k=3, gradient="scaled", **SMALL_SSL
    ),
    "weighted_sum_experts": lambda: with_mixture("weighted", ["se"], top_k=2),
    "layer_mixing_experts": lambda: with_mixture("layer_mixing", ["ser"]),
    "residual_merit": lambda: with_mixture("residual", ["ser"], top_k=2),
    "naive_mtl": lambda: with_mixture("sums"),
    "ser_only": lambda: with_mixture("sums", ["ser"]),
    "se_only": lambda: with_mixture("sums", ["se"]),
    "cascade": cascade,
}
OUTPUTS = {
    "weighted_sum_experts": {"enhanced", "expert_se"},
    "layer_mixing_experts": {"logits", "expert_ser"},
    "residual_merit": {"logits", "expert_ser"},
    "naive_mtl": {"enhanced", "logits"},
    "ser_only": {"logits"},
    "se_only": {"enhanced"},
    "cascade": {"enhanced", "logits", "expert_ser"},
}
BOTH = {"enhanced", "logits", "expert_se", "expert_ser"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that builds and exports a system of a name, once."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def export(name):
        if name not in made:
            torch.manual_seed(0)
            system = SYSTEMS[name]()
            path = folder / f"{name}.onnx"
            export_onnx(system, path, LABELS, facts={"corpus_name": "Tiny"})
            made[name] = system, OnnxMERIT(path, threads=1)
        return made[name]

    return export


def reference(system, wav):
    """Compute with torch what the graph should give, and the logits' gap."""
    with torch.no_grad():
        out = system(torch.from_numpy(wav)[None])
        found = {}
        if out.enhancement is not None:
            found["enhanced"] = system.enhanced_wavs(out, len(wav))
        if out.logits is not None:
            found["logits"] = out.logits
        gaps = {}
        for task, decision in out.mixture.routing.items():
            found[f"expert_{task}"] = out.mixture.expert_map(task)
            best, second = decision.logits.topk(2).values.unbind(-1)
            gaps[task] = (best - second).numpy()
    return {name: x.numpy() for name, x in found.items()}, gaps


def noise(n_samples, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal(n_samples).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_graph_equals_the_system(exported, name):
    system, model = exported(name)
    shortest = model.facts["min_samples"]
    for n_samples in {shortest, max(400, shortest), 401, 5000, 16037}:
        if n_samples < shortest:
            continue
        wav = noise(n_samples, seed=n_samples)
        expected, _ = reference(system, wav)
        found = model.run(wav)
        assert set(found) == set(expected) == OUTPUTS.get(name, BOTH)
        for key, values in found.items():
            assert values.shape == expected[key].shape
            if key.startswith("expert"):
                assert values.dtype == np.int64
                np.testing.assert_array_equal(values, expected[key])
            else:
                assert np.abs(values - expected[key]).max() < 1e-4, key


@pytest.mark.slow
def test_an_idle_expert_is_right(exported):
    system, model = exported("sparse_merit")
    chosen = {
        expert
        for task, experts in model.analyze(noise(16000)).routing.items()
        for expert in experts.tolist()
    }
    assert chosen == {0, 1}
    assert (system.mixture.experts[2][0].weight == 1e6).all()
    assert np.abs(model.run(noise(16000))["enhanced"]).max() < 100


def test_far_frames_and_quiet_audio(exported):
    """The position bias of frames up to 18 s apart, at -60 dB."""
    system, model = exported("sparse_merit")
    wav = 1e-3 * noise(18 * 16000)
    expected, _ = reference(system, wav)
    found = model.run(wav)
    for task in TASKS:
        np.testing.assert_array_equal(
            found[f"expert_{task}"], expected[f"expert_{task}"]
        )
    assert np.abs(found["logits"] - expected["logits"]).max() < 1e-4
    assert si_sdr_db(expected["enhanced"][0], found["enhanced"][0]) > 60


def si_sdr_db(reference, estimate):
    reference, estimate = (x.astype(np.float64) for x in (reference, estimate))
    wanted = (estimate @ reference) / (reference @ reference) * reference
    rest = estimate - wanted
    return 10 * np.log10((wanted @ wanted) / (rest @ rest))


def test_real_noisy_speech(exported, shared_data):
    system, model = exported("sparse_merit")
    speech = sorted((shared_data / "emodb/wav").glob("*.wav"))[::60]
    noises = sorted((shared_data / "noise/nonspeech").glob("*.wav"))[::15]
    assert len(speech) >= 5
    for number, path in enumerate(speech):
        wav, rate = soundfile.read(path, dtype="float32")
        added, _ = soundfile.read(
            noises[number % len(noises)], dtype="float32", always_2d=True
        )
        assert rate == 16000
        added = np.resize(added[:, 0], len(wav))
        wav = wav + added * (wav.std() / max(added.std(), 1e-6))
        expected, gaps = reference(system, wav)
        found = model.run(wav)
        for task in TASKS:
            key = f"expert_{task}"
            differs = (found[key] != expected[key])[0]
            assert (gaps[task][differs] < 1e-4).all()
        assert si_sdr_db(expected["enhanced"][0], found["enhanced"][0]) > 60
        assert found["logits"].argmax() == expected["logits"].argmax()


def test_the_file_says_what_it_is(exported):
    system, model = exported("sparse_merit")
    assert model.labels == LABELS
    assert model.sample_rate_hz == 16000
    assert model.hop_length == system.ssl_encoder.hop_length
    assert model.tasks == ["se", "ser"]
    assert model.corpus_name == "Tiny"
    assert model.facts["n_experts"] == 3
    assert model.facts["min_samples"] == 400
    assert str(ROOT).encode() not in model.path.read_bytes()


@pytest.mark.slow
def test_analysis_tells_the_emotion(exported):
    system, model = exported("sparse_merit")
    wav = noise(8000)
    found = model.analyze(wav)
    expected, _ = reference(system, wav)
    probabilities = torch.from_numpy(expected["logits"][0]).softmax(0)
    assert list(found.probabilities) == LABELS
    np.testing.assert_allclose(
        list(found.probabilities.values()), probabilities, atol=1e-5
    )
    assert found.label == LABELS[int(probabilities.argmax())]
    assert found.score == found.probabilities[found.label]
    assert found.enhanced.shape == (8000,) and found.attributes is None
    assert exported("se_only")[1].analyze(wav).label is None
    assert exported("ser_only")[1].analyze(wav).enhanced is None


def test_attributes_come_in_their_scale(exported):
    system, model = exported("ser_only")
    wav = noise(8000)
    told = dict(model.facts)
    model.facts |= {"ser_target": "attributes", "attribute_scale": [1, 7]}
    try:
        found = model.analyze(wav)
    finally:
        model.facts.clear()
        model.facts.update(told)
    expected = 4 + 3 * reference(system, wav)[0]["logits"][0]
    assert found.label is None and found.probabilities is None
    np.testing.assert_allclose(
        list(found.attributes.values()), expected, atol=1e-4
    )


@pytest.mark.slow
def test_the_runtime_needs_no_torch(exported):
    _, model = exported("sparse_merit")
    code = f"""
import sys
import numpy as np
from merit_modules.export.onnx.quantize import quantize
from merit_modules.export.onnx.runtime import OnnxMERIT
model = OnnxMERIT({str(model.path)!r}, threads=1)
assert model.analyze(np.zeros(4000, np.float32)).label in model.labels
heavy = {{"torch", "speechbrain", "transformers", "scipy"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "wav, message",
    [
        (np.zeros(399, np.float32), "expected 400 samples or more, got 399"),
        (np.full(800, np.nan), "got 800 that are NaN or infinite"),
        (np.array([np.inf] + [0.0] * 800), "got 1 that are NaN or infinite"),
        (np.zeros((2, 800)), r"expected floating-point samples \(N,\)"),
        (np.zeros(800, np.int16), "got int16"),
    ],
)
def test_bad_waveforms_are_refused(exported, wav, message):
    _, model = exported("sparse_merit")
    with pytest.raises(InputError, match=message):
        model.analyze(wav)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        OnnxMERIT(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="no model"):
        OnnxMERIT(tmp_path / "text.onnx")
    import onnx

    put = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([node], "other", [put], [out]),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="exported by merit_modules"):
        OnnxMERIT(tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="threads: expected 1 or more"):
        OnnxMERIT(tmp_path / "foreign.onnx", threads=0)


def test_what_cannot_be_exported_is_named(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match="opset: expected 20 or later, got 9"):
        export_onnx(tiny_system(), path, LABELS, opset=9)
    with pytest.raises(InputError, match="no front end"):
        export_onnx(CascadeSystem(tiny_system()), path, LABELS)
    with pytest.raises(InputError, match="expected fp32 weights"):
        export_onnx(quantize_(tiny_system()), path, LABELS)
    with pytest.raises(InputError, match="got Linear"):
        export_onnx(torch.nn.Linear(1, 1), path, LABELS)
    system = tiny_system()
    system.normalizer.std.zero_()
    with pytest.raises(InputError, match="no statistics"):
        export_onnx(system, path, LABELS)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        export_onnx(tiny_system(), path, LABELS)
    assert not list(tmp_path.iterdir())


def test_the_system_is_left_as_it_is():
    system = tiny_system().train()
    before = {key: x.clone() for key, x in system.state_dict().items()}
    wanted = [x.requires_grad for x in system.parameters()]
    copied = frozen_copy(system)
    assert system.training and not copied.training
    assert [x.requires_grad for x in system.parameters()] == wanted
    assert before.keys() == system.state_dict().keys()
    system(torch.randn(1, 800)).logits.sum().backward()
    assert not any(x.requires_grad for x in copied.parameters())
    # Nothing is held twice but what weight norm computes.
    ours = {x.data_ptr() for x in system.parameters()}
    again = [
        n for n, x in copied.named_parameters() if x.data_ptr() not in ours
    ]
    assert again == ["ssl_encoder.model.encoder.pos_conv_embed.conv.weight"]


def test_weights_of_8_bits(exported, tmp_path):
    import onnx

    _, model = exported("sparse_merit")
    path = tmp_path / "int8.onnx"
    quantize(model.path, path)
    graph = onnx.load(path).graph
    weights = {x.name: x for x in graph.initializer}
    for part, n_layers in (("routers", 2), ("classifier", 2)):
        kept = [name for name in weights if f".{part}." in name]
        kinds = {weights[name].data_type for name in kept}
        assert len(kept) == 2 * n_layers and kinds == {onnx.TensorProto.FLOAT}
    products = [n for n in graph.node if "feature_projection" in n.name]
    products = [n for n in products if "MatMul" in n.op_type]
    assert [n.op_type for n in products] == ["MatMul"]
    assert any(
        x.data_type == onnx.TensorProto.INT8 and "experts.0" in name
        for name, x in weights.items()
    )
    quantized, wav = OnnxMERIT(path, threads=1), noise(16000)
    found, expected = quantized.run(wav), model.run(wav)
    assert quantized.facts == model.facts
    assert np.abs(found["logits"] - expected["logits"]).max() < 0.1
    assert si_sdr_db(expected["enhanced"][0], found["enhanced"][0]) > 20
    for task in TASKS:
        same = found[f"expert_{task}"] == expected[f"expert_{task}"]
        assert same.mean() > 0.9


def test_what_must_stay_in_fp32_must_be_known(exported, tmp_path):
    import onnx

    graph = onnx.load(exported("sparse_merit")[1].path)
    for number, node in enumerate(graph.graph.node):
        node.name = f"node_{number}"
    onnx.save(graph, tmp_path / "nameless.onnx")
    with pytest.raises(InputError, match="named after parts of a system"):
        quantize(tmp_path / "nameless.onnx", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.slow
def test_8_bits_are_an_option(exported, tmp_path):
    system, model = exported("ser_only")
    path = tmp_path / "int8.onnx"
    export_onnx(system, path, LABELS, int8=True)
    assert list(tmp_path.iterdir()) == [path]
    wav = noise(8000)
    found = OnnxMERIT(path, threads=1).run(wav)["logits"]
    expected = model.run(wav)["logits"]
    assert 0 < np.abs(found - expected).max() < 0.1


@pytest.mark.slow
def test_the_command_adds_the_file(tmp_path, capsys):
    write_run(tmp_path / "run", "ser_only")
    folder = tmp_path / "model"
    command = ["export", str(tmp_path / "run"), str(folder), "--onnx"]
    assert main(command) == 0
    hparams, wav = load_folder(folder), noise(4000)
    expected, _ = reference(hparams["system"], wav)
    model = OnnxMERIT(folder / "model.onnx", threads=1)
    found = model.run(wav)["logits"]
    assert np.abs(found - expected["logits"]).max() < 1e-4
    assert model.labels == list(hparams["labels"])
    assert model.corpus_name == hparams["corpus_name"]
    # A later export replaces the whole folder.
    assert main(command[:-1]) == 0
    assert not (folder / "model.onnx").exists()


@pytest.mark.slow
def test_large_weights_go_to_a_second_file(tmp_path, monkeypatch):
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 0)
    torch.manual_seed(0)
    system = with_mixture("sums", ["ser"])
    path = tmp_path / "deep" / "model.onnx"
    export_onnx(system, path, LABELS)
    assert {x.name for x in path.parent.iterdir()} == {
        "model.onnx",
        "model.onnx.data",
    }
    wav = noise(4000)
    expected, _ = reference(system, wav)
    found = OnnxMERIT(path, threads=1).run(wav)
    assert np.abs(found["logits"] - expected["logits"]).max() < 1e-4

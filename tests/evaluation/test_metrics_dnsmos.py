"""DNSMOS on a small model of the real one's form."""

import numpy as np
import pytest

from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.dnsmos import WINDOW, dnsmos, load_model
from merit_modules.evaluation.metrics.enhancement import MetricError
from merit_modules.evaluation.metrics.scoring import EnhancementScorer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write_model(path, width=WINDOW, n_outputs=3):
    """A model whose outputs are 1, 2, 3... times the mean of the samples."""
    from onnx import TensorProto, helper, numpy_helper

    factors = np.arange(1, n_outputs + 1, dtype=np.float32)[None]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["wav", "axes"], ["mean"]),
            helper.make_node("Mul", ["mean", "factors"], ["ratings"]),
        ],
        "ratings",
        [
            helper.make_tensor_value_info(
                "wav", TensorProto.FLOAT, ["batch", width]
            )
        ],
        [
            helper.make_tensor_value_info(
                "ratings", TensorProto.FLOAT, ["batch", n_outputs]
            )
        ],
        [
            numpy_helper.from_array(factors, "factors"),
            numpy_helper.from_array(np.array([1]), "axes"),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "sig_bak_ovr.onnx")


def test_windows_every_second_and_polynomials(model):
    # 11.5 s: windows from 0, 1 and 2 s. Of a ramp, each has another mean.
    wav = np.linspace(0, 1, round(11.5 * 16000))
    means = [wav[s : s + WINDOW].mean() for s in (0, 16000, 32000)]
    found = dnsmos(wav, 16000, model)
    sig = [-0.08397278 * m**2 + 1.22083953 * m + 0.0052439 for m in means]
    bak = [
        -0.13166888 * (2 * m) ** 2 + 1.60915514 * 2 * m - 0.39604546
        for m in means
    ]
    assert found.sig == pytest.approx(np.mean(sig), rel=1e-4)
    assert found.bak == pytest.approx(np.mean(bak), rel=1e-4)


def test_short_speech_is_repeated(model):
    wav = np.tile([0.25, 0.75], 8000)
    assert dnsmos(wav, 16000, model).sig == pytest.approx(
        -0.08397278 * 0.25 + 1.22083953 * 0.5 + 0.0052439, rel=1e-4
    )


@pytest.mark.slow
def test_the_scorer_takes_it(model):
    wav = np.random.default_rng(0).uniform(size=16000)
    metrics = ["dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"]
    found = []
    for n_workers in (0, 1):
        with EnhancementScorer(16000, n_workers, metrics, model) as scorer:
            scorer.submit("u", wav, wav, 0.5 * wav)
            found.append(scorer.collect())
    assert found[0] == found[1]
    scores, failures = found[0]
    assert not failures
    # The workers hear float32.
    expected = dnsmos(wav.astype(np.float32), 16000, model)
    assert scores["u"]["noisy"]["dnsmos_bak"] == expected.bak
    with pytest.raises(InputError, match="needs --dnsmos_model"):
        EnhancementScorer(16000, 0, metrics)
    with pytest.raises(InputError, match="dnsmos_sig is .* at 16000 Hz"):
        EnhancementScorer(8000, 0, metrics[:1], model)


def test_other_files_are_named(tmp_path):
    with pytest.raises(InputError, match="there is no file .*gone.onnx"):
        load_model(str(tmp_path / "gone.onnx"))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="text.onnx: no model"):
        load_model(str(tmp_path / "text.onnx"))
    other = write_model(tmp_path / "other.onnx", width=1000)
    with pytest.raises(InputError, match=r"expected an input .*144160.*1000"):
        load_model(str(other))
    other = write_model(tmp_path / "two.onnx", n_outputs=2)
    with pytest.raises(InputError, match=r"widths \[2\]"):
        load_model(str(other))


def test_signals_without_a_score(model):
    with pytest.raises(MetricError, match="empty"):
        dnsmos(np.zeros(0), 16000, model)
    with pytest.raises(MetricError, match="not finite"):
        dnsmos(np.full(100, np.nan), 16000, model)
    with pytest.raises(ValueError, match="expected 16000 Hz"):
        dnsmos(np.zeros(100), 8000, model)

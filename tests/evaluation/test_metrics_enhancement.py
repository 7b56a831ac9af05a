"""Enhancement metrics: golden values, worked values, what has no score."""

import builtins
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merit_modules.evaluation.metrics import enhancement
from merit_modules.evaluation.metrics.enhancement import (
    MetricError,
    estoi,
    pesq_wb,
    seg_snr_db,
    si_sdr_db,
    stoi,
)

RATE_HZ = 16000
METRICS = {
    "ssnr": lambda e, r: seg_snr_db(e, r, RATE_HZ),
    "ssnr_rescaled": lambda e, r: seg_snr_db(e, r, RATE_HZ, rescale=True),
    "stoi": lambda e, r: stoi(e, r, RATE_HZ),
    "estoi": lambda e, r: estoi(e, r, RATE_HZ),
    "si_sdr": si_sdr_db,
    "pesq_wb": lambda e, r: pesq_wb(e, r, RATE_HZ),
}
every_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(scope="module")
def pairs(golden):
    path = golden / "enhancement_metrics.pt"
    return torch.load(path, weights_only=True)["pairs"]


def noise(seed, n_samples=RATE_HZ):
    return np.random.default_rng(seed).standard_normal(n_samples)


def require(metric):
    if metric == "pesq_wb":
        pytest.importorskip("pesq")


# ---- agreement ------------------------------------------------------------


@every_metric
def test_golden_values(pairs, metric):
    require(metric)
    for pair in pairs:
        score = METRICS[metric](pair["degraded"], pair["clean"])
        assert type(score) is float
        assert score == pytest.approx(pair[metric], rel=1e-5, abs=1e-5)


@every_metric
def test_arrays_and_tensors_score_the_same(pairs, metric):
    require(metric)
    estimate, reference = pairs[0]["degraded"], pairs[0]["clean"]
    from_tensors = METRICS[metric](estimate.requires_grad_(), reference)
    estimate = estimate.detach().numpy()
    assert METRICS[metric](estimate, reference.numpy()) == from_tensors


def test_si_sdr_agrees_with_torchmetrics():
    audio = pytest.importorskip("torchmetrics.functional.audio")
    reference = torch.from_numpy(noise(0)) + 0.3
    for gain in (0.01, 1.0, 10.0):
        estimate = reference + gain * torch.from_numpy(noise(1)) - 0.1
        theirs = audio.scale_invariant_signal_distortion_ratio(
            estimate, reference, zero_mean=True
        )
        ours = si_sdr_db(estimate, reference)
        assert ours == pytest.approx(float(theirs), abs=1e-5)


# ---- worked values --------------------------------------------------------


@pytest.mark.parametrize(
    "error, expected_db",
    [(0.1, 20.0), (1.0, 0.0), (0.5, 20 * math.log10(2))],
)
def test_seg_snr_of_an_error_in_proportion(error, expected_db):
    reference = noise(0)
    score = seg_snr_db((1 + error) * reference, reference, RATE_HZ)
    assert score == pytest.approx(expected_db, abs=1e-6)


def test_seg_snr_averages_frames_in_db():
    # 8 frames of 480 samples every 120; the error of 0 dB stays out of the
    # first 4 (samples 0-839) and fills the others entirely.
    reference = np.where(np.arange(480 + 8 * 120) % 2, 1.0, -1.0)
    estimate = reference.copy()
    estimate[840:] = 0
    first = [35.0]
    # The error begins 360, 240 and 120 samples into frames 4 to 6.
    weight = np.sin(np.pi * np.arange(1, 481) / 481) ** 4
    partial = [
        10 * math.log10(weight.sum() / weight[start:].sum())
        for start in (360, 240, 120, 0)
    ]
    expected = np.mean(4 * first + partial)
    score = seg_snr_db(estimate, reference, RATE_HZ)
    assert score == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rate_hz, frame", [(16000, 480), (8000, 240)])
def test_seg_snr_needs_one_frame_and_a_hop(rate_hz, frame):
    n_samples = frame + frame // 4
    reference = noise(0, n_samples)
    assert seg_snr_db(2 * reference, reference, rate_hz) == pytest.approx(
        0, abs=1e-6
    )
    with pytest.raises(MetricError, match=f"expected at least {n_samples}"):
        seg_snr_db(reference[1:], reference[1:], rate_hz)


def test_rescaling_undoes_gain_and_offset():
    reference = noise(0)
    estimate = 3 * reference + 0.5
    assert seg_snr_db(estimate, reference, RATE_HZ) < 0
    assert seg_snr_db(estimate, reference, RATE_HZ, rescale=True) == 35


# ---- properties -----------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(-1, 1))
def test_si_sdr_ignores_scale_and_offset(seed, scale, offset):
    reference = noise(seed, 200)
    estimate = reference + noise(seed + 1, 200)
    changed = scale * estimate + offset
    expected = si_sdr_db(estimate, reference)
    assert si_sdr_db(changed, reference) == pytest.approx(expected, abs=1e-6)
    assert si_sdr_db(-changed, reference) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(-60, 60))
def test_seg_snr_is_clamped(seed, level_db):
    reference = noise(seed, 1600)
    error = 10 ** (-level_db / 20) * noise(seed + 1, 1600)
    score = seg_snr_db(reference + error, reference, RATE_HZ)
    assert -10 <= score <= 35
    if level_db < -20:
        assert score == -10
    if level_db > 50:
        assert score == 35


def test_estoi_leaves_numpys_generator_alone():
    # A band without sound: pystoi normalises its own added noise there.
    reference, estimate = noise(0), noise(1)
    spectrum = np.fft.rfft(estimate)
    spectrum[1000:2000] = 0
    estimate = np.fft.irfft(spectrum)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = estoi(estimate, reference, RATE_HZ)
    np.testing.assert_array_equal(
        np.random.get_state()[1],  # noqa: NPY002
        before,
    )
    np.random.seed(2)  # noqa: NPY002
    assert estoi(estimate, reference, RATE_HZ) == first


# ---- no score -------------------------------------------------------------


@every_metric
@pytest.mark.parametrize(
    "shape, other", [((100,), (101,)), ((1, 100), (1, 100)), ((), ())]
)
def test_wrong_shapes_are_printed(metric, shape, other):
    with pytest.raises(ValueError) as caught:
        METRICS[metric](np.ones(shape), np.ones(other))
    assert not isinstance(caught.value, MetricError)
    assert str(shape) in str(caught.value)
    assert str(other) in str(caught.value)


@every_metric
@pytest.mark.parametrize("reference", [np.zeros(16000), np.full(16000, 0.5)])
def test_silent_reference(metric, reference):
    with pytest.raises(MetricError, match="the reference is silent"):
        METRICS[metric](noise(0), reference)


@pytest.mark.parametrize("metric", ["ssnr_rescaled", "pesq_wb", "estoi"])
def test_silent_estimate(metric):
    with pytest.raises(MetricError, match="the estimate is silent"):
        METRICS[metric](np.zeros(16000), noise(0))


def test_silent_estimate_where_it_has_a_score():
    # Its error is the reference itself; nothing of it correlates.
    assert METRICS["ssnr"](np.zeros(16000), noise(0)) == pytest.approx(
        0, abs=1e-6
    )
    assert METRICS["stoi"](np.zeros(16000), noise(0)) == 0


@every_metric
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(metric, value):
    bad = noise(0)
    bad[5] = value
    with pytest.raises(MetricError, match="the estimate has samples"):
        METRICS[metric](bad, noise(1))
    with pytest.raises(MetricError, match="the reference has samples"):
        METRICS[metric](noise(1), bad)


@pytest.mark.parametrize(
    "metric, n_samples, message",
    [
        ("ssnr", 599, "too short for frames of 30 ms: 599 samples"),
        ("stoi", 2, "too short for STOI"),
        ("stoi", 409, "too short for STOI"),
        ("stoi", 411, "too short for STOI"),
        ("estoi", 6000, "too short for STOI"),
        ("pesq_wb", 3999, "too short for PESQ"),
        ("si_sdr", 0, "empty"),
    ],
)
def test_too_short(metric, n_samples, message):
    require(metric)
    with pytest.raises(MetricError, match=message):
        METRICS[metric](noise(0, n_samples), noise(1, n_samples))


def test_stoi_counts_speech_not_silence():
    reference = np.concatenate([noise(0, 4000), np.zeros(28000)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MetricError, match=r"0\.4 s of speech"):
            stoi(reference + 0.1 * noise(1, 32000), reference, RATE_HZ)


@pytest.mark.parametrize("gain", [1, 2, -0.3, 1e-4])
def test_infinite_si_sdr(gain):
    reference = noise(0)
    with pytest.raises(MetricError, match="SI-SDR is infinite"):
        si_sdr_db(gain * reference, reference)


def test_si_sdr_of_an_orthogonal_estimate():
    with pytest.raises(MetricError, match="-inf"):
        si_sdr_db([1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0])


def test_pesq_without_an_utterance():
    pytest.importorskip("pesq")
    reference = np.zeros(16000)
    reference[8000:8200] = noise(1, 200)  # 12.5 ms: no speech
    with pytest.raises(MetricError, match="no utterance detected"):
        pesq_wb(2 * reference, reference, RATE_HZ)


def test_other_errors_of_pesq(monkeypatch):
    pesq = pytest.importorskip("pesq")

    def fail(*args):
        raise error

    monkeypatch.setattr(pesq, "pesq", fail)
    for error in (
        pesq.OutOfMemoryError("out of memory"),
        ValueError("cannot convert float NaN to integer"),
    ):
        with pytest.raises(MetricError, match=f"pesq failed: {error}"):
            pesq_wb(noise(0), noise(1), RATE_HZ)
    monkeypatch.setattr(pesq, "pesq", lambda *args: float("nan"))
    with pytest.raises(MetricError, match="PESQ came out as nan"):
        pesq_wb(noise(0), noise(1), RATE_HZ)


def test_pesq_at_another_rate():
    with pytest.raises(ValueError, match="expected 16000 Hz, got 8000"):
        pesq_wb(noise(0), noise(1), 8000)


def test_pesq_not_installed(monkeypatch):
    original = builtins.__import__

    def without_pesq(name, *args, **kwargs):
        if name == "pesq":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pesq)
    with pytest.raises(MetricError, match="not installed: pip install pesq"):
        pesq_wb(noise(0), noise(1), RATE_HZ)


@pytest.mark.slow
def test_no_pytorch_is_imported():
    code = f"import sys, {enhancement.__name__}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"

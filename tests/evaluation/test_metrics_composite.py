"""CSIG, CBAK, COVL: worked values, a second program, real speech."""

import numpy as np
import pytest
import soundfile
from scipy.linalg import toeplitz

from merit_modules.evaluation.metrics import composite as module
from merit_modules.evaluation.metrics.composite import composite, llr, wss
from merit_modules.evaluation.metrics.enhancement import (
    MetricError,
    pesq_wb,
    seg_snr_db,
    windowed,
)
from merit_modules.evaluation.metrics.scoring import EnhancementScorer

RATE_HZ = 16000


def noise(seed, n_samples=RATE_HZ):
    return np.random.default_rng(seed).standard_normal(n_samples)


def coloured(seed):
    return np.convolve(noise(seed), [1.0, 0.9, 0.5, 0.2], mode="same")


def plain_llr(estimate, reference):
    """The definition, frame by frame, with explicit matrices."""
    ratios = []
    for one, two in zip(windowed(estimate, 16000), windowed(reference, 16000)):
        lags = [
            [frame[: 480 - k] @ frame[k:] for k in range(17)]
            for frame in (one, two)
        ]
        filters = [
            np.r_[1, np.linalg.solve(toeplitz(lag[:16]), -np.array(lag[1:]))]
            for lag in lags
        ]
        matrix = toeplitz(lags[1])
        left, right = (f @ matrix @ f for f in filters)
        ratios.append(np.log(left / right))
    return np.mean(sorted(ratios)[: round(0.95 * len(ratios))])


def plain_wss(estimate, reference):
    """Klatt's measure, band by band, with the walks written out."""
    distances = []
    for pair in zip(windowed(estimate, 16000), windowed(reference, 16000)):
        slopes, weights = [], []
        for frame in pair:
            power = np.abs(np.fft.fft(frame, 1024))[:512] ** 2
            bands = []
            for centre, width in zip(module._CENTRES_HZ, module._WIDTHS_HZ):
                offset = np.arange(512) - np.floor(centre / 8000 * 512)
                bell = np.exp(
                    -11 * (offset / (width / 8000 * 512)) ** 2
                    + np.log(70 / width)
                )
                bell[bell <= np.exp(-30 / (2 * 2.303))] = 0
                bands.append(10 * np.log10(max(power @ bell, 1e-10)))
            slope = np.diff(bands)
            weight = []
            for i in range(24):
                n = i
                if slope[i] > 0:
                    while n < 24 and slope[n] > 0:
                        n += 1
                    peak = bands[n - 1]
                else:
                    while n >= 0 and slope[n] <= 0:
                        n -= 1
                    peak = bands[n + 1]
                weight.append(
                    20 / (20 + max(bands) - bands[i]) / (1 + peak - bands[i])
                )
            slopes.append(slope)
            weights.append(weight)
        weight = np.mean(weights, axis=0)
        squares = (slopes[0] - slopes[1]) ** 2
        distances.append((weight * squares).sum() / weight.sum())
    return np.mean(sorted(distances)[: round(0.95 * len(distances))])


def test_a_second_program_agrees():
    reference = coloured(0)[:6000]
    estimate = reference + 0.3 * noise(1)[:6000]
    assert llr(estimate, reference, RATE_HZ) == pytest.approx(
        plain_llr(estimate, reference), rel=1e-5
    )
    assert wss(estimate, reference, RATE_HZ) == pytest.approx(
        plain_wss(estimate, reference), rel=1e-9
    )


def test_level_does_not_matter_and_noise_does():
    reference = coloured(0)
    for measure in (llr, wss):
        assert measure(0.3 * reference, reference, RATE_HZ) == pytest.approx(
            0, abs=1e-6
        )
        little, much = (
            measure(reference + gain * noise(1), reference, RATE_HZ)
            for gain in (0.1, 0.5)
        )
        assert 0 < little < much


def test_the_published_regressions():
    pytest.importorskip("pesq")
    reference = coloured(0)
    burst = np.r_[np.zeros(8000), noise(1)[:8000]]
    estimate = 0.5 * reference + 3 * burst
    p = pesq_wb(estimate, reference, RATE_HZ)
    s = seg_snr_db(estimate, reference, RATE_HZ)
    ratio = llr(estimate, reference, RATE_HZ)
    slope = wss(estimate, reference, RATE_HZ)
    found = composite(estimate, reference, RATE_HZ)
    assert max(found) < 5 and min(found) > 1  # nothing is clipped
    assert found.csig == pytest.approx(
        3.093 - 1.029 * ratio + 0.603 * p - 0.009 * slope
    )
    assert found.cbak == pytest.approx(
        1.634 + 0.478 * p - 0.007 * slope + 0.063 * s
    )
    assert found.covl == pytest.approx(
        1.594 + 0.805 * p - 0.512 * ratio - 0.007 * slope
    )


def test_real_speech_is_ranked_by_its_noise(shared_data):
    pytest.importorskip("pesq")
    path = sorted((shared_data / "emodb" / "wav").glob("*.wav"))[0]
    clean, _ = soundfile.read(path)
    hiss = noise(3, len(clean)) * clean.std()
    found = [
        composite(clean + gain * hiss, clean, RATE_HZ)
        for gain in (0.03, 0.1, 0.3, 1.0)
    ]
    for name in ("csig", "cbak", "covl"):
        values = [getattr(one, name) for one in found]
        assert values == sorted(values, reverse=True)
        assert 1 <= values[-1] < values[0] < 5


def test_what_has_no_score():
    with pytest.raises(MetricError, match="too short for frames"):
        llr(noise(0, 500), noise(1, 500), RATE_HZ)
    with pytest.raises(MetricError, match="the estimate is silent"):
        llr(np.zeros(16000), noise(1), RATE_HZ)
    with pytest.raises(MetricError, match="the reference is silent"):
        wss(noise(1), np.zeros(16000), RATE_HZ)


def test_the_scorer_computes_the_three_once(monkeypatch):
    from merit_modules.evaluation.metrics import scoring

    calls = []

    def count(estimate, reference, sample_rate_hz):
        calls.append(len(estimate))
        return module.Composite(1.0, 2.0, 3.0)

    monkeypatch.setattr(scoring, "composite", count)
    with EnhancementScorer(16000, 0, ["csig", "cbak", "covl"]) as scorer:
        scorer.submit("u", noise(0), noise(1), noise(2))
        scores, failures = scorer.collect()
    assert scores["u"]["enhanced"] == {"csig": 1.0, "cbak": 2.0, "covl": 3.0}
    assert len(calls) == 2 and not failures

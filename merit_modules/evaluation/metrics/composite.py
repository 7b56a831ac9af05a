"""Composite measures of enhanced speech: CSIG, CBAK, COVL.

Y. Hu and P. C. Loizou, "Evaluation of objective quality measures for speech
enhancement", IEEE TASL 16(1), 2008: regressions of listeners' ratings of the
signal, the background and the whole on four measures. With wide-band PESQ in
place of the narrow-band one, as is usual at 16 kHz.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_toeplitz

from merit_modules.evaluation.metrics.enhancement import (
    MetricError,
    checked,
    pesq_wb,
    seg_snr_db,
    windowed,
)

_KEPT = 0.95  # share of the frames, the best ones, that LLR and WSS average
_EPS = 1e-10

# Critical bands after Klatt (ICASSP 1982): centre and width in Hz.
_CENTRES_HZ = np.array(
    [
        *(50.0, 120.0, 190.0, 260.0, 330.0, 400.0, 470.0, 540.0, 617.372),
        *(703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54),
        *(1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04),
        *(3276.17, 3597.63),
    ]
)
_WIDTHS_HZ = np.array(
    [
        *(70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 70.0, 77.3724, 86.0056),
        *(95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154),
        *(183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126),
        *(321.465, 346.136),
    ]
)
_MIN_GAIN = np.exp(-30.0 / (2 * 2.303))  # -30 dB: below it, a band hears 0
_MAX_PEAK = 20.0  # Klatt's constants of the slopes' weights
_LOCAL_PEAK = 1.0


class Composite(NamedTuple):
    """The three measures, each from 1 (bad) to 5 (excellent).

    Arguments
    ---------
    csig : float
        Distortion of the speech.
    cbak : float
        Intrusiveness of the background.
    covl : float
        Overall quality.
    """

    csig: float
    cbak: float
    covl: float


def composite(estimate, reference, sample_rate_hz):
    """Compute CSIG, CBAK and COVL.

    Arguments
    ---------
    estimate : torch.Tensor or np.ndarray
        Waveform to judge (N,).
    reference : torch.Tensor or np.ndarray
        Clean waveform (N,).
    sample_rate_hz : int
        Sample rate of both; 16000.

    Returns
    -------
    Composite
        The measures.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,), or at another sample rate.
    MetricError
        If one of the four measures behind them cannot be computed.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("pesq")
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> composite(noise, noise, 16000)
    Composite(csig=5.0, cbak=5.0, covl=5.0)
    """
    pesq = pesq_wb(estimate, reference, sample_rate_hz)
    seg_snr = seg_snr_db(estimate, reference, sample_rate_hz)
    ratio = llr(estimate, reference, sample_rate_hz)
    slope = wss(estimate, reference, sample_rate_hz)
    values = (
        3.093 - 1.029 * ratio + 0.603 * pesq - 0.009 * slope,
        1.634 + 0.478 * pesq - 0.007 * slope + 0.063 * seg_snr,
        1.594 + 0.805 * pesq - 0.512 * ratio - 0.007 * slope,
    )
    return Composite(*(float(np.clip(value, 1.0, 5.0)) for value in values))


def llr(estimate, reference, sample_rate_hz):
    """Compute the log-likelihood ratio of linear predictors.

    The mean over the 95 % of the frames with the lowest ratio; frames without
    any signal are left out.

    Arguments
    ---------
    estimate : torch.Tensor or np.ndarray
        Waveform to judge (N,).
    reference : torch.Tensor or np.ndarray
        Clean waveform (N,).
    sample_rate_hz : int
        Sample rate of both.

    Returns
    -------
    float
        0 for the same spectral envelopes, else above.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,).
    MetricError
        If no frame has a signal on both sides.

    Example
    -------
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> llr(0.5 * noise, noise, 16000)
    0.0
    """
    estimate, reference = checked(estimate, reference)
    order = 16 if sample_rate_hz >= 10000 else 10
    sides = [
        _autocorrelation(windowed(signal, sample_rate_hz), order)
        for signal in (estimate, reference)
    ]
    heard = (sides[0][:, 0] > _EPS) & (sides[1][:, 0] > _EPS)
    if not heard.any():
        raise MetricError("no frame with signal: the estimate is silent")
    of_estimate, of_reference = (_predictors(side[heard]) for side in sides)
    correlation = sides[1][heard]
    ratio = _energy(of_estimate, correlation) / _energy(
        of_reference, correlation
    )
    # The reference's own predictor is the best one: below 1 is rounding.
    return _mean_of_best(np.log(np.maximum(ratio, 1.0)))


def _autocorrelation(frames, order):
    n_fft = 2 * frames.shape[1]
    power = np.abs(np.fft.rfft(frames, n_fft)) ** 2
    return np.fft.irfft(power, n_fft)[:, : order + 1]


def _predictors(correlation):
    """Prediction error filters (S, order + 1) by the autocorrelation method."""
    filters = np.ones_like(correlation)
    for row, filter_ in zip(correlation, filters):
        # A trace of white noise: pure tones have a singular matrix.
        column = row[:-1].copy()
        column[0] *= 1 + 1e-9
        filter_[1:] = -solve_toeplitz(column, row[1:])
    return filters


def _energy(filters, correlation):
    """Energy a R a' that is left of a signal after a filter (S,)."""
    order = correlation.shape[1]
    lags = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
    return np.einsum("si,sij,sj->s", filters, correlation[:, lags], filters)


def wss(estimate, reference, sample_rate_hz):
    """Compute the weighted spectral slope distance.

    The mean over the 95 % of the frames with the lowest distance, between the
    slopes of the spectra in 25 critical bands (Klatt, 1982).

    Arguments
    ---------
    estimate : torch.Tensor or np.ndarray
        Waveform to judge (N,).
    reference : torch.Tensor or np.ndarray
        Clean waveform (N,).
    sample_rate_hz : int
        Sample rate of both.

    Returns
    -------
    float
        0 for the same slopes, else above.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,).
    MetricError
        If the signals are too short.

    Example
    -------
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> round(wss(0.5 * noise, noise, 16000), 6)
    0.0
    """
    estimate, reference = checked(estimate, reference)
    energies = [
        _band_energies_db(windowed(signal, sample_rate_hz), sample_rate_hz)
        for signal in (estimate, reference)
    ]
    slopes = [np.diff(energy, axis=1) for energy in energies]
    weights = sum(map(_slope_weights, energies, slopes)) / 2
    distances = (weights * (slopes[0] - slopes[1]) ** 2).sum(axis=1)
    return _mean_of_best(distances / weights.sum(axis=1))


def _band_energies_db(frames, sample_rate_hz):
    n_fft = 2 ** int(np.ceil(np.log2(2 * frames.shape[1])))
    power = np.abs(np.fft.rfft(frames, n_fft))[:, :-1] ** 2
    bins_per_hz = n_fft / sample_rate_hz
    centres = np.floor(_CENTRES_HZ * bins_per_hz)[:, None]
    widths = (_WIDTHS_HZ * bins_per_hz)[:, None]
    bells = np.exp(-11.0 * ((np.arange(n_fft // 2) - centres) / widths) ** 2)
    gains = bells * (_WIDTHS_HZ.min() / _WIDTHS_HZ)[:, None]
    gains[gains <= _MIN_GAIN] = 0.0
    return 10 * np.log10(np.maximum(power @ gains.T, _EPS))


def _slope_weights(energy, slope):
    """Weigh slopes near the spectrum's peaks more (Klatt's equation 3)."""
    peaks = np.empty_like(slope)
    n_slopes = slope.shape[1]
    # Where the spectrum rises, the nearest peak lies above; else below. Both
    # walks take it over from their neighbour band.
    rising = slope > 0
    above = energy[:, -2].copy()
    for band in range(n_slopes - 1, -1, -1):
        # As in the authors' own program, one band short of the peak itself.
        starts = ~rising[:, band + 1] if band + 1 < n_slopes else True
        above = np.where(starts, energy[:, band], above)
        peaks[:, band] = above
    below = energy[:, 0].copy()
    for band in range(n_slopes):
        falls = ~rising[:, band]
        if band:
            below = np.where(rising[:, band - 1], energy[:, band], below)
        peaks[falls, band] = below[falls]
    highest = energy.max(axis=1, keepdims=True)
    here = energy[:, :-1]
    return (_MAX_PEAK / (_MAX_PEAK + highest - here)) * (
        _LOCAL_PEAK / (_LOCAL_PEAK + peaks - here)
    )


def _mean_of_best(distances):
    n_kept = max(1, round(_KEPT * len(distances)))
    return float(np.sort(distances)[:n_kept].mean())

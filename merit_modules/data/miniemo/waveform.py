"""From synthesiser to waveform: resampling, trimming, tilt and level."""

from math import gcd

import numpy as np
from scipy.signal import butter, lfilter, resample_poly

SAMPLE_RATE_HZ = 16000


def speak_trimmed(
    espeak,
    text,
    voice,
    pitch,
    pitch_range,
    rate_wpm,
    sample_rate_hz=SAMPLE_RATE_HZ,
):
    """Speak a text, resample it and cut off the silence around it.

    Arguments
    ---------
    espeak : merit_modules.data.miniemo.espeak.Espeak
        The synthesiser.
    text, voice, pitch, pitch_range, rate_wpm
        See :meth:`merit_modules.data.miniemo.espeak.Espeak.speak`.
    sample_rate_hz : int
        Sampling rate wanted.

    Returns
    -------
    waveform : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> from merit_modules.data.miniemo.espeak import Espeak
    >>> waveform = speak_trimmed(Espeak(), "Hello.", "en+m3", 50, 50, 170)
    >>> 0.2 < len(waveform) / SAMPLE_RATE_HZ < 1
    True
    """
    # Some variants clip at the usual volume of 100.
    waveform, native_hz = espeak.speak(
        text, voice, pitch, pitch_range, rate_wpm, volume=40
    )
    common = gcd(sample_rate_hz, native_hz)
    waveform = resample_poly(
        waveform, sample_rate_hz // common, native_hz // common
    )
    return trim_silence(waveform.astype(np.float32), sample_rate_hz)


def trim_silence(waveform, sample_rate_hz, threshold_db=-35.0, margin_s=0.05):
    """Cut silence off both ends and fade the cuts.

    Arguments
    ---------
    waveform : numpy.ndarray
        Shape (T,).
    sample_rate_hz : int
        Its sampling rate.
    threshold_db : float
        Softer than this, relative to the largest sample, is silence.
    margin_s : float
        Silence that stays on either side, half of it faded.

    Returns
    -------
    waveform : numpy.ndarray
        Shape (T',) with T' <= T.

    Example
    -------
    >>> padded = np.pad(np.ones(100), 900)
    >>> trim_silence(padded, sample_rate_hz=1000).shape
    (200,)
    """
    magnitude = np.abs(waveform)
    loud = np.flatnonzero(
        magnitude > magnitude.max() * 10 ** (threshold_db / 20)
    )
    margin = int(margin_s * sample_rate_hz)
    start = max(loud[0] - margin, 0)
    trimmed = waveform[start : loud[-1] + 1 + margin].copy()
    fade = np.linspace(0, 1, margin // 2, dtype=trimmed.dtype)
    trimmed[: len(fade)] *= fade
    trimmed[len(trimmed) - len(fade) :] *= fade[::-1]
    return trimmed


def tilt_spectrum(waveform, sample_rate_hz, tilt_db, corner_hz=1000.0):
    """Raise or lower high frequencies against low ones.

    Arguments
    ---------
    waveform : numpy.ndarray
        Shape (T,).
    sample_rate_hz : int
        Its sampling rate.
    tilt_db : float
        Gain well above the corner; well below it there is none.
    corner_hz : float
        Corner of the first-order filter.

    Returns
    -------
    waveform : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> fastest = np.resize([1.0, -1.0], 2000)
    >>> tilted = tilt_spectrum(fastest, 16000, tilt_db=6.0)
    >>> round(float(tilted[-1]), 3)
    -1.995
    """
    high_pass = butter(1, corner_hz, "highpass", fs=sample_rate_hz)
    gain = 10 ** (tilt_db / 20) - 1
    return (waveform + gain * lfilter(*high_pass, waveform)).astype(np.float32)


def set_level(waveform, level_db, max_peak=0.85):
    """Scale to an RMS level, or lower if a sample would exceed the peak.

    Arguments
    ---------
    waveform : numpy.ndarray
        Shape (T,), not silent.
    level_db : float
        RMS level in dB relative to full scale.
    max_peak : float
        Largest magnitude allowed.

    Returns
    -------
    waveform : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> set_level(np.array([1.0, -1.0]), level_db=-20).tolist()
    [0.10000000149011612, -0.10000000149011612]
    >>> click = set_level(np.eye(100)[0], level_db=-10)
    >>> round(float(click.max()), 6)
    0.85
    """
    rms = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
    gain = min(10 ** (level_db / 20) / rms, max_peak / np.abs(waveform).max())
    return (waveform * gain).astype(np.float32)

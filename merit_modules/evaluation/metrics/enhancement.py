"""Speech enhancement metrics of one utterance: estimate first, then reference.

Computed in float64 with NumPy; neither PyTorch nor a model is imported, so
that a worker process starts fast. What cannot be computed is a
:class:`MetricError` with the reason, never a number that looks like a score.
"""

import contextlib
import warnings

import numpy as np
import pystoi

MIN_SEG_SNR_DB = -10.0
MAX_SEG_SNR_DB = 35.0
_FRAME_S = 0.03
_HOPS_PER_FRAME = 4
_EPS = 1e-10  # SpeechBrain's composite measure
_MAX_SDR = 1e30  # 300 dB: a residual below that is rounding in float64
_PESQ_RATE_HZ = 16000
_MIN_STOI_S = 256 / 10000  # pystoi's frame; it fails on less
_TOO_FEW_FRAMES = "Not enough STFT frames"  # pystoi's warning


class MetricError(ValueError):
    """A metric is not defined, or cannot be computed, for these signals.

    Example
    -------
    >>> raise MetricError("the reference is silent")
    Traceback (most recent call last):
    merit_modules....MetricError: the reference is silent
    """


def as_array(signal):
    """Turn a tensor or an array into an array of NumPy.

    Arguments
    ---------
    signal : torch.Tensor or np.ndarray
        Waveform, on any device.

    Returns
    -------
    np.ndarray
        The waveform, float64.

    Example
    -------
    >>> as_array(np.zeros(2, dtype=np.float32))
    array([0., 0.])
    """
    if hasattr(signal, "detach"):  # a tensor, without importing torch
        signal = signal.detach().cpu().double().numpy()
    return np.asarray(signal, dtype=np.float64)


def seg_snr_db(estimate, reference, sample_rate_hz, rescale=False):
    """Compute the segmental SNR, as SpeechBrain's composite measure does.

    Hann frames of 30 ms every 7.5 ms, each clamped to [-10, 35] dB. The last
    whole frame is left out, as in that measure.

    Arguments
    ---------
    estimate : torch.Tensor or np.ndarray
        Waveform to judge (N,).
    reference : torch.Tensor or np.ndarray
        Clean waveform (N,).
    sample_rate_hz : int
        Sample rate of both.
    rescale : bool
        Whether to take the mean off both and give the estimate the
        reference's peak first, as that measure does.

    Returns
    -------
    float
        Mean over the frames in dB.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,).
    MetricError
        If the reference is silent, the signals are too short or not finite,
        or a silent estimate has to be rescaled.

    Example
    -------
    >>> reference = np.sin(np.arange(1600))
    >>> round(seg_snr_db(1.1 * reference, reference, 16000), 3)
    20.0
    >>> round(seg_snr_db(1.1 * reference, reference, 16000, rescale=True), 3)
    35.0
    """
    estimate, reference = checked(estimate, reference)
    if rescale:
        _reject_silent(estimate)
        reference = reference - reference.mean()
        estimate = estimate - estimate.mean()
        estimate = estimate * (np.abs(reference).max() / np.abs(estimate).max())
    signal = (windowed(reference, sample_rate_hz) ** 2).sum(axis=1)
    noise = (windowed(reference - estimate, sample_rate_hz) ** 2).sum(axis=1)
    snr_db = 10 * np.log10(signal / (noise + _EPS) + _EPS)
    snr_db = np.clip(snr_db, MIN_SEG_SNR_DB, MAX_SEG_SNR_DB)
    return _finite(snr_db.mean(), "segmental SNR")


def windowed(signal, sample_rate_hz):
    """Cut a signal into Hann frames of 30 ms every 7.5 ms.

    The last whole frame is left out, as in SpeechBrain's composite measure.

    Arguments
    ---------
    signal : np.ndarray
        Waveform (N,).
    sample_rate_hz : int
        Its sample rate.

    Returns
    -------
    np.ndarray
        Frames (S, F).

    Raises
    ------
    MetricError
        If there is not even one frame.

    Example
    -------
    >>> windowed(np.ones(16000), 16000).shape
    (129, 480)
    """
    frame = round(_FRAME_S * sample_rate_hz)
    hop = frame // _HOPS_PER_FRAME
    n_frames = (len(signal) - frame) // hop
    if n_frames < 1:
        raise MetricError(
            f"too short for frames of 30 ms: {len(signal)} samples, "
            f"expected at least {frame + hop}"
        )
    window = np.hanning(frame + 2)[1:-1]  # without its two zeros
    frames = np.lib.stride_tricks.sliding_window_view(signal, frame)
    return frames[::hop][:n_frames] * window


def si_sdr_db(estimate, reference):
    """Compute the scale-invariant signal-to-distortion ratio.

    Means are taken off first (Le Roux et al., "SDR - half-baked or well
    done?", 2019, with zero-mean signals).

    Arguments
    ---------
    estimate : torch.Tensor or np.ndarray
        Waveform to judge (N,).
    reference : torch.Tensor or np.ndarray
        Clean waveform (N,).

    Returns
    -------
    float
        SI-SDR in dB.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,).
    MetricError
        If a signal is silent, empty or not finite, or the ratio is infinite.

    Example
    -------
    >>> reference = np.array([1.0, -1.0, 1.0, -1.0])
    >>> noise = np.array([1.0, 1.0, -1.0, -1.0])
    >>> round(si_sdr_db(5 * reference + 0.5 * noise, reference), 3)
    20.0
    """
    estimate, reference = checked(estimate, reference)
    _reject_silent(estimate)
    estimate = estimate - estimate.mean()
    reference = reference - reference.mean()
    # Sums of products, not dot products: these may depend on BLAS's threads.
    scale = (estimate * reference).sum() / (reference**2).sum()
    signal = ((scale * reference) ** 2).sum()
    noise = ((estimate - scale * reference) ** 2).sum()
    if signal > _MAX_SDR * noise:
        raise MetricError("the estimate is the reference: SI-SDR is infinite")
    if noise > _MAX_SDR * signal:
        raise MetricError("nothing of the reference is left: SI-SDR is -inf")
    return _finite(10 * np.log10(signal / noise), "SI-SDR")


def pesq_wb(estimate, reference, sample_rate_hz):
    """Compute wide-band PESQ (ITU-T P.862.2) with the package pesq.

    That package can crash the whole process on recordings of more than 50
    utterances; :mod:`merit_modules.evaluation.metrics.scoring` survives this.

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
    float
        Mean opinion score, about 1.0 to 4.64.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,), or at another sample rate.
    MetricError
        If pesq is not installed or finds no utterance, or if a signal is
        silent, not finite or shorter than 1/4 s.

    Example
    -------
    >>> import pytest
    >>> _ = pytest.importorskip("pesq")
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> round(pesq_wb(noise, noise, 16000), 2)
    4.64
    """
    if sample_rate_hz != _PESQ_RATE_HZ:
        raise ValueError(
            f"wide-band PESQ: expected {_PESQ_RATE_HZ} Hz, got {sample_rate_hz}"
        )
    estimate, reference = checked(estimate, reference)
    _reject_silent(estimate)
    try:
        import pesq
    except ImportError as error:
        raise MetricError("pesq is not installed: pip install pesq") from error
    try:
        score = pesq.pesq(sample_rate_hz, reference, estimate, "wb")
    except pesq.NoUtterancesError as error:
        raise MetricError("no utterance detected") from error
    except pesq.BufferTooShortError as error:
        raise MetricError("too short for PESQ: it needs 1/4 s") from error
    except (pesq.PesqError, ValueError) as error:
        raise MetricError(f"pesq failed: {error}") from error
    return _finite(score, "PESQ")


def stoi(estimate, reference, sample_rate_hz):
    """Compute short-time objective intelligibility with the package pystoi.

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
        About 0 to 1.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,).
    MetricError
        If the reference is silent or has less than 0.4 s of speech, or a
        signal is not finite.

    Example
    -------
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> round(stoi(noise, noise, 16000), 3)
    1.0
    """
    return _stoi(estimate, reference, sample_rate_hz, extended=False)


def estoi(estimate, reference, sample_rate_hz):
    """Compute extended short-time objective intelligibility with pystoi.

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
        About 0 to 1.

    Raises
    ------
    ValueError
        If the shapes are not (N,) and (N,).
    MetricError
        If a signal is silent or not finite, or the reference has less than
        0.4 s of speech.

    Example
    -------
    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> round(estoi(noise, noise, 16000), 3)
    1.0
    """
    # pystoi would normalise the rounding noise that it adds to silence.
    _reject_silent(checked(estimate, reference)[0])
    return _stoi(estimate, reference, sample_rate_hz, extended=True)


def _stoi(estimate, reference, sample_rate_hz, extended):
    estimate, reference = checked(estimate, reference)
    too_short = MetricError("too short for STOI: it needs 0.4 s of speech")
    if len(reference) <= _MIN_STOI_S * sample_rate_hz:
        raise too_short
    with warnings.catch_warnings(), _fixed_numpy_random():
        # It would go on with a score of 1e-5.
        warnings.filterwarnings("error", _TOO_FEW_FRAMES, RuntimeWarning)
        try:
            score = pystoi.stoi(reference, estimate, sample_rate_hz, extended)
        except RuntimeWarning as warning:
            raise too_short from warning
    return _finite(score, "STOI")


@contextlib.contextmanager
def _fixed_numpy_random():
    # pystoi adds noise from NumPy's global generator to extended STOI: its
    # score must not depend on that generator, nor may it move it.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def checked(estimate, reference):
    """Return both as float64 arrays of one length; reject what has no score."""
    estimate, reference = as_array(estimate), as_array(reference)
    if estimate.ndim != 1 or estimate.shape != reference.shape:
        raise ValueError(
            "expected an estimate and a reference of one shape (N,), got "
            f"{estimate.shape} and {reference.shape}"
        )
    if not estimate.size:
        raise MetricError("the signals are empty")
    for name, signal in (("estimate", estimate), ("reference", reference)):
        if not np.isfinite(signal).all():
            raise MetricError(f"the {name} has samples that are not finite")
    _reject_silent(reference, "reference")
    return estimate, reference


def _reject_silent(signal, name="estimate"):
    if np.ptp(signal) == 0:  # a constant offset is silent, too
        raise MetricError(f"the {name} is silent")


def _finite(score, name):
    if not np.isfinite(score):
        raise MetricError(f"{name} came out as {score}")
    return float(score)

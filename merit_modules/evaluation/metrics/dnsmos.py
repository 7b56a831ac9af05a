"""DNSMOS P.835: estimated ratings of speech, without a clean reference.

C. K. A. Reddy, V. Gopal and R. Cutler, "DNSMOS P.835: a non-intrusive
perceptual objective speech quality metric", ICASSP 2022. The model is the file
``sig_bak_ovr.onnx`` of Microsoft's DNS Challenge; it is not part of this
project, and nothing is downloaded.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.enhancement import MetricError, as_array

RATE_HZ = 16000
WINDOW = 144160  # 9.01 s, what the model takes
HOP = RATE_HZ

#: From the model's raw outputs to ratings: the challenge's polynomials, the
#: highest power first.
_POLYNOMIALS = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


class DNSMOS(NamedTuple):
    """The three ratings, about 1 (bad) to 5 (excellent).

    Arguments
    ---------
    sig : float
        Quality of the speech.
    bak : float
        Quality of the background.
    ovrl : float
        Overall quality.
    """

    sig: float
    bak: float
    ovrl: float


def dnsmos(estimate, sample_rate_hz, model):
    """Rate a recording.

    The model hears windows of 9.01 s, one per second, whose ratings are
    averaged; a shorter recording is repeated until it fills one.

    Arguments
    ---------
    estimate : torch.Tensor or np.ndarray
        Waveform to judge (N,).
    sample_rate_hz : int
        Its sample rate; 16000.
    model : str or Path
        ``sig_bak_ovr.onnx``.

    Returns
    -------
    DNSMOS
        The ratings.

    Raises
    ------
    InputError
        If the file or onnxruntime is missing, or the file is another model.
    ValueError
        If the shape is not (N,), or at another sample rate.
    MetricError
        If the recording is empty or not finite.
    """
    if sample_rate_hz != RATE_HZ:
        raise ValueError(f"DNSMOS: expected {RATE_HZ} Hz, got {sample_rate_hz}")
    estimate = as_array(estimate)
    if estimate.ndim != 1:
        raise ValueError(f"expected a shape of (N,), got {estimate.shape}")
    if not estimate.size:
        raise MetricError("the signal is empty")
    if not np.isfinite(estimate).all():
        raise MetricError("the estimate has samples that are not finite")
    session = load_model(str(model))
    repeats = -(-WINDOW // len(estimate))
    wav = np.tile(estimate, repeats).astype(np.float32)
    if repeats > 1:
        wav = wav[:WINDOW]
    raw = [
        session.run(None, {session.get_inputs()[0].name: window[None]})[0][0]
        for window in np.lib.stride_tricks.sliding_window_view(wav, WINDOW)[
            ::HOP
        ]
    ]
    ratings = [
        np.polyval(polynomial, values).mean()
        for polynomial, values in zip(_POLYNOMIALS.values(), np.array(raw).T)
    ]
    return DNSMOS(*map(float, ratings))


@lru_cache(maxsize=2)
def load_model(path):
    """Open the model once per process.

    Arguments
    ---------
    path : str
        ``sig_bak_ovr.onnx``.

    Returns
    -------
    onnxruntime.InferenceSession
        It computes on one thread of the CPU.

    Raises
    ------
    InputError
        If the file or onnxruntime is missing, or the file is another model.

    Example
    -------
    >>> load_model("nowhere.onnx")
    Traceback (most recent call last):
    merit_modules.errors.InputError: dnsmos_model: there is no file nowhere...
    """
    if not Path(path).is_file():
        raise InputError(f"dnsmos_model: there is no file {path}")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "dnsmos_model: DNSMOS needs onnxruntime: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no public class
        raise InputError(f"dnsmos_model: {path}: no model: {error}") from None
    shapes = [put.shape for put in session.get_inputs()]
    widths = [put.shape[-1] for put in session.get_outputs()]
    if [shape[-1] for shape in shapes] != [WINDOW] or widths != [3]:
        raise InputError(
            f"dnsmos_model: {path}: expected an input (1, {WINDOW}) and an "
            f"output (1, 3), got inputs {shapes} and outputs of widths {widths}"
        )
    return session

"""An exported system in use: NumPy in and out, without PyTorch."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from merit_modules.errors import InputError


class Analysis(NamedTuple):
    """What a model says of a recording; None for what it does not tell.

    Arguments
    ---------
    enhanced : np.ndarray or None
        Enhanced waveform (N,), float32, in the scale of the input.
    probabilities : dict or None
        Class to probability.
    label : str or None
        The most probable class.
    score : float or None
        Its probability.
    routing : dict
        Task name to the best expert of each frame (T,); a frame lasts
        ``hop_length`` samples.
    attributes : dict or None
        Attribute to value, of a model that estimates attributes, not classes.
    """

    enhanced: np.ndarray | None
    probabilities: dict | None
    label: str | None
    score: float | None
    routing: dict
    attributes: dict | None = None


class OnnxMERIT:
    """Runs what :func:`merit_modules.export.onnx.writer.export_onnx` wrote.

    Arguments
    ---------
    path : str or Path
        The ``.onnx`` file; one with ``.data`` at its end lies beside it if the
        weights are large.
    threads : int, optional
        Threads to compute with; as many as there are cores by default.

    Raises
    ------
    InputError
        If onnxruntime is missing, or the file is missing or another model.
    """

    def __init__(self, path, threads=None):
        if threads is not None and threads < 1:
            raise InputError(f"threads: expected 1 or more, got {threads}")
        self.path = Path(path)
        self._session = _open(self.path, threads)
        told = self._session.get_modelmeta().custom_metadata_map
        #: What the file says of the system; see the properties of this class.
        self.facts = {
            key.removeprefix("merit."): json.loads(value)
            for key, value in told.items()
            if key.startswith("merit.")
        }
        if "min_samples" not in self.facts:
            raise InputError(
                f"{path}: expected a model that was exported by merit_modules"
            )
        self._outputs = [put.name for put in self._session.get_outputs()]

    @property
    def labels(self):
        """Classes or attributes in the order of the logits."""
        return self.facts["labels"]

    @property
    def sample_rate_hz(self):
        """Sampling rate of the waveforms that the model takes."""
        return self.facts["sample_rate_hz"]

    @property
    def hop_length(self):
        """Samples from one frame of ``routing`` to the next."""
        return self.facts["hop_length"]

    @property
    def tasks(self):
        """What the model does: ``se``, ``ser`` or both."""
        return self.facts["tasks"]

    @property
    def corpus_name(self):
        """The training set's name; None if nobody wrote it down."""
        return self.facts.get("corpus_name")

    def run(self, wav):
        """Compute the outputs as they are in the graph.

        Arguments
        ---------
        wav : np.ndarray
            Waveform (N,) or (1, N) at the model's sample rate.

        Returns
        -------
        dict
            Those of ``enhanced`` (1, N), ``logits`` (1, C), ``expert_se`` and
            ``expert_ser`` (1, T) that the model has.

        Raises
        ------
        InputError
            If the waveform is of another shape, too short or not finite.
        """
        wav = self._check(wav)
        outputs = self._session.run(self._outputs, {"wav": wav[None]})
        return dict(zip(self._outputs, outputs))

    def _check(self, wav):
        wav = np.asarray(wav)
        if wav.ndim == 2 and len(wav) == 1:
            wav = wav[0]
        if wav.ndim != 1 or wav.dtype.kind != "f":
            raise InputError(
                "wav: expected floating-point samples (N,), got "
                f"{wav.dtype} {wav.shape}"
            )
        if len(wav) < self.facts["min_samples"]:
            raise InputError(
                f"wav: expected {self.facts['min_samples']} samples or more, "
                f"got {len(wav)}"
            )
        if not np.isfinite(wav).all():
            n_bad = int((~np.isfinite(wav)).sum())
            raise InputError(
                f"wav: expected finite samples, got {n_bad} that are NaN or "
                "infinite"
            )
        return wav.astype(np.float32)

    def analyze(self, wav):
        """Enhance a recording and recognise its emotion.

        Arguments
        ---------
        wav : np.ndarray
            Waveform (N,) or (1, N) at the model's sample rate.

        Returns
        -------
        Analysis
            All that the model can tell.

        Raises
        ------
        InputError
            If the waveform is of another shape, too short or not finite.
        """
        outputs = self.run(wav)
        enhanced = outputs.get("enhanced")
        return Analysis(
            None if enhanced is None else enhanced[0],
            routing={
                task: outputs[f"expert_{task}"][0]
                for task in self.tasks
                if f"expert_{task}" in outputs
            },
            **self._read(outputs.get("logits")),
        )

    def _read(self, logits):
        nothing = dict.fromkeys(("probabilities", "label", "score"))
        if logits is None:
            return nothing
        values = logits[0].astype(np.float64)
        if self.facts["ser_target"] == "attributes":
            low, high = self.facts["attribute_scale"]
            values = (high + low) / 2 + (high - low) / 2 * values
            named = dict(zip(self.labels, values.tolist(), strict=True))
            return {**nothing, "attributes": named}
        odds = np.exp(values - values.max())
        named = dict(
            zip(self.labels, (odds / odds.sum()).tolist(), strict=True)
        )
        label = max(named, key=named.__getitem__)
        return {"probabilities": named, "label": label, "score": named[label]}


def _open(path, threads):
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an ONNX model")
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "running ONNX models needs onnxruntime: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no public class
        raise InputError(f"{path}: no model: {error}") from None

"""Scores of enhancement over a test set, computed beside the model.

PESQ and STOI take longer than the model on a GPU; they run in processes of
their own. These import NumPy, SciPy and the metrics, not PyTorch, and a crash
in one of them (the package pesq is C code) costs one score.
"""

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import sys
import types
from collections import Counter
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.composite import composite
from merit_modules.evaluation.metrics.dnsmos import dnsmos, load_model
from merit_modules.evaluation.metrics.enhancement import (
    MetricError,
    as_array,
    estoi,
    pesq_wb,
    seg_snr_db,
    si_sdr_db,
    stoi,
)

SIDES = ("noisy", "enhanced")

#: Name to function of estimate, reference and sample rate.
SINGLE = {
    "seg_snr_db": seg_snr_db,
    "seg_snr_rescaled_db": functools.partial(seg_snr_db, rescale=True),
    "pesq_wb": pesq_wb,
    "stoi": stoi,
    "estoi": estoi,
    "si_sdr_db": lambda estimate, reference, _: si_sdr_db(estimate, reference),
}
#: Names that one computation gives together.
COMPOSITE = ("csig", "cbak", "covl")
DNSMOS = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
METRICS = (*SINGLE, *COMPOSITE, *DNSMOS)

_BACKLOG = 4  # utterances per worker that wait: bounds the memory
_CRASHED = "the worker process crashed"


class _Measurement(NamedTuple):
    """One metric of one side of an utterance: a value or a reason for none."""

    side: str
    metric: str
    value: float | None = None
    reason: str | None = None


class EnhancementScorer:
    """Scores noisy and enhanced speech in worker processes.

    The scores do not depend on the number of workers. Workers start with the
    first utterance and serve until :meth:`close`, which leaving the context
    calls; a crashed one is replaced.

    Arguments
    ---------
    sample_rate_hz : int
        Sample rate of all waveforms.
    n_workers : int
        Number of processes; 0 computes in this one, which a crash of the
        package pesq then ends.
    metrics : sequence of str
        Some of ``METRICS``.
    dnsmos_model : str or Path, optional
        ``sig_bak_ovr.onnx``, for the DNSMOS metrics.

    Raises
    ------
    InputError
        If a metric is unknown, not defined at this sample rate or lacks its
        model, or if ``n_workers`` is no number of processes.

    Example
    -------
    >>> clean = np.sin(np.arange(1600.0))
    >>> with EnhancementScorer(16000, 0, metrics=["seg_snr_db"]) as scorer:
    ...     scorer.submit("utt1", clean, noisy=2 * clean, enhanced=1.1 * clean)
    ...     scores, failures = scorer.collect()
    >>> round(scores["utt1"]["enhanced"]["seg_snr_db"], 3), failures
    (20.0, [])
    """

    def __init__(
        self,
        sample_rate_hz,
        n_workers,
        metrics=("seg_snr_db", "pesq_wb", "stoi", "si_sdr_db"),
        dnsmos_model=None,
    ):
        unknown = [metric for metric in metrics if metric not in METRICS]
        if unknown:
            raise InputError(
                f"metrics: expected some of {', '.join(METRICS)}, "
                f"got {', '.join(map(repr, unknown))}"
            )
        at_16_khz = {"pesq_wb", *COMPOSITE, *DNSMOS}.intersection(metrics)
        if at_16_khz and sample_rate_hz != 16000:
            raise InputError(
                f"metrics: {min(at_16_khz)} is defined at 16000 Hz, "
                f"sample_rate_hz is {sample_rate_hz}"
            )
        if set(DNSMOS).intersection(metrics):
            if dnsmos_model is None:
                raise InputError(
                    "metrics: DNSMOS needs --dnsmos_model sig_bak_ovr.onnx"
                )
            load_model(str(dnsmos_model))  # now, not after the training
        if type(n_workers) is not int or n_workers < 0:
            raise InputError(
                f"n_workers: expected 0 or a positive integer, "
                f"got {n_workers!r}"
            )
        self.sample_rate_hz = sample_rate_hz
        self.n_workers = n_workers
        self.metrics = tuple(metrics)
        self.dnsmos_model = dnsmos_model
        self._measures = [(s, m) for s in SIDES for m in self.metrics]
        self._pool = None
        self._pending = {}  # future to id and signals
        self._results = {}  # id to measurements, in the order of submission

    def __enter__(self):
        """Return the scorer itself."""
        return self

    def __exit__(self, *exc_info):
        """Close the scorer."""
        self.close()

    def submit(self, utt_id, clean, noisy, enhanced):
        """Hand over an utterance; waits while too many are not scored yet.

        Arguments
        ---------
        utt_id : str
            Its id, new since the last :meth:`collect`.
        clean : torch.Tensor or np.ndarray
            Clean waveform (N,) without padding; copied as float32.
        noisy : torch.Tensor or np.ndarray
            Noisy waveform (N,).
        enhanced : torch.Tensor or np.ndarray
            Enhanced waveform (N,).

        Raises
        ------
        ValueError
            If the waveforms are not of one shape (N,), or the id came before.
        """
        signals = {"clean": clean, "noisy": noisy, "enhanced": enhanced}
        # A copy: the caller may reuse its memory before a worker reads it.
        signals = {
            side: as_array(wav).astype(np.float32)
            for side, wav in signals.items()
        }
        shapes = [wav.shape for wav in signals.values()]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"{utt_id!r}: expected clean, noisy and enhanced of one shape "
                f"(N,), got {', '.join(map(str, shapes))}"
            )
        if utt_id in self._results:
            raise ValueError(f"{utt_id!r} was submitted before")
        self._results[utt_id] = None
        if self.n_workers == 0:
            self._results[utt_id] = score_utterance(
                utt_id,
                signals,
                self.sample_rate_hz,
                self._measures,
                self.dnsmos_model,
            )
            return
        while len(self._pending) >= _BACKLOG * self.n_workers:
            self._gather(FIRST_COMPLETED)
        self._start(utt_id, signals)

    def collect(self):
        """Wait for all scores since the last call and forget them.

        Returns
        -------
        scores : dict
            ``{utt_id: {"noisy": {metric: float}, "enhanced": {...}}}`` in the
            order of submission; a metric that failed is absent.
        failures : list of dict
            ``utt_id``, ``side``, ``metric`` and ``reason`` of each.
        """
        self._gather(ALL_COMPLETED)
        results, self._results = self._results, {}
        scores = {utt_id: {side: {} for side in SIDES} for utt_id in results}
        failures = []
        for utt_id, measurements in results.items():
            for side, metric, value, reason in measurements:
                if reason is None:
                    scores[utt_id][side][metric] = value
                    continue
                failures.append(
                    {
                        "utt_id": utt_id,
                        "side": side,
                        "metric": metric,
                        "reason": reason,
                    }
                )
        return scores, failures

    def close(self):
        """End the workers; what was not collected is lost."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending, self._results = {}, {}

    def _start(self, utt_id, signals):
        try:
            future = self._in_worker(utt_id, signals, self._measures)
        except BrokenProcessPool:  # crashed since the last look
            self._pool = None
            self._gather(ALL_COMPLETED)
            future = self._in_worker(utt_id, signals, self._measures)
        self._pending[future] = utt_id, signals

    def _in_worker(self, utt_id, signals, measures):
        if self._pool is None:
            self._pool = _new_pool(self.n_workers)
        with _without_main_module():
            return self._pool.submit(
                score_utterance,
                utt_id,
                signals,
                self.sample_rate_hz,
                measures,
                self.dnsmos_model,
            )

    def _gather(self, return_when):
        done, _ = wait(self._pending, return_when=return_when)
        if any(_is_lost(future) for future in done):
            done, _ = wait(self._pending)  # one crash ends the whole pool
        lost = []
        for future in done:
            utt_id, signals = self._pending.pop(future)
            if _is_lost(future):
                lost.append((utt_id, signals))
            else:
                self._results[utt_id] = future.result()
        if lost:
            self._pool = None
        for utt_id, signals in lost:
            self._results[utt_id] = self._score_apart(utt_id, signals)

    def _score_apart(self, utt_id, signals):
        """Score one measure after another, to lose only those that crash."""
        measurements = []
        for measure in self._measures:
            try:
                future = self._in_worker(utt_id, signals, [measure])
                measurements += future.result()
            except BrokenProcessPool:
                self._pool = None
                measurements.append(_Measurement(*measure, reason=_CRASHED))
        return measurements


def score_utterance(
    utt_id, signals, sample_rate_hz, measures, dnsmos_model=None
):
    """Measure one utterance; this is what the workers run.

    Arguments
    ---------
    utt_id : str
        Its id, for error messages.
    signals : dict
        ``clean``, ``noisy`` and ``enhanced`` waveform (N,).
    sample_rate_hz : int
        Sample rate of all.
    measures : list of tuple
        Side and metric of each measurement to make.
    dnsmos_model : str or Path, optional
        For the DNSMOS metrics.

    Returns
    -------
    list of _Measurement
        What came out, in the order of ``measures``.

    Raises
    ------
    RuntimeError
        If a metric fails otherwise than with a :class:`MetricError`.

    Example
    -------
    >>> silence = dict.fromkeys(["clean", "noisy", "enhanced"], np.zeros(9))
    >>> score_utterance("utt1", silence, 16000, [("noisy", "stoi")])[0].reason
    'the reference is silent'
    """

    @functools.cache
    def together(side, kind):
        """Compute what comes together once; an error is kept as a value."""
        try:
            if kind == "dnsmos":
                return dnsmos(signals[side], sample_rate_hz, dnsmos_model)
            return composite(signals[side], signals["clean"], sample_rate_hz)
        except MetricError as error:
            return error

    def compute(side, metric):
        if metric in SINGLE:
            return SINGLE[metric](
                signals[side], signals["clean"], sample_rate_hz
            )
        found = together(side, "dnsmos" if metric in DNSMOS else "composite")
        if isinstance(found, MetricError):
            raise found
        return getattr(found, metric.removeprefix("dnsmos_"))

    measurements = []
    for side, metric in measures:
        outcome = {}
        try:
            outcome["value"] = compute(side, metric)
        except MetricError as error:
            outcome["reason"] = str(error)
        except Exception as error:
            raise RuntimeError(f"{metric} of {side} {utt_id!r}") from error
        measurements.append(_Measurement(side, metric, **outcome))
    return measurements


def _new_pool(n_workers):
    pool = ProcessPoolExecutor(
        n_workers,
        # Not fork: it copies the locks of PyTorch's threads as they are.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
    )
    with _without_main_module():
        ready = pool.submit(os.getpid)
    try:
        ready.result()
    except BrokenProcessPool as error:
        raise RuntimeError("the processes for metrics do not start") from error
    return pool


def _begin_worker():
    """Leave interrupts to the parent, and the other cores to its others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(1)


@contextlib.contextmanager
def _without_main_module():
    # A spawned process imports the program that started it: the training
    # script and with it PyTorch, seconds and gigabytes that no metric needs.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _is_lost(future):
    return isinstance(future.exception(), BrokenProcessPool)


def summarise(scores, failures, metrics):
    """Average scores over the utterances.

    Arguments
    ---------
    scores : dict
        As :meth:`EnhancementScorer.collect` returns them.
    failures : list of dict
        As :meth:`EnhancementScorer.collect` returns them.
    metrics : sequence of str
        Metrics to average.

    Returns
    -------
    dict
        ``n``, the number of utterances; for ``noisy`` and ``enhanced`` and
        each metric ``mean``, ``n`` and ``n_failed``; for ``gain`` and each
        metric ``mean`` and ``n`` of enhanced minus noisy, over utterances
        with both. A mean of nothing is absent.

    Example
    -------
    >>> scores = {
    ...     "utt1": {"noisy": {"stoi": 0.5}, "enhanced": {"stoi": 0.75}},
    ...     "utt2": {"noisy": {"stoi": 0.7}, "enhanced": {}},
    ... }
    >>> lost = {"utt_id": "utt2", "side": "enhanced", "metric": "stoi"}
    >>> summary = summarise(scores, [lost], ["stoi"])
    >>> summary["enhanced"]["stoi"]
    {'mean': 0.75, 'n': 1, 'n_failed': 1}
    >>> summary["noisy"]["stoi"]["mean"], summary["gain"]["stoi"]
    (0.6, {'mean': 0.25, 'n': 1})
    """
    n_failed = Counter((f["side"], f["metric"]) for f in failures)
    rows = scores.values()
    summary = {"n": len(scores)}
    for side in SIDES:
        summary[side] = {
            metric: {
                **_mean([r[side][metric] for r in rows if metric in r[side]]),
                "n_failed": n_failed[side, metric],
            }
            for metric in metrics
        }
    summary["gain"] = {
        metric: _mean(
            [
                row["enhanced"][metric] - row["noisy"][metric]
                for row in rows
                if all(metric in row[side] for side in SIDES)
            ]
        )
        for metric in metrics
    }
    return summary


def _mean(values):
    if not values:
        return {"n": 0}
    return {"mean": math.fsum(values) / len(values), "n": len(values)}

"""SIGTERM, which clusters send before they take a machine away."""

import os
import signal
import threading
import time
from contextlib import contextmanager, nullcontext

TERMINATED = 143  # exit code, as shells have it
STEPS_BETWEEN_QUESTIONS = 10


class Terminated(SystemExit):
    """The process was asked to end, and has saved what there was to save."""


class _Request:
    """Whether the process was asked to end, and who saves before it does."""

    def __init__(self):
        self.is_made = self.is_deferred = False
        self._process = os.getpid()

    def __call__(self, number, frame):
        if os.getpid() != self._process:  # a worker that was forked
            os._exit(TERMINATED)
        self.is_made = True
        if not self.is_deferred:
            raise Terminated(TERMINATED)

    @contextmanager
    def deferred(self):
        """Let what is inside end by itself, at a place of its own choice."""
        self.is_deferred = True
        try:
            yield
        finally:
            self.is_deferred = False
        if self.is_made:
            raise Terminated(TERMINATED)


request = _Request()


@contextmanager
def listening():
    """Let SIGTERM end what is inside by :class:`Terminated`.

    Example
    -------
    >>> with listening():
    ...     signal.raise_signal(signal.SIGTERM)
    Traceback (most recent call last):
    merit_modules.training.stopping.Terminated: 143
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    request.__init__()
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        request.__init__()  # the next run was not asked


def outlive_sigterm(worker_id):
    """Let a loader's worker serve on while its process saves.

    Clusters and ``torchrun`` send SIGTERM to workers, too.

    Arguments
    ---------
    worker_id : int
        Its number, as a loader's ``worker_init_fn`` gets it.
    """
    if hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_if_parent_asks, daemon=True).start()


def _end_if_parent_asks():
    parent = os.getppid()
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


class SavesWhenAsked:
    """What a Brain does about SIGTERM in training: save, then end.

    Where it saves nothing within an epoch (``ckpt_interval_minutes: 0``), it
    ends at once.
    """

    def _fit_train(self, *args, **kwargs):
        saves = self._saves_within_epoch()
        with request.deferred() if saves else nullcontext():
            super()._fit_train(*args, **kwargs)

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        waits = self.step % self.grad_accumulation_factor  # for a step
        if self.distributed_launch and self.device_type == "cuda":
            # Processes that ask each other let their GPUs run empty.
            waits = waits or self.optimizer_step % STEPS_BETWEEN_QUESTIONS
        if waits or not self._saves_within_epoch():
            return False
        minutes = (time.time() - last_ckpt_time) / 60.0
        is_due = (
            0 < self.ckpt_interval_minutes < minutes
            or 0 < self.ckpt_interval_steps <= steps_since_ckpt
        )
        # One process that is asked to end is enough: all of them save.
        is_asked, is_due = self._any(request.is_made, is_due)
        if is_asked:
            request.is_made = True
        return is_asked or is_due

    def _save_intra_epoch_ckpt(self):
        super()._save_intra_epoch_ckpt()
        if request.is_made:
            raise Terminated(TERMINATED)

    def _saves_within_epoch(self):
        return self.checkpointer is not None and (
            self.ckpt_interval_minutes > 0 or self.ckpt_interval_steps > 0
        )

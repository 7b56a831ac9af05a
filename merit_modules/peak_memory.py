"""How much memory a piece of work needs above what was in use."""

import os
import threading
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")


class PeakMemory:
    """Watches the process's resident memory; on CUDA, asks the allocator.

    Afterwards ``bytes`` is the growth at its highest, or None where the
    system does not tell.

    Arguments
    ---------
    device : str
        Type of the device that works, such as ``cpu``.

    Example
    -------
    >>> with PeakMemory("cpu") as memory:
    ...     _ = torch.zeros(10)
    >>> memory.bytes is None or memory.bytes >= 0
    True
    """

    def __init__(self, device):
        self.device = device
        self.bytes = None

    def __enter__(self):
        """Start watching."""
        self._start = self._peak = self._thread = None
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
        elif _STATM.is_file():
            self._start = self._peak = _resident_bytes()
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._watch)
            self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.002):
            self._peak = max(self._peak, _resident_bytes())

    def __exit__(self, *exc_info):
        """Stop watching."""
        if self.device == "cuda":
            self._peak = torch.cuda.max_memory_allocated()
        elif self._thread is not None:
            self._stop.set()
            self._thread.join()
        if self._start is not None:
            self.bytes = self._peak - self._start


def _resident_bytes():
    pages = _STATM.read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")

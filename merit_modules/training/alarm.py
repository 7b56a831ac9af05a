"""The error of one process ends all that train as one, and is told once.

Nothing else does: processes of other nodes would wait for the one that failed
for as long as their collective calls allow, which is hours.
"""

import os
import signal
import threading
from datetime import timedelta

import torch.distributed as dist

POLL_S = 1.0
GRACE_S = 15.0  # for a process to notice and to clean up by itself
_CONNECT = timedelta(seconds=600)  # processes of other nodes may start later


class Alarm:
    """What a process knows of the failure of others.

    It asks the store through which ``torchrun`` lets processes meet. A process
    that does not end by itself after a failure elsewhere is killed, with all
    that it started.

    Example
    -------
    >>> with Alarm() as alarm:  # one process alone
    ...     alarm.is_first(), alarm.is_raised()
    (True, False)
    """

    def __init__(self):
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._key = f"merit_modules/failed/{restart}"
        self._store = None
        self._is_over = threading.Event()
        self._is_connected = threading.Event()

    def __enter__(self):
        """Begin to listen, where there are several processes."""
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ:
            threading.Thread(target=self._listen, daemon=True).start()
        else:
            self._is_connected.set()
        return self

    def __exit__(self, *exc_info):
        """Stop listening."""
        self._is_over.set()

    def is_first(self):
        """Raise the alarm; tell whether nobody did before."""
        if not self._is_connected.wait(POLL_S) or self._store is None:
            return True
        try:
            return self._store.add(self._key, 1) == 1
        except RuntimeError:  # who kept the store is gone
            return False

    def is_raised(self):
        """Tell whether some process failed."""
        if self._store is None:
            return False
        try:
            return self._store.check([self._key])
        except RuntimeError:
            return True

    def _listen(self):
        host = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            self._store = dist.TCPStore(
                *host, timeout=_CONNECT, wait_for_workers=False
            )
        except RuntimeError:
            return  # no process can meet others, and each will say so
        self._is_connected.set()
        while not self._is_over.wait(POLL_S):
            if self.is_raised() and not self._is_over.wait(GRACE_S):
                _kill()


def _kill():
    if os.getpgid(0) == os.getpid():  # torchrun starts it so
        os.killpg(0, signal.SIGKILL)
    os._exit(1)

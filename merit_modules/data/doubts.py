"""What makes one doubt that a recording is what it should be."""

import contextlib
import hashlib
import math
import mmap
import threading

import numpy as np
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

#: Part of the power that is left where channels cancel each other: -20 dB.
CANCELLED = 0.01
#: Part of the power that an offset makes up, and the least that counts.
OFFSET_SHARE, LEAST_OFFSET = 0.1, 0.001
#: Levels about the mean, in dB below full scale, that speech lies between.
SOFTEST_DB, LOUDEST_DB = -60.0, -3.0
#: Part of the samples that are 0.
SILENT_SHARE = 0.5
#: Full scale, and what rounding and resampling may add.
FULL_SCALE = 1.5

# A page that forked loader workers share with their parent, so that what one
# process has said is not said again by the others, epoch after epoch.
_SAID = mmap.mmap(-1, mmap.PAGESIZE)
_HEARD = threading.local()


class Doubts:
    """Listens to a recording, block by block, for what looks wrong.

    Example
    -------
    >>> doubts = Doubts()
    >>> wav = np.random.default_rng(0).normal(0, 0.1, (800, 1))
    >>> doubts.hear(np.hstack([wav, -wav]))
    >>> "channels" in doubts.found()
    True
    """

    def __init__(self):
        self._n = self._n_zero = 0
        self._sum = self._square = self._channels = self._peak = 0.0

    def hear(self, samples):
        """Take the next samples.

        Arguments
        ---------
        samples : numpy.ndarray
            Samples (n, channels), full scale 1.
        """
        mono = samples.mean(axis=1, dtype=np.float64)
        self._n += len(mono)
        self._n_zero += int((samples == 0).all(axis=1).sum())
        self._sum += float(mono.sum())
        # Not mono @ mono: BLAS has threads of its own, which the processes of a
        # loader would have too many of.
        self._square += float(np.square(mono).sum())
        if samples.shape[1] > 1:
            squares = np.square(samples, dtype=np.float64).mean(axis=1)
            self._channels += float(squares.sum())
        if len(mono):
            self._peak = max(self._peak, float(np.abs(samples).max()))

    def found(self, is_speech=True):
        """Say what looks wrong in all that was heard.

        Arguments
        ---------
        is_speech : bool
            Whether it is meant to be speech, neither silent nor soft.

        Returns
        -------
        dict
            Kind of doubt to a sentence.
        """
        if not self._n:
            return {}
        mean = self._sum / self._n
        power = self._square / self._n
        varying = max(power - mean * mean, 0.0)
        level_db = 10 * math.log10(varying) if varying > 0 else -math.inf
        zero = self._n_zero / self._n
        found = {}
        if self._channels and self._square < CANCELLED * self._channels:
            found["channels"] = (
                "the channels cancel each other (opposite phase): their mean "
                "has under 1 % of their power; give one of them"
            )
        if abs(mean) > LEAST_OFFSET and mean * mean > OFFSET_SHARE * power:
            found["offset"] = f"a constant offset (DC) of {mean:.3f}"
        if self._peak > FULL_SCALE:
            found["range"] = f"samples of up to {self._peak:.2f}, beyond 1"
        if not is_speech:
            return found
        if zero > SILENT_SHARE:
            found["silence"] = f"{zero:.0%} of the samples are digital silence"
        if level_db < SOFTEST_DB:
            how = "all of it is" if varying == 0 else f"{level_db:.0f} dB:"
            found["soft"] = f"{how} below {SOFTEST_DB:.0f} dB of full scale"
        elif level_db > LOUDEST_DB:
            found["loud"] = f"very loud: {-level_db:.1f} dB below full scale"
        return found


@contextlib.contextmanager
def collected():
    """Collect what :func:`warn_once` is told of in this thread.

    Yields
    ------
    list of tuple
        Kind of doubt, path of the recording, and sentence of each.

    Example
    -------
    >>> with collected() as found:
    ...     warn_once({"loud": "very loud"}, "a.wav")
    >>> found
    [('loud', 'a.wav', 'very loud')]
    """
    before = getattr(_HEARD, "found", None)
    _HEARD.found = []
    try:
        yield _HEARD.found
    finally:
        _HEARD.found = before


def warn_once(found, path):
    """Put each kind of doubt on the screen with its first recording.

    Arguments
    ---------
    found : dict
        Kind of doubt to a sentence.
    path : str or Path
        The recording.
    """
    heard = getattr(_HEARD, "found", None)
    if heard is not None:
        heard += [(kind, str(path), text) for kind, text in found.items()]
    for kind, sentence in found.items():
        if _is_new(kind):
            logger.warning(
                f"{path}: {sentence} (said once, of the first such recording)"
            )


def say_once(message, path):
    """Log a conversion with the first file that needed it.

    Arguments
    ---------
    message : str
        What is done.
    path : str or Path
        To which file.
    """
    if _is_new(message):
        logger.info(f"{message} (first seen in {path})")


def _is_new(what):
    digest = hashlib.blake2b(what.encode(), digest_size=8).digest()
    slot = int.from_bytes(digest, "big") % len(_SAID)
    new = not _SAID[slot]
    _SAID[slot] = 1
    return new

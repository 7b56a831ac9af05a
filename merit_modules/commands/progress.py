"""How far a command is, in seconds of audio, where somebody can see it."""

import sys

from tqdm import tqdm

from merit_modules.errors import InputError
from merit_modules.inference.sources import FileSource


class Progress:
    """A bar on standard error.

    Arguments
    ---------
    paths : list of str
        Recordings to come.
    sample_rate_hz : int
        The model's sample rate, in which windows are counted.
    shown : bool
        Whether there is a bar at all.

    Example
    -------
    >>> with Progress([], 16000, shown=False) as progress:
    ...     progress.finish("a.wav")
    """

    def __init__(self, paths, sample_rate_hz, shown):
        self.sample_rate_hz = sample_rate_hz
        # Headers are read only if somebody looks on.
        self._left = {path: _seconds(path) for path in paths} if shown else {}
        self._bar = tqdm(
            total=round(sum(self._left.values()), 1),
            disable=not shown,
            file=sys.stderr,
            unit="s",
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio "
            "[{elapsed}<{remaining}]",
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()

    def __call__(self, recording, window):
        """Count a window of a recording; see ``SparseMERIT.run``."""
        path = recording.source.name
        seconds = (window.own_stop - window.own_start) / self.sample_rate_hz
        self._advance(path, seconds)

    def finish(self, path):
        """Count all that is left of a recording."""
        self._advance(path, float("inf"))

    def _advance(self, path, seconds):
        left = self._left.get(path, 0.0)
        self._bar.update(min(left, seconds))
        self._left[path] = max(0.0, left - seconds)

    def say(self, message):
        """Write a line on standard error, above the bar."""
        tqdm.write(message, file=sys.stderr)


def _seconds(path):
    try:
        source = FileSource(path)
    except (InputError, UnicodeEncodeError):
        return 0.0  # its turn to be reported comes
    return source.n_samples / source.sample_rate_hz

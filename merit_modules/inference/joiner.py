"""Windows back to one recording: each frame once, each seam faded."""

from typing import NamedTuple

import torch


class WindowResult(NamedTuple):
    """What a system made of a window, or of a piece of a recording.

    Arguments
    ---------
    enhanced : torch.Tensor or None
        Enhanced samples (n,); None if not asked for.
    features : torch.Tensor or None
        Features of the SER head (T, R); None if not asked for.
    routing : dict
        Task name to the best expert of each frame (T,), int8.
    """

    enhanced: torch.Tensor | None
    features: torch.Tensor | None
    routing: dict

    def frames(self, start, stop=None):
        """Take some frames of features and routing.

        Arguments
        ---------
        start : int
            First frame.
        stop : int, optional
            One after the last frame.

        Returns
        -------
        WindowResult
            Those frames, without enhanced samples.
        """
        return WindowResult(
            None,
            None if self.features is None else self.features[start:stop],
            {task: e[start:stop] for task, e in self.routing.items()},
        )


class WindowJoiner:
    """Joins the windows of one recording, in their order.

    Arguments
    ---------
    windowing : Windowing
        How it was cut.

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> windowing = Windowing(640, 320, 320, 160, 320)
    >>> wav, joiner, pieces = torch.randn(1700), WindowJoiner(windowing), []
    >>> for window in windowing.cut(1700):
    ...     result = WindowResult(wav[window.start : window.stop], None, {})
    ...     pieces.append(joiner.add(window, result))
    >>> pieces.append(joiner.finish(1700))
    >>> [len(piece.enhanced) for piece in pieces]
    [560, 640, 420, 80]
    >>> torch.allclose(torch.cat([p.enhanced for p in pieces]), wav)
    True
    """

    def __init__(self, windowing):
        self.windowing = windowing
        self._tail = None
        self._late = None

    def add(self, window, result):
        """Take the next window.

        Arguments
        ---------
        window : Window
            Where it lies.
        result : WindowResult
            What the system made of it.

        Returns
        -------
        WindowResult
            The piece of the recording that is settled by now and was not
            before.
        """
        grid = self.windowing.grid
        first = (window.own_start - window.start) // grid
        behind = (window.own_stop - window.start) // grid
        settled = result.frames(first, behind)
        self._late = result.frames(behind)
        if result.enhanced is None:
            return settled
        return settled._replace(enhanced=self._fade(window, result.enhanced))

    def _fade(self, window, enhanced):
        half = self.windowing.fade // 2
        start = max(0, window.own_start - half) - window.start
        stop = max(start, window.own_stop - half - window.start)
        piece, tail = enhanced[start:stop], enhanced[stop:]
        if self._tail is not None:
            piece = enhanced[start:].clone()
            n_fade = min(2 * half, len(piece), len(self._tail))
            rise = torch.arange(1, n_fade + 1) / (n_fade + 1)
            before = self._tail[:n_fade] * (1 - rise)
            piece[:n_fade] = piece[:n_fade] * rise + before
            piece, tail = piece[: stop - start], piece[stop - start :]
        self._tail = tail.clone()
        return piece

    def finish(self, n_samples):
        """End the recording.

        Arguments
        ---------
        n_samples : int
            Its length.

        Returns
        -------
        WindowResult
            What no window after the last one will change any more.
        """
        done = self._late
        if self._tail is not None:
            done = done._replace(enhanced=self._tail[:n_samples])
        return done

"""Windows back to one recording: each sample and each frame once."""

from typing import NamedTuple

import torch


class Piece(NamedTuple):
    """A stretch of a recording, or a window of one.

    Arguments
    ---------
    wav : torch.Tensor
        Its samples (n,) as the system took them.
    features : dict
        Task name to features of its frames (T, R).
    routing : dict
        Task name to the best expert of each frame (T,), int8.
    """

    wav: torch.Tensor
    features: dict
    routing: dict

    def cut(self, grid, start, stop=None):
        """Take a part.

        Arguments
        ---------
        grid : int
            Samples from one frame to the next.
        start : int
            First sample; a multiple of ``grid``.
        stop : int, optional
            One after the last sample; a multiple of ``grid``.

        Returns
        -------
        Piece
            The part.
        """
        frames = slice(start // grid, stop if stop is None else stop // grid)
        return Piece(
            self.wav[start:stop],
            {task: f[frames] for task, f in self.features.items()},
            {task: e[frames] for task, e in self.routing.items()},
        )


def join(pieces):
    """Put pieces one behind the other.

    Arguments
    ---------
    pieces : sequence of Piece
        One or more, of the same tasks.

    Returns
    -------
    Piece
        All of them.

    Example
    -------
    >>> join([Piece(torch.zeros(2), {}, {}), Piece(torch.ones(1), {}, {})]).wav
    tensor([0., 0., 1.])
    """
    wavs, features, routing = zip(*pieces)

    def together(parts):
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    return Piece(torch.cat(wavs), together(features), together(routing))


class WindowJoiner:
    """Joins the windows of one recording, in their order.

    Arguments
    ---------
    windowing : Windowing
        How it was cut.

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> windowing = Windowing(640, 320, 320, 0, 320)
    >>> wav, joiner, pieces = torch.randn(1700), WindowJoiner(windowing), []
    >>> for window in windowing.cut(1700):
    ...     result = Piece(wav[window.start : window.stop], {}, {})
    ...     pieces.append(joiner.add(window, result))
    >>> pieces.append(joiner.finish())
    >>> [len(piece.wav) for piece in pieces]
    [640, 640, 420, 0]
    >>> torch.equal(torch.cat([piece.wav for piece in pieces]), wav)
    True
    """

    def __init__(self, windowing):
        self.windowing = windowing
        self._late = None

    def add(self, window, result):
        """Take the next window.

        Arguments
        ---------
        window : Window
            Where it lies.
        result : Piece
            What the system made of it.

        Returns
        -------
        Piece
            The stretch that it answers for.
        """
        grid = self.windowing.grid
        start, stop = (at - window.start for at in window[2:4])
        if window.own_stop == window.stop:
            # The end of a recording lies between two frames.
            self._late = result.cut(grid, -(-len(result.wav) // grid) * grid)
            return result.cut(grid, start)
        self._late = result.cut(grid, stop)
        return result.cut(grid, start, stop)

    def finish(self):
        """End the recording.

        Returns
        -------
        Piece
            What the last window saw beyond the stretch that it answers for.
        """
        return self._late

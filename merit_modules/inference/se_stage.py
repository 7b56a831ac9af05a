"""The SE head on long windows of a recording, faded into each other."""

import torch

from merit_modules.inference.feeder import WindowFeeder


class SEStage:
    """Turns features and noisy audio into enhanced audio as they come.

    Arguments
    ---------
    windowing : Windowing
        Windows of the SE head.
    enhance : callable
        Features (T, R) and samples (n,) of a window to enhanced samples (n,).

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> stage = SEStage(
    ...     Windowing(640, 320, 640, 160, 320), enhance=lambda f, wav: 2 * wav
    ... )
    >>> wav, features = torch.randn(3000), torch.randn(9, 4)
    >>> first = stage.add(wav[:1600], features[:5])
    >>> last = stage.add(wav[1600:], features[5:])
    >>> parts = [first, last, stage.finish()]
    >>> torch.allclose(torch.cat(parts), 2 * wav)
    True
    """

    def __init__(self, windowing, enhance):
        self.enhance = enhance
        self.windowing = windowing
        self._feeder = WindowFeeder(windowing)
        self._features = None
        self._features_from = 0  # the frame where the kept ones begin
        self._tail = None

    def add(self, wav, features):
        """Take the next stretch.

        Arguments
        ---------
        wav : torch.Tensor
            Its noisy samples (n,).
        features : torch.Tensor
            Features of its frames (T, R).

        Returns
        -------
        torch.Tensor
            Enhanced samples (m,) that are settled by now and were not before.
        """
        if self._features is not None:
            features = torch.cat([self._features, features])
        self._features = features
        return self._run(self._feeder.feed(wav))

    def finish(self):
        """End the recording; return the rest of it (m,)."""
        settled = self._run(self._feeder.close())
        return torch.cat([settled, self._tail])

    def _run(self, windows):
        settled = [torch.zeros(0)]
        grid = self.windowing.grid
        for window, wav in windows:
            first = window.start // grid
            # Also the frame that begins at the window's end, if it is there.
            frames = self._features[first - self._features_from :]
            frames = frames[: len(wav) // grid + 1]
            enhanced = self.enhance(frames, wav)[: window.stop - window.start]
            settled.append(self._fade(window, enhanced))
            # Later windows begin later, but the last one not by much.
            self._features = self._features[first - self._features_from :]
            self._features_from = first
        return torch.cat(settled)

    def _fade(self, window, enhanced):
        half = self.windowing.fade // 2
        start = max(0, window.own_start - half) - window.start
        stop = max(start, window.own_stop - half - window.start)
        piece = enhanced[start:]
        if self._tail is not None:
            piece = piece.clone()
            n_fade = min(2 * half, len(piece), len(self._tail))
            rise = torch.arange(1, n_fade + 1) / (n_fade + 1)
            before = self._tail[:n_fade] * (1 - rise)
            piece[:n_fade] = piece[:n_fade] * rise + before
        piece, tail = piece[: stop - start], piece[stop - start :]
        self._tail = tail.clone()
        return piece

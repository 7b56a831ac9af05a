"""From blocks of samples to windows, holding no more than a window or two."""

import torch

#: Fewest samples that a system takes: the receptive field of one SSL frame.
MIN_SAMPLES = 400


class WindowFeeder:
    """Cuts a recording that arrives block by block.

    Arguments
    ---------
    windowing : Windowing
        How it is cut.

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> feeder = WindowFeeder(Windowing(640, 320, 320, 160, 320))
    >>> [len(wav) for _, wav in feeder.feed(torch.zeros(1500))]
    [960]
    >>> [len(wav) for _, wav in feeder.close()]
    [1180]
    """

    def __init__(self, windowing):
        self.windowing = windowing
        self.n_samples = 0
        self._number = 0
        self._kept = torch.zeros(0)
        self._kept_from = 0

    def feed(self, block):
        """Take the next samples.

        Arguments
        ---------
        block : torch.Tensor
            Samples (n,); any number, also none.

        Yields
        ------
        tuple
            Each :class:`~merit_modules.inference.windows.Window` that can be
            computed by now, and its samples.
        """
        self._kept = torch.cat([self._kept, block])
        self.n_samples += len(block)
        while self.windowing.regular(self._number).stop <= self.n_samples:
            window = self.windowing.regular(self._number)
            yield window, self._take(window)
            # The last window may reach back to where this one began.
            self._kept = self._kept[window.start - self._kept_from :].clone()
            self._kept_from = window.start
            self._number += 1

    def close(self):
        """End the recording.

        Yields
        ------
        tuple
            The last window and its samples, unless the one before already saw
            the end. A recording that is shorter than a frame is continued
            with zeros.
        """
        first = self._number == 0
        seen = 0 if first else self.windowing.regular(self._number - 1).stop
        if self.n_samples > seen:
            window = self.windowing.last(self._number, self.n_samples)
            wav = self._take(window)
            missing = max(0, MIN_SAMPLES - len(wav))
            yield window, torch.nn.functional.pad(wav, (0, missing))

    def _take(self, window):
        start, stop = (at - self._kept_from for at in window[:2])
        return self._kept[start:stop]

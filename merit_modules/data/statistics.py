"""Mean and standard deviation over all samples of a training set."""

import math

import torch


class RunningWavStats:
    """Mean and standard deviation of a set of waveforms, one at a time.

    One pass, nothing kept but three numbers: counts, means and squared
    deviations of parts are merged as in Chan, Golub and LeVeque, "Algorithms
    for computing the sample variance" (1983), which stays exact where a sum of
    squares loses a small deviation beside a large mean. The deviation is the
    biased one (divided by N), as the released code has it.

    Example
    -------
    >>> stats = RunningWavStats()
    >>> stats.update(torch.tensor([1.0, 2.0]))
    >>> stats.update(torch.tensor([3.0, 4.0]))
    >>> stats.count, stats.mean, round(stats.std, 4)
    (4, 2.5, 1.118)
    """

    def __init__(self):
        self.count = 0
        self._mean = 0.0
        self._squared_deviation = 0.0

    def update(self, wav):
        """Add the samples of one waveform.

        Arguments
        ---------
        wav : torch.Tensor
            Samples, any shape, at least one.

        Raises
        ------
        ValueError
            If there is no sample, or if one is NaN or infinite: either would
            silently spoil the statistics of the whole set.

        Example
        -------
        >>> stats = RunningWavStats()
        >>> stats.update(torch.tensor([float("nan")]))
        Traceback (most recent call last):
        ValueError: wav: expected finite samples, at least one, got 1 ...
        """
        wav = wav.detach().to(torch.float64)
        mean = wav.mean().item()
        if not math.isfinite(mean):
            raise ValueError(
                "wav: expected finite samples, at least one, "
                f"got {wav.numel()} with mean {mean}"
            )
        self._merge(wav.numel(), mean, (wav - mean).square().sum().item())

    def merge(self, other):
        """Add all samples that another object has seen.

        Arguments
        ---------
        other : RunningWavStats
            Statistics of other waveforms; it may be empty.

        Example
        -------
        >>> first, second = RunningWavStats(), RunningWavStats()
        >>> first.update(torch.zeros(3))
        >>> second.update(torch.ones(1))
        >>> first.merge(second)
        >>> first.count, first.mean
        (4, 0.25)
        """
        self._merge(other.count, other._mean, other._squared_deviation)

    def _merge(self, count, mean, squared_deviation):
        total = self.count + count
        if not count:
            return
        step = mean - self._mean
        self._mean += step * count / total
        self._squared_deviation += (
            squared_deviation + step * step * self.count * count / total
        )
        self.count = total

    @property
    def mean(self):
        """Mean over all samples so far (float)."""
        self._need_samples()
        return self._mean

    @property
    def std(self):
        """Biased standard deviation over all samples so far (float)."""
        self._need_samples()
        return math.sqrt(self._squared_deviation / self.count)

    def _need_samples(self):
        if not self.count:
            raise ValueError("no waveform has been added yet")

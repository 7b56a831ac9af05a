"""Another sample rate, block by block, with the result of the whole."""

from math import ceil, gcd

import torch

from merit_modules.data.audio import resampler


class BlockResampler:
    """Converts the sample rate of a recording that arrives in blocks.

    The same filter as everywhere else in this package, so training and use
    hear the same. However the recording is cut into blocks, the result is
    that of converting it whole.

    Arguments
    ---------
    from_hz : int
        Sample rate of the input.
    to_hz : int
        Sample rate of the output.

    Example
    -------
    >>> wav, convert = torch.randn(1001), BlockResampler(44100, 16000)
    >>> parts = [convert(block) for block in wav.split(300)]
    >>> whole = resampler(44100, 16000)(wav)
    >>> torch.allclose(torch.cat([*parts, convert.finish()]), whole, atol=1e-6)
    True
    """

    def __init__(self, from_hz, to_hz):
        common = gcd(from_hz, to_hz)
        # Every `old` samples become `new` ones.
        self.old, self.new = from_hz // common, to_hz // common
        self.from_hz = from_hz
        self._convert, self._context = None, 0
        if from_hz != to_hz:
            self._convert = resampler(from_hz, to_hz)
            self._context = ceil(self._convert.width / self.old)
        self._kept = torch.zeros(0)
        self._done = 0  # steps of `old` samples that are out
        self._kept_from = 0  # the step where the kept samples begin

    @property
    def latency_s(self):
        """Seconds of input that an output sample waits for, at the most."""
        return (
            (self._context + 1)
            * self.old
            / self.from_hz
            * (self._convert is not None)
        )

    def __call__(self, block):
        """Take a block (n,); return what can be converted by now (m,)."""
        if self._convert is None:
            return block
        self._kept = torch.cat([self._kept, block])
        there = self._kept_from + len(self._kept) // self.old
        until = there - self._context
        if until <= self._done:
            return block.new_zeros(0)
        converted = self._convert(
            self._kept[: (there - self._kept_from) * self.old]
        )
        start, stop = (
            (step - self._kept_from) * self.new for step in (self._done, until)
        )
        self._done = until
        forget = max(0, until - self._context - self._kept_from)
        self._kept = self._kept[forget * self.old :].clone()
        self._kept_from += forget
        return converted[start:stop]

    def finish(self):
        """End the recording; return the rest of it (m,)."""
        if self._convert is None or not len(self._kept):
            return torch.zeros(0)
        converted = self._convert(self._kept)
        return converted[(self._done - self._kept_from) * self.new :]

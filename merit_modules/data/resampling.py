"""Changing the sample rate, for any two rates in bounded memory."""

import functools
import math

import torch
import torchaudio
from torch import nn

#: Above this size torchaudio's filter, one row per output phase over a whole
#: period of the two rates, takes more than a few MB: gigabytes from 15,999 Hz.
LARGEST_FILTER = 2**20
#: Zero crossings on each side, and the cut-off below the lower half rate.
N_ZEROS, ROLLOFF = 6, 0.99
#: Products that are computed at once.
PIECE = 2**22


@functools.lru_cache(maxsize=16)
def resampler(from_hz, to_hz):
    """Return a resampler whose filter is computed once per pair of rates.

    Arguments
    ---------
    from_hz : int
        Sample rate of its input.
    to_hz : int
        Sample rate of its output.

    Returns
    -------
    torchaudio.transforms.Resample or FewTapsResample
        For waveforms (..., N).

    Example
    -------
    >>> resampler(8000, 16000)(torch.zeros(40)).shape
    torch.Size([80])
    >>> resampler(15999, 16000)(torch.zeros(15999)).shape
    torch.Size([16000])
    """
    common = math.gcd(from_hz, to_hz)
    if from_hz * to_hz // common**2 > LARGEST_FILTER:
        return FewTapsResample(from_hz, to_hz)
    return torchaudio.transforms.Resample(from_hz, to_hz)


class FewTapsResample(nn.Module):
    """torchaudio's filter, kept where it is not zero.

    Arguments
    ---------
    from_hz : int
        Sample rate of the input.
    to_hz : int
        Sample rate of the output.

    Example
    -------
    >>> wav = torch.randn(1000)
    >>> ours = FewTapsResample(441, 160)(wav)
    >>> theirs = torchaudio.transforms.Resample(441, 160)(wav)
    >>> torch.allclose(ours, theirs, atol=1e-4)
    True
    """

    def __init__(self, from_hz, to_hz):
        super().__init__()
        common = math.gcd(from_hz, to_hz)
        self.old, self.new = from_hz // common, to_hz // common
        cutoff = min(self.old, self.new) * ROLLOFF
        #: Samples that an output sample hears on each side.
        self.width = math.ceil(N_ZEROS * self.old / cutoff)
        phase = torch.arange(self.new, dtype=torch.float64)
        first = (phase * self.old / self.new).floor().long() - self.width
        taps = torch.arange(2 * self.width + 2)
        time = (first[:, None] + taps) / self.old - phase[:, None] / self.new
        time = (time * cutoff).clamp(-N_ZEROS, N_ZEROS)
        window = torch.cos(time * math.pi / N_ZEROS / 2) ** 2
        weights = torch.sinc(time) * window * cutoff / self.old
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("taps", taps, persistent=False)
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, wavs):
        """Convert waveforms (..., N)."""
        n_out = -(-self.new * wavs.shape[-1] // self.old)
        padded = nn.functional.pad(wavs, (self.width, self.width + 2))
        size = max(1, PIECE // len(self.taps))
        return torch.cat(
            [
                self._piece(padded, start, min(start + size, n_out))
                for start in range(0, max(1, n_out), size)
            ],
            dim=-1,
        )

    def _piece(self, padded, start, stop):
        number = torch.arange(start, stop)
        phase = number % self.new
        begin = number // self.new * self.old + self.first[phase] + self.width
        heard = padded[..., begin[:, None] + self.taps]
        return (heard * self.weights[phase]).sum(dim=-1)

"""STFT and its inverse as real products with fixed bases, for export.

ONNX knows no complex numbers. A frame's spectrum is its product with cosines
and sines that carry the window, so the transform is a convolution, and the
inverse with its overlap-add a transposed one.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from merit_modules.heads.spectral import EPS


class SpectrumProducts(nn.Module):
    """What a LogSpectrum computes, for one utterance, in real numbers.

    Arguments
    ---------
    spectrum : LogSpectrum
        Gives window, length of the FFT and hop.

    Example
    -------
    >>> from merit_modules.heads.spectral import LogSpectrum
    >>> spectrum, wavs = LogSpectrum(), torch.randn(1, 4001)
    >>> products = SpectrumProducts(spectrum)
    >>> real, imag = products(wavs)
    >>> expected = spectrum(wavs, torch.tensor([4001]))
    >>> torch.allclose(torch.complex(real, imag), expected, atol=1e-4)
    True
    >>> torch.allclose(products.inverse(real, imag, 4001), wavs, atol=1e-5)
    True
    """

    def __init__(self, spectrum):
        super().__init__()
        self.n_fft, self.hop_length = spectrum.n_fft, spectrum.hop_length
        self.n_bins = spectrum.n_bins
        window = spectrum.window.double().cpu()
        # Whole turns are taken off in integers, so that angles stay exact.
        turns = torch.arange(self.n_bins)[:, None] * torch.arange(self.n_fft)
        angles = (turns % self.n_fft) * (2 * math.pi / self.n_fft)
        basis = torch.cat([angles.cos(), -angles.sin()])
        # All bins but the first and, of an even length, the last stand for
        # themselves and their mirror image.
        share = torch.full((self.n_bins, 1), 2.0 / self.n_fft).double()
        share[0] /= 2
        if self.n_fft % 2 == 0:
            share[-1] /= 2
        bases = {
            "analysis": basis * window,
            "synthesis": basis * torch.cat([share, share]) * window,
            "square": window.square()[None],
        }
        for name, rows in bases.items():
            self.register_buffer(name, rows.float().unsqueeze(1))

    def forward(self, wavs):
        """Transform a waveform.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveform (1, N) of more than ``n_fft // 2`` samples.

        Returns
        -------
        tuple of torch.Tensor
            Real and imaginary part of the spectrum (1, F, S).
        """
        half = self.n_fft // 2
        padded = F.pad(wavs.unsqueeze(1), (half, half), mode="reflect")
        both = F.conv1d(padded, self.analysis, stride=self.hop_length)
        return both[:, : self.n_bins], both[:, self.n_bins :]

    def inverse(self, real, imag, n_samples):
        """Return to the waveform.

        Arguments
        ---------
        real : torch.Tensor
            Real part (1, F, S).
        imag : torch.Tensor
            Imaginary part (1, F, S).
        n_samples : int
            Samples N of the result.

        Returns
        -------
        torch.Tensor
            Waveform (1, N).
        """
        both = torch.cat([real, imag], dim=1)
        ones = torch.ones_like(real[:, :1])
        wavs = self._overlap_add(both, self.synthesis)
        weight = self._overlap_add(ones, self.square)
        wavs = wavs / weight.clamp_min(1e-11)
        # Not a slice, whose length torch.export would not know.
        index = torch.arange(n_samples) + self.n_fft // 2
        return wavs.index_select(1, index)

    def _overlap_add(self, frames, basis):
        wavs = F.conv_transpose1d(frames, basis, stride=self.hop_length)
        return wavs.squeeze(1)


def magnitude(real, imag):
    """Compute the magnitude of a spectrum given in real numbers.

    Arguments
    ---------
    real : torch.Tensor
        Real part (1, F, S).
    imag : torch.Tensor
        Imaginary part (1, F, S).

    Returns
    -------
    torch.Tensor
        Magnitude (1, F, S).

    Example
    -------
    >>> magnitude(torch.tensor(3.0), torch.tensor(4.0))
    tensor(5.)
    """
    return (real.square() + imag.square()).sqrt()


def with_noisy_phase(log1p, real, imag):
    """Give an enhanced feature the phase of a noisy spectrum.

    Arguments
    ---------
    log1p : torch.Tensor
        Enhanced log1p feature (1, F, S).
    real : torch.Tensor
        Real part of the noisy spectrum (1, F, S).
    imag : torch.Tensor
        Its imaginary part.

    Returns
    -------
    tuple of torch.Tensor
        Real and imaginary part of the enhanced spectrum (1, F, S).

    Example
    -------
    >>> log1p = torch.log1p(torch.tensor(1.0))
    >>> with_noisy_phase(log1p, torch.tensor(2.0), torch.tensor(0.0))
    (tensor(1.0000), tensor(0.))
    """
    gain = (torch.expm1(log1p) - EPS) / (magnitude(real, imag) + EPS)
    return gain * real, gain * imag

"""A bank of band-pass filters for a first convolution to start from."""

import math

import torch
from torch import nn

LOWEST_HZ = 60.0  # just below the voice's fundamental


def mel_gabor_filters(n_filters, n_taps, sample_rate_hz=16000):
    """Make windowed sinusoids, spaced on the mel scale.

    Arguments
    ---------
    n_filters : int
        Number of filters: cosines and sines in turn, of the same frequency.
    n_taps : int
        Filter length in samples.
    sample_rate_hz : int
        Sample rate of the audio.

    Returns
    -------
    torch.Tensor
        Filters (n_filters, 1, n_taps) of unit energy.

    Example
    -------
    >>> filters = mel_gabor_filters(8, 400)
    >>> filters.shape
    torch.Size([8, 1, 400])
    """
    top = sample_rate_hz / 2 * 0.95
    mels = torch.linspace(_mel(LOWEST_HZ), _mel(top), (n_filters + 1) // 2)
    frequencies_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    seconds = torch.arange(n_taps) / sample_rate_hz
    angle = 2 * torch.pi * frequencies_hz[:, None] * seconds
    waves = torch.stack([angle.cos(), angle.sin()], dim=1).flatten(0, 1)
    filters = waves[:n_filters] * torch.hann_window(n_taps)
    return nn.functional.normalize(filters, dim=1).unsqueeze(1)


def _mel(frequency_hz):
    return 2595.0 * math.log10(1.0 + frequency_hz / 700.0)

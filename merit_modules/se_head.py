"""The SE head: features and noisy spectrum to an enhanced spectrum."""

from typing import NamedTuple

import torch
from torch import nn

from merit_modules.blstm import PaddedBLSTM, reorder
from merit_modules.shapes import valid_mask
from merit_modules.spectral import log1p_magnitude, with_noisy_phase


class Enhancement(NamedTuple):
    """What the SE head made of a batch.

    Arguments
    ---------
    log1p : torch.Tensor
        Enhanced log1p feature (B, F, S); zero in padding.
    mask : torch.Tensor
        Spectral mask (B, F, S) in [0, 1]; zero in padding.
    noisy_stft : torch.Tensor
        Complex spectrum of the noisy input (B, F, S).
    n_frames : torch.Tensor
        Valid STFT frames per utterance (B,).
    n_samples : torch.Tensor
        Samples per utterance (B,) that the spectrum is made of.
    """

    log1p: torch.Tensor
    mask: torch.Tensor
    noisy_stft: torch.Tensor
    n_frames: torch.Tensor
    n_samples: torch.Tensor


class SEHead(nn.Module):
    """A BLSTM that masks the log1p feature (paper Sec. III, after BSSE-SE).

    Arguments
    ---------
    spectrum : LogSpectrum
        The spectral domain; gives the number of bins F.
    feature_size : int
        Width R of the SSL-side features.
    hidden_size : int
        Width of the BLSTM, whose directions are added (paper: 256).

    Example
    -------
    >>> from merit_modules.spectral import LogSpectrum
    >>> head = SEHead(LogSpectrum(), feature_size=6, hidden_size=8)
    >>> n_samples = torch.tensor([16000, 8000])
    >>> out = head(
    ...     torch.rand(2, 49, 6),
    ...     torch.tensor([49, 24]),
    ...     torch.randn(2, 16000),
    ...     n_samples,
    ... )
    >>> out.mask.shape
    torch.Size([2, 201, 101])
    >>> head.to_wavs(out, 16000).shape
    torch.Size([2, 16000])
    """

    def __init__(self, spectrum, feature_size, hidden_size=256):
        super().__init__()
        self.spectrum = spectrum
        self.feature_size = feature_size
        self.hidden_size = hidden_size
        self.input_layer = nn.Linear(
            spectrum.n_bins + feature_size, hidden_size
        )
        self.blstm = PaddedBLSTM(hidden_size, hidden_size, num_layers=2)
        self.output_layer = nn.Linear(hidden_size, spectrum.n_bins)
        # The mask starts near 1: enhancement begins by changing little.
        nn.init.constant_(self.output_layer.bias, 3.0)

    def forward(self, features, n_frames, noisy_wavs, n_samples):
        """Estimate the enhanced spectrum.

        Arguments
        ---------
        features : torch.Tensor
            SSL-side features (B, T, R), one per 20 ms.
        n_frames : torch.Tensor
            Their valid frames (B,).
        noisy_wavs : torch.Tensor
            Normalised noisy waveforms (B, N).
        n_samples : torch.Tensor
            Their lengths in samples (B,).

        Returns
        -------
        Enhancement
            Enhanced feature, mask and noisy spectrum.
        """
        noisy_stft = self.spectrum(noisy_wavs, n_samples)
        n_stft = self.spectrum.n_frames(n_samples)
        noisy_log1p = log1p_magnitude(noisy_stft)
        features = self._to_stft_rate(features, n_frames, noisy_stft.shape[-1])
        hidden = torch.cat([noisy_log1p.transpose(1, 2), features], dim=-1)
        hidden = self.blstm(self.input_layer(hidden), n_stft)
        forward, backward = hidden.chunk(2, dim=-1)
        hidden = forward + backward
        mask = torch.sigmoid(self.output_layer(hidden)).transpose(1, 2)
        mask = mask * valid_mask(n_stft, mask.shape[-1]).unsqueeze(1)
        return Enhancement(
            mask * noisy_log1p, mask, noisy_stft, n_stft, n_samples
        )

    @staticmethod
    def _to_stft_rate(features, n_frames, n_stft):
        # 20 ms to 10 ms: every frame twice, an utterance's last one onwards.
        position = torch.arange(n_stft, device=features.device) // 2
        index = torch.minimum(position, (n_frames - 1).unsqueeze(1))
        return reorder(features, index)

    def log1p_target(self, clean_wavs, n_samples):
        """Compute what the enhanced feature should be.

        Arguments
        ---------
        clean_wavs : torch.Tensor
            Clean waveforms (B, N), normalised as the noisy ones.
        n_samples : torch.Tensor
            Lengths in samples (B,).

        Returns
        -------
        torch.Tensor
            Log1p feature (B, F, S).
        """
        with torch.no_grad():
            return log1p_magnitude(self.spectrum(clean_wavs, n_samples))

    def to_wavs(self, enhancement, n_max):
        """Turn an enhanced feature into waveforms with the noisy phase.

        Arguments
        ---------
        enhancement : Enhancement
            What :meth:`forward` returned.
        n_max : int
            Padded length N.

        Returns
        -------
        torch.Tensor
            Waveforms (B, N), normalised as the noisy input was.
        """
        stft = with_noisy_phase(enhancement.log1p, enhancement.noisy_stft)
        return self.spectrum.inverse(stft, enhancement.n_samples, n_max)

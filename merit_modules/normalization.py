"""Waveform normalisation with the statistics of the noisy training set."""

import torch
from torch import nn

STD_EPS = 1e-8  # released code


class WaveformNormalizer(nn.Module):
    """Normalise with ONE mean and ONE standard deviation, and undo it.

    The statistics are those of all samples of the noisy training set. They
    are buffers: saved, loaded and moved with the model.

    Example
    -------
    >>> normalizer = WaveformNormalizer()
    >>> normalizer.set_statistics(mean=0.5, std=2.0)
    >>> normalizer(torch.tensor([[2.5]]))
    tensor([[1.]])
    >>> normalizer.inverse(torch.tensor([[1.0]]))
    tensor([[2.5000]])
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(0.0))
        # Only the released padding rule asks for it: what their code puts
        # where a clean target is padded.
        self.register_buffer("clean_mean", torch.tensor(0.0))

    @property
    def is_fitted(self):
        """Whether statistics were set or loaded."""
        return bool(self.std > 0)

    def set_statistics(self, mean, std, clean_mean=0.0):
        """Set the statistics.

        Arguments
        ---------
        mean : float
            Mean over all samples.
        std : float
            Standard deviation over all samples, above 0.
        clean_mean : float
            Mean over all samples of the clean training set.

        Raises
        ------
        ValueError
            If ``std`` is not a positive number.
        """
        if not 0 < std < float("inf"):
            raise ValueError(f"std: expected a positive number, got {std}")
        self.mean.fill_(mean)
        self.std.fill_(std)
        self.clean_mean.fill_(clean_mean)

    def forward(self, wavs):
        """Normalise waveforms of any shape."""
        if not self.is_fitted:
            raise RuntimeError(
                "the normaliser has no statistics: call set_statistics() or "
                "load a trained model"
            )
        return (wavs - self.mean) / (self.std + STD_EPS)

    def inverse(self, wavs):
        """Bring normalised waveforms back to the scale of the input."""
        return wavs * (self.std + STD_EPS) + self.mean

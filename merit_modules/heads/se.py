"""The SE head: features and noisy spectrum to an enhanced spectrum."""

import warnings
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from merit_modules.heads.spectral import (
    log1p_magnitude,
    observation_share,
    with_noisy_phase,
)
from merit_modules.lengths import count_valid, valid_mask


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


class SpectralMask(nn.Module):
    """A BLSTM that masks a log1p spectrum with the help of SSL features.

    The spectrum may be SpeechBrain's: ``torch.log1p(spectral_magnitude(stft,
    power=0.5))`` with frames every 10 ms.

    Arguments
    ---------
    n_bins : int
        Number of frequency bins F.
    feature_size : int
        Width R of the features.
    hidden_size : int
        Width of the BLSTM, whose directions are added (paper: 256).

    Example
    -------
    >>> head = SpectralMask(n_bins=201, feature_size=6, hidden_size=8)
    >>> lengths = torch.tensor([1.0, 0.6])
    >>> head(torch.rand(2, 101, 201), torch.rand(2, 49, 6), lengths).shape
    torch.Size([2, 101, 201])
    """

    def __init__(self, n_bins, feature_size, hidden_size=256):
        super().__init__()
        self.feature_size = feature_size
        self.hidden_size = hidden_size
        self.input_layer = nn.Linear(n_bins + feature_size, hidden_size)
        self.blstm = PaddedBLSTM(hidden_size, hidden_size, num_layers=2)
        self.output_layer = nn.Linear(hidden_size, n_bins)
        # The mask starts near 1: enhancement begins by changing little.
        nn.init.constant_(self.output_layer.bias, 3.0)

    def forward(self, log1p, features, lengths=None):
        """Estimate the mask.

        Arguments
        ---------
        log1p : torch.Tensor
            Noisy log1p magnitudes (B, S, F), one per 10 ms.
        features : torch.Tensor
            SSL-side features (B, T, R), one per 20 ms.
        lengths : torch.Tensor, optional
            Relative lengths (B,) of both; all 1 by default.

        Returns
        -------
        torch.Tensor
            Mask (B, S, F) in [0, 1]; zero in padding.
        """
        n_frames = count_valid(features, lengths)
        return self._mask(
            log1p, features, n_frames, count_valid(log1p, lengths)
        )

    def _mask(self, log1p, features, n_frames, n_stft):
        features = self._to_stft_rate(features, n_frames, log1p.shape[1])
        hidden = torch.cat([log1p, features], dim=-1)
        hidden = self.blstm(self.input_layer(hidden), n_frames=n_stft)
        forward, backward = hidden.chunk(2, dim=-1)
        mask = torch.sigmoid(self.output_layer(forward + backward))
        valid = valid_mask(n_stft, mask.shape[1], mask.device)
        return mask * valid.unsqueeze(-1)

    @staticmethod
    def _to_stft_rate(features, n_frames, n_stft):
        # 20 ms to 10 ms: every frame twice, an utterance's last one onwards.
        position = torch.arange(n_stft, device=features.device) // 2
        last = (n_frames - 1).unsqueeze(1)
        last = last.to(features.device, non_blocking=True)
        index = torch.minimum(position, last)
        return _reorder(features, index)


class SEHead(SpectralMask):
    """Noisy waveforms and SSL features to enhanced spectra (paper Sec. III).

    The mask is that of :class:`SpectralMask`, after BSSE-SE, on a spectrum
    that is the same alone and in a padded batch.

    Arguments
    ---------
    spectrum : LogSpectrum
        The spectral domain; gives the number of bins F.
    feature_size : int
        Width R of the SSL-side features.
    hidden_size : int
        Width of the BLSTM, whose directions are added (paper: 256).
    observation_level_db : float, optional
        What the mask took away comes back, once the head is trained, up to this
        level in dB of the input: see
        :func:`merit_modules.heads.spectral.observation_share`. Nothing
        comes back by default (paper).

    Example
    -------
    >>> from merit_modules.heads.spectral import LogSpectrum
    >>> head = SEHead(LogSpectrum(), feature_size=6, hidden_size=8)
    >>> features, wavs = torch.rand(2, 49, 6), torch.randn(2, 16000)
    >>> out = head(features, wavs, torch.tensor([1.0, 0.5]))
    >>> out.mask.shape
    torch.Size([2, 201, 101])
    >>> head.to_wavs(out, 16000).shape
    torch.Size([2, 16000])
    """

    def __init__(
        self,
        spectrum,
        feature_size,
        hidden_size=256,
        observation_level_db=None,
    ):
        super().__init__(spectrum.n_bins, feature_size, hidden_size)
        self.spectrum = spectrum
        self.observation_level_db = observation_level_db

    def forward(
        self, features, noisy_wavs, lengths=None, n_frames=None, n_samples=None
    ):
        """Estimate the enhanced spectrum.

        Arguments
        ---------
        features : torch.Tensor
            SSL-side features (B, T, R), one per 20 ms.
        noisy_wavs : torch.Tensor
            Normalised noisy waveforms (B, N).
        lengths : torch.Tensor, optional
            Relative lengths (B,) of both; all 1 by default.
        n_frames : torch.Tensor, optional
            In place of ``lengths``: valid frames (B,) of the features,
        n_samples : torch.Tensor, optional
            and samples (B,) of the waveforms.

        Returns
        -------
        Enhancement
            Enhanced feature, mask and noisy spectrum.
        """
        n_frames = count_valid(features, lengths, n_frames)
        n_samples = count_valid(noisy_wavs, lengths, n_samples)
        noisy_stft = self.spectrum(noisy_wavs, n_samples)
        n_stft = self.spectrum.n_frames(n_samples)
        noisy_log1p = log1p_magnitude(noisy_stft)
        mask = self._mask(
            noisy_log1p.transpose(1, 2), features, n_frames, n_stft
        ).transpose(1, 2)
        return Enhancement(
            mask * noisy_log1p, mask, noisy_stft, n_stft, n_samples
        )

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
        noisy = enhancement.noisy_stft
        stft = with_noisy_phase(enhancement.log1p, noisy)
        # In training the mask would learn to take away the more.
        if self.observation_level_db is not None and not self.training:
            removed = noisy - stft
            share = observation_share(
                noisy.abs().square(),
                removed.abs().square(),
                self.observation_level_db,
            )
            stft = stft + share * removed
        return self.spectrum.inverse(stft, enhancement.n_samples, n_max)


#: In half precision cuDNN has one kernel for a whole sequence if the batch is a
#: multiple of this; else it has several for each frame.
FILLED = 16
#: Utterances that are computed at once there.
PIECE = 32


def _is_half(frames):
    kind = frames.dtype
    if torch.is_autocast_enabled(frames.device.type):
        kind = torch.get_autocast_dtype(frames.device.type)
    return kind in (torch.float16, torch.bfloat16)


class PaddedBLSTM(nn.LSTM):
    """Bidirectional LSTM over padded utterances.

    The backward direction starts at an utterance's own end. cuDNN does that
    with packed sequences; on a CPU, where packing makes training about five
    times slower, each utterance is reversed in place of the batch.

    Arguments
    ---------
    input_size : int
        Width of the input.
    hidden_size : int
        Width H of each direction.
    num_layers : int
        Number of layers.

    Example
    -------
    >>> blstm = PaddedBLSTM(4, 3, num_layers=2)
    >>> blstm(torch.rand(2, 7, 4), torch.tensor([1.0, 0.7])).shape
    torch.Size([2, 7, 6])
    """

    def __init__(self, input_size, hidden_size, num_layers):
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bidirectional=True,
            batch_first=True,
        )

    def forward(self, frames, lengths=None, n_frames=None):
        """Run both directions.

        Arguments
        ---------
        frames : torch.Tensor
            Input (B, S, D).
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        n_frames : torch.Tensor, optional
            In place of ``lengths``: valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Both directions side by side (B, S, 2 H); only valid frames have a
            meaning.
        """
        n_frames = count_valid(frames, lengths, n_frames)
        if frames.is_cuda and _is_half(frames):
            return self._in_filled_pieces(frames, n_frames)
        if frames.is_cuda:
            return self._packed(frames, n_frames)
        if bool((n_frames == frames.shape[1]).all()):
            return super().forward(frames)[0]
        return self._by_direction(frames, n_frames)

    def _in_filled_pieces(self, frames, n_frames):
        """Fill the batch up to what cuDNN's persistent kernel takes."""
        n_utterances = len(frames)
        more = -n_utterances % FILLED
        frames = nn.functional.pad(frames, (0, 0, 0, 0, 0, more))
        n_frames = nn.functional.pad(n_frames, (0, more), value=1)
        pieces = zip(frames.split(PIECE), n_frames.split(PIECE))
        with warnings.catch_warnings():
            # One direction's weights are copied together at each call.
            warnings.filterwarnings("ignore", "RNN module weights")
            done = [self._by_direction(*piece) for piece in pieces]
        return torch.cat(done)[:n_utterances]

    def _by_direction(self, frames, n_frames):
        """Run a direction of a layer at a time; backwards: reversed frames."""
        n_frames = n_frames.to(frames.device, non_blocking=True)
        position = torch.arange(frames.shape[1], device=frames.device)
        last = n_frames.unsqueeze(1) - 1
        # Valid frames back to front; padding stays where it is.
        index = torch.where(position <= last, last - position, position)
        for layer in range(self.num_layers):
            back = self._direction(_reorder(frames, index), layer, "_reverse")
            frames = torch.cat(
                [self._direction(frames, layer, ""), _reorder(back, index)], -1
            )
        return frames

    def _direction(self, frames, layer, suffix):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"{name}_l{layer}{suffix}") for name in names]
        start = frames.new_zeros(1, frames.shape[0], self.hidden_size)
        # biases, layers, dropout, training, bidirectional, batch_first
        options = (True, 1, 0.0, self.training, False, True)
        return torch.lstm(frames, (start, start), weights, *options)[0]

    def _packed(self, frames, n_frames):
        packed = pack_padded_sequence(
            frames, n_frames.cpu(), batch_first=True, enforce_sorted=False
        )
        packed, _ = super().forward(packed)
        frames, _ = pad_packed_sequence(
            packed, batch_first=True, total_length=frames.shape[1]
        )
        return frames


def _reorder(frames, index):
    """Pick the frames of each utterance in a given order."""
    index = index.unsqueeze(-1).expand(-1, -1, frames.shape[-1])
    return frames.gather(1, index)

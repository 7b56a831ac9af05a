"""The spectral domain of the SE head: STFT, log1p feature and back again.

Every utterance is transformed as if it were alone: it is reflected at its own
end, not at the end of the padded batch, and its frames alone are overlapped
and added. REFERENCE: paper Sec. III (SE head after BSSE-SE).
"""

import torch
import torch.nn.functional as F
from torch import nn

from merit_modules.lengths import valid_mask

EPS = 1e-6  # released code: inside log1p and under the phase
#: Bins and frames over which energies are averaged: 2.4 kHz and 1 s, where
#: bins are 40 Hz wide and a frame comes every 10 ms.
SPAN = (61, 101)
#: Energy of silence, of which all is given back.
SILENCE = 1e-12


class LogSpectrum(nn.Module):
    """STFT and its log1p magnitude, exact for each utterance of a batch.

    Arguments
    ---------
    n_fft : int
        FFT and window length in samples.
    hop_length : int
        Hop in samples.

    Example
    -------
    >>> spectrum = LogSpectrum()
    >>> wavs = torch.randn(2, 16000)
    >>> n_samples = torch.tensor([16000, 8000])
    >>> stft = spectrum(wavs, n_samples)
    >>> stft.shape
    torch.Size([2, 201, 101])
    >>> again = spectrum.inverse(stft, n_samples, 16000)
    >>> torch.allclose(again[1, :8000], wavs[1, :8000], atol=1e-5)
    True
    """

    def __init__(self, n_fft=400, hop_length=160):
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        window = torch.hamming_window(n_fft, periodic=True)
        self.register_buffer("window", window, persistent=False)

    @property
    def n_bins(self):
        """Number of frequency bins F."""
        return self.n_fft // 2 + 1

    def n_frames(self, n_samples):
        """Number of STFT frames of an utterance of ``n_samples`` samples."""
        return n_samples // self.hop_length + 1

    def forward(self, wavs, n_samples):
        """Transform waveforms.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N).
        n_samples : torch.Tensor
            Their lengths in samples (B,), each above ``n_fft // 2``.

        Returns
        -------
        torch.Tensor
            Complex spectrum (B, F, S); zero in padded frames.

        Raises
        ------
        ValueError
            If an utterance is too short to be reflected at its ends.
        """
        if n_samples.min() <= self.n_fft // 2:
            raise ValueError(
                f"expected more than {self.n_fft // 2} samples per "
                f"utterance, got {int(n_samples.min())}"
            )
        stft = torch.stft(
            self._reflect_ends(wavs, n_samples),
            self.n_fft,
            self.hop_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        frames = valid_mask(
            self.n_frames(n_samples), stft.shape[-1], stft.device
        )
        return stft * frames.unsqueeze(1)

    def _reflect_ends(self, wavs, n_samples):
        half = self.n_fft // 2
        position = torch.arange(
            -half, wavs.shape[1] + half, device=wavs.device
        ).abs()
        last = (n_samples - 1).unsqueeze(1)
        last = last.to(wavs.device, non_blocking=True)
        # Beyond the last sample walk back; positions past the reflection
        # belong to no valid frame and only have to stay inside the row.
        index = (last - (last - position).abs()).clamp_min(0)
        return wavs.gather(1, index)

    def inverse(self, stft, n_samples, n_max):
        """Return to the waveform.

        Arguments
        ---------
        stft : torch.Tensor
            Complex spectrum (B, F, S).
        n_samples : torch.Tensor
            Lengths in samples (B,).
        n_max : int
            Padded length N of the result.

        Returns
        -------
        torch.Tensor
            Waveforms (B, N); zero in padding.
        """
        n_stft = stft.shape[-1]
        n_frames = self.n_frames(n_samples)
        frames = valid_mask(n_frames, n_stft, stft.device).unsqueeze(1)
        windowed = torch.fft.irfft(stft, n=self.n_fft, dim=1)
        windowed = windowed * self.window[:, None] * frames
        weight = self.window.square()[:, None] * frames
        wavs = self._overlap_add(windowed, n_max)
        weight = self._overlap_add(weight, n_max)
        samples = valid_mask(n_samples, n_max, stft.device)
        return torch.where(samples, wavs / weight.clamp_min(1e-11), 0.0)

    def _overlap_add(self, frames, n_max):
        length = self.n_fft + self.hop_length * (frames.shape[-1] - 1)
        wavs = F.fold(
            frames,
            output_size=(1, length),
            kernel_size=(1, self.n_fft),
            stride=(1, self.hop_length),
        )[:, 0, 0]
        half = self.n_fft // 2
        wavs = wavs[:, half : half + n_max]
        return F.pad(wavs, (0, n_max - wavs.shape[1]))


def log1p_magnitude(stft):
    """Compute the SE feature ``log1p(|X| + 1e-6)``.

    Arguments
    ---------
    stft : torch.Tensor
        Complex spectrum (B, F, S).

    Returns
    -------
    torch.Tensor
        Feature (B, F, S).

    Example
    -------
    >>> log1p_magnitude(torch.zeros(1, 2, 3, dtype=torch.cfloat)).shape
    torch.Size([1, 2, 3])
    """
    return torch.log1p(stft.abs() + EPS)


def with_noisy_phase(log1p, noisy_stft):
    """Give an enhanced feature the phase of the noisy spectrum.

    Arguments
    ---------
    log1p : torch.Tensor
        Enhanced log1p feature (B, F, S).
    noisy_stft : torch.Tensor
        Complex noisy spectrum (B, F, S).

    Returns
    -------
    torch.Tensor
        Complex enhanced spectrum (B, F, S).

    Example
    -------
    >>> noisy = torch.randn(1, 5, 7, dtype=torch.cfloat)
    >>> same = with_noisy_phase(log1p_magnitude(noisy), noisy)
    >>> torch.allclose(same, noisy, atol=1e-5)
    True
    """
    # float32: expm1 of a half-precision feature would be audible.
    magnitude = torch.expm1(log1p.float()) - EPS
    return magnitude * noisy_stft / (noisy_stft.abs() + EPS)


def observation_share(noisy_energy, removed_energy, level_db):
    """Choose how much of what a mask took away is given back.

    A mask takes speech away, too, above all that of voices that training has
    not heard. What comes back stays under the noisy input by a fixed level:
    little of loud noise, but nearly all where hardly anything was taken away,
    since there it is more likely speech than noise. That enhanced speech gets
    better if some of the input is added: Iwamoto et al., "How Bad Are
    Artifacts?", Interspeech 2022.

    With N and R, the energies of what came in and of what was taken away around
    a bin, and the level l as a ratio of energies, the share is
    ``sqrt(l N / (l N + R))``: what comes back has less energy than ``l N``.

    Arguments
    ---------
    noisy_energy : torch.Tensor
        Energy of the noisy input (B, F, S); zero in padding.
    removed_energy : torch.Tensor
        Energy of what the mask took away (B, F, S); zero in padding.
    level_db : float
        Highest level of what comes back, in dB of the input; negative.

    Returns
    -------
    torch.Tensor
        Share (B, F, S) of what was taken away, in (0, 1].

    Example
    -------
    >>> noisy, removed = torch.ones(1, 1, 2), torch.tensor([[[0.0, 0.2]]])
    >>> observation_share(noisy, removed, level_db=-20.0)
    tensor([[[0.3015, 0.3015]]])
    """
    allowed = 10 ** (level_db / 10) * _around(noisy_energy) + SILENCE
    return (allowed / (allowed + _around(removed_energy))).sqrt()


def _around(energy):
    # Of both energies alike, zeros beyond the ends do not change the share.
    # One dimension after the other: a window of both costs 50 times the time.
    n_bins, n_frames = SPAN
    bins = F.avg_pool1d(energy.mT, n_bins, stride=1, padding=n_bins // 2)
    return F.avg_pool1d(bins.mT, n_frames, stride=1, padding=n_frames // 2)

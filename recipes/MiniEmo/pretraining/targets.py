"""What pretraining predicts: codes of clean speech, from random projections."""

import speechbrain as sb
import torch
from speechbrain.nnet.quantisers import RandomProjectionQuantizer

from merit_modules.lengths import absolute_lengths, valid_mask

MEL_HOP = 160  # samples: 10 ms


class CleanTargets(torch.nn.Module):
    """Codes of clean speech: quantised random projections of log-mel frames.

    Half of the codebooks see frames in the corpus's scale, loudness and
    colour included; the other half see each utterance normalised.

    Arguments
    ---------
    n_codebooks : int
        Codebooks, an even number.
    n_codes : int
        Codes of each.
    hop_length : int
        Samples from one code to the next.
    code_dim : int
        Width of the projection.
    n_mels : int
        Mel bands.
    seed : int
        Seed of projections and codebooks.
    """

    def __init__(
        self,
        n_codebooks=4,
        n_codes=512,
        hop_length=320,
        code_dim=16,
        n_mels=80,
        seed=0,
    ):
        super().__init__()
        self.per_code = hop_length // MEL_HOP
        self.mel = sb.lobes.features.Fbank(
            n_mels=n_mels, n_fft=400, hop_length=10, win_length=25
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.quantizers = torch.nn.ModuleList(
                RandomProjectionQuantizer(
                    n_mels * self.per_code, code_dim, n_codes
                )
                for _ in range(n_codebooks)
            )
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    @torch.no_grad()
    def fit(self, wavs):
        """Learn mean and deviation of each band.

        Arguments
        ---------
        wavs : iterable of torch.Tensor
            Clean waveforms (N,).
        """
        frames = torch.cat([self.mel(wav[None])[0] for wav in wavs])
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0))

    @torch.no_grad()
    def forward(self, wavs, wav_lens):
        """Code waveforms (B, N) as (B, T, n_codebooks), int64."""
        frames = (self.mel(wavs) - self.mean) / self.std
        n_frames = absolute_lengths(wav_lens, wavs.shape[1]) // MEL_HOP + 1
        valid = valid_mask(n_frames, frames.shape[1], frames.device)[..., None]
        count = valid.sum(1, keepdim=True)
        mean = (frames * valid).sum(1, keepdim=True) / count
        own = frames - mean
        own = own / ((own * valid).square().sum(1, keepdim=True) / count).sqrt()
        codes = []
        for number, quantizer in enumerate(self.quantizers):
            # Frames begin at 0; an encoder's frame is centred later.
            view = (own if number % 2 else frames)[:, 1:]
            n_rows = view.shape[1] // self.per_code
            view = view[:, : n_rows * self.per_code]
            view = view.unflatten(1, (n_rows, self.per_code)).flatten(2)
            codes.append(_nearest(quantizer, view))
        return torch.stack(codes, dim=-1)


def _nearest(quantizer, frames):
    """Pick the codes that the quantizer picks, with less memory.

    Frames and codes have length 1: the nearest has the largest product.
    """
    projected = torch.nn.functional.normalize(frames @ quantizer.P, dim=2)
    return (projected @ quantizer.CB.T).argmax(-1)

"""Which frames of clean speech are silent, unvoiced or voiced."""

import torch
from speechbrain.processing.vocal_features import compute_autocorr_features

SILENT, UNVOICED, VOICED = range(3)
NAMES = ("silent", "unvoiced", "voiced")

WINDOW_S = 0.04  # two periods of the lowest voice
LOWEST_HZ, HIGHEST_HZ = 75, 400  # pitch of speech
MIN_HARMONICITY = 0.5  # autocorrelation at the period, relative to lag 0
SILENCE_DB = -40.0  # below the loudest frame


def frame_voicing(wav, sample_rate_hz, n_frames, hop=320, receptive_field=400):
    """Tell voiced from unvoiced and silent frames.

    A frame is silent if it is 40 dB below the utterance's loudest one, and
    voiced if its autocorrelation has a peak of at least half its energy at a
    period of 75 to 400 Hz.

    Arguments
    ---------
    wav : torch.Tensor
        Clean speech (N,).
    sample_rate_hz : int
        Its sample rate.
    n_frames : int
        Number of frames T of the SSL encoder.
    hop : int
        Samples from one frame to the next.
    receptive_field : int
        Samples that a frame sees.

    Returns
    -------
    torch.Tensor
        uint8 (T,): 0 silent, 1 unvoiced, 2 voiced.

    Example
    -------
    >>> time = torch.arange(16000) / 16000
    >>> wav = sum(torch.sin(2 * torch.pi * 120 * k * time) for k in (1, 2, 3))
    >>> wav[8000:] = 0
    >>> frame_voicing(wav, 16000, 49)[[10, 40]]
    tensor([2, 0], dtype=torch.uint8)
    """
    window = round(WINDOW_S * sample_rate_hz)
    margin = (window - receptive_field) // 2
    # So that each window has the middle of the SSL encoder's frame.
    n_padded = (n_frames - 1) * hop + window
    padded = wav.new_zeros(max(n_padded, len(wav) + margin))
    padded[margin : margin + len(wav)] = wav
    frames = padded[:n_padded].unfold(0, window, hop)
    energy_db = 10 * (frames.square().mean(dim=-1) + 1e-12).log10()
    harmonicity, _ = compute_autocorr_features(
        frames.unsqueeze(0),
        min_lag=sample_rate_hz // HIGHEST_HZ,
        max_lag=sample_rate_hz // LOWEST_HZ,
    )
    voicing = torch.full((n_frames,), UNVOICED, dtype=torch.uint8)
    voicing[harmonicity[0] >= MIN_HARMONICITY] = VOICED
    voicing[energy_db < energy_db.max() + SILENCE_DB] = SILENT
    return voicing

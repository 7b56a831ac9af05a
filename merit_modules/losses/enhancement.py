"""The SE losses."""

import torch

from merit_modules.lengths import masked_mean, valid_mask

SDR_FLOOR = 1e-4  # no reward beyond 40 dB


def log1p_l1(estimate, reference, n_frames):
    """Compute the L1 distance of log1p features over valid frames (paper).

    The released code averages over padding too; here it counts nowhere.

    Arguments
    ---------
    estimate : torch.Tensor
        Enhanced log1p feature (B, F, S).
    reference : torch.Tensor
        Clean log1p feature (B, F, S).
    n_frames : torch.Tensor
        Valid STFT frames per utterance (B,).

    Returns
    -------
    torch.Tensor
        The loss, a scalar.

    Raises
    ------
    ValueError
        If the shapes differ.

    Example
    -------
    >>> import torch
    >>> reference = torch.zeros(1, 2, 3)
    >>> estimate = torch.tensor([[[1.0, 3.0, 9.0], [1.0, 3.0, 9.0]]])
    >>> log1p_l1(estimate, reference, torch.tensor([2]))
    tensor(2.)
    """
    if estimate.shape != reference.shape:
        raise ValueError(
            "log1p_l1: expected equal shapes, got "
            f"{tuple(estimate.shape)} and {tuple(reference.shape)}"
        )
    frames = valid_mask(n_frames, estimate.shape[-1], estimate.device)
    frames = frames.unsqueeze(1)
    return masked_mean((estimate - reference).abs(), frames)


def negative_si_sdr(estimate, reference, n_samples):
    """Compute the negative scale-invariant SDR, averaged over utterances.

    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, without
    mean removal. Not part of the paper's objective.

    Arguments
    ---------
    estimate : torch.Tensor
        Enhanced waveforms (B, N).
    reference : torch.Tensor
        Clean waveforms (B, N).
    n_samples : torch.Tensor
        Lengths in samples (B,).

    Returns
    -------
    torch.Tensor
        The loss in dB, a scalar.

    Example
    -------
    >>> reference = torch.tensor([[1.0, 1.0, 7.0]])
    >>> estimate = torch.tensor([[2.0, 0.0, 9.0]])
    >>> negative_si_sdr(estimate, reference, torch.tensor([2]))
    tensor(-0.)
    """
    samples = valid_mask(n_samples, estimate.shape[1], estimate.device)
    estimate = torch.where(samples, estimate, 0.0)
    reference = torch.where(samples, reference, 0.0)
    # Relative to the reference's own power: the same at any level.
    power = reference.square().sum(dim=-1, keepdim=True).clamp_min(1e-8)
    scale = (estimate * reference).sum(dim=-1, keepdim=True) / power
    target = scale * reference
    signal = target.square().sum(dim=-1) / power.squeeze(-1)
    residual = (estimate - target).square().sum(dim=-1) / power.squeeze(-1)
    ratio = (signal + SDR_FLOOR) / (residual + SDR_FLOOR)
    return -10.0 * torch.log10(ratio).mean()

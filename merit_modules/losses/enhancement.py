"""The SE loss."""

from merit_modules.shapes import masked_mean, valid_mask


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
    frames = valid_mask(n_frames, estimate.shape[-1]).unsqueeze(1)
    return masked_mean((estimate - reference).abs(), frames)

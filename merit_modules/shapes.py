"""Lengths and masks: one definition of which samples and frames are real."""

import torch
from speechbrain.dataio.dataio import length_to_mask


def absolute_lengths(wav_lens, n_max):
    """Turn SpeechBrain's relative lengths into numbers of samples.

    Arguments
    ---------
    wav_lens : torch.Tensor
        Relative lengths (B,), 1.0 for the longest utterance of the batch.
    n_max : int
        Padded length of the batch in samples.

    Returns
    -------
    torch.Tensor
        Lengths in samples (B,), int64.

    Raises
    ------
    ValueError
        If a length is not in (0, 1].

    Example
    -------
    >>> absolute_lengths(torch.tensor([1.0, 0.5]), 16000)
    tensor([16000,  8000])
    """
    # float64: float32 products are off by a sample beyond 2**24.
    n_samples = torch.round(wav_lens.double() * n_max).long()
    if n_samples.min() < 1 or n_samples.max() > n_max:
        raise ValueError(
            f"wav_lens: expected values in (0, 1], got {wav_lens.tolist()}"
        )
    return n_samples


def valid_mask(lengths, max_len):
    """Mark real entries with True and padding with False.

    Arguments
    ---------
    lengths : torch.Tensor
        Number of real entries per utterance (B,).
    max_len : int
        Padded length T.

    Returns
    -------
    torch.Tensor
        Mask (B, T), bool.

    Example
    -------
    >>> valid_mask(torch.tensor([2, 1]), 3).int()
    tensor([[1, 1, 0],
            [1, 0, 0]], dtype=torch.int32)
    """
    return length_to_mask(lengths, max_len=max_len, dtype=torch.bool)


def masked_mean(values, mask):
    """Average over the entries that a mask keeps.

    Arguments
    ---------
    values : torch.Tensor
        Values of any shape.
    mask : torch.Tensor
        Mask that broadcasts to ``values``, True where an entry counts.

    Returns
    -------
    torch.Tensor
        The mean, a scalar.

    Example
    -------
    >>> masked_mean(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([1, 1, 0]) > 0)
    tensor(2.)
    """
    mask = mask.expand_as(values)
    # where, not a product: NaN in padding must not reach the sum.
    return torch.where(mask, values, 0.0).sum() / mask.sum()

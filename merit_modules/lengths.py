"""What of a padded batch is real: the exact rule and the released one.

``exact``: an utterance's result is the same alone and in any batch.
``released``: as in the authors' code, where it depends on the batch. Only to
reproduce their numbers.
"""

from typing import NamedTuple

import torch
from speechbrain.dataio.dataio import length_to_mask

from merit_modules.errors import InputError

RULES = ("exact", "released")


class TaskLengths(NamedTuple):
    """How much of each utterance counts after the SSL encoder.

    Arguments
    ---------
    routed : torch.Tensor
        SSL frames that routers and experts serve (B,).
    pooled : torch.Tensor
        SSL frames that the SER head pools (B,).
    enhanced : torch.Tensor
        Samples that the SE head takes for the utterance (B,).
    """

    routed: torch.Tensor
    pooled: torch.Tensor
    enhanced: torch.Tensor


def check_rule(rule):
    """Return a rule's name if there is such a rule.

    Arguments
    ---------
    rule : str
        ``exact`` or ``released``.

    Returns
    -------
    str
        The same.

    Raises
    ------
    InputError
        If there is no such rule.

    Example
    -------
    >>> check_rule("exact")
    'exact'
    """
    if rule not in RULES:
        raise InputError(
            f"padding_rule: expected one of {', '.join(RULES)}, got {rule!r}"
        )
    return rule


def released_frames(n_samples, n_padded, n_rows):
    """Count the frames that the released code lets the transformer see.

    The padded row is cut to a multiple of its T frames and split into T
    pieces; a frame is padding only where its whole piece is.

    Arguments
    ---------
    n_samples : torch.Tensor
        Lengths in samples (B,).
    n_padded : int
        Padded length N in samples.
    n_rows : int
        Number of frames T of the padded batch.

    Returns
    -------
    torch.Tensor
        Numbers of frames (B,).

    Example
    -------
    >>> released_frames(torch.tensor([16000, 9000]), 16000, 49)
    tensor([49, 28])
    """
    piece = n_padded // n_rows
    return ((n_samples + piece - 1) // piece).clamp_max(n_rows)


def task_lengths(rule, n_samples, n_frames, n_padded, n_rows, hop_length):
    """Apply a rule to a batch.

    Arguments
    ---------
    rule : str
        ``exact`` or ``released``.
    n_samples : torch.Tensor
        Lengths in samples (B,).
    n_frames : torch.Tensor
        Frames that the SSL encoder takes for the utterance (B,).
    n_padded : int
        Padded length N in samples.
    n_rows : int
        Number of frames T of the padded batch.
    hop_length : int
        Samples from one SSL frame to the next.

    Returns
    -------
    TaskLengths
        What counts for routers, SER head and SE head.

    Example
    -------
    >>> lengths = torch.tensor([16000, 9000]), torch.tensor([49, 27])
    >>> task_lengths("exact", *lengths, 16000, 49, 320).pooled
    tensor([49, 27])
    >>> task_lengths("released", *lengths, 16000, 49, 320).pooled
    tensor([49, 29])
    """
    if rule == "exact":
        return TaskLengths(n_frames, n_frames, n_samples)
    return TaskLengths(
        routed=torch.full_like(n_frames, n_rows),
        pooled=((n_samples - 1) // hop_length + 1).clamp_max(n_rows),
        enhanced=torch.full_like(n_samples, n_padded),
    )


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

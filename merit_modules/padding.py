"""What of a padded batch is real: the exact rule and the released one.

``exact``: an utterance's result is the same alone and in any batch.
``released``: as in the authors' code, where it depends on the batch. Only to
reproduce their numbers.
"""

from typing import NamedTuple

import torch

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

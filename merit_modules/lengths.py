"""Which samples and frames of a padded batch are real: lengths, masks, rules.

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


def absolute_lengths(lengths, n_max):
    """Turn SpeechBrain's relative lengths into numbers of samples or frames.

    Arguments
    ---------
    lengths : torch.Tensor
        Relative lengths (B,), 1.0 for the longest utterance of the batch.
    n_max : int
        Padded length of the batch in samples or frames.

    Returns
    -------
    torch.Tensor
        Samples or frames per utterance (B,), int64, on the CPU: the host needs
        them, and a GPU that is asked for them later makes it wait.

    Raises
    ------
    TypeError
        If the lengths are counts.
    InputError
        If a length is not in (0, 1].

    Example
    -------
    >>> absolute_lengths(torch.tensor([1.0, 0.5]), 16000)
    tensor([16000,  8000])
    """
    if not lengths.is_floating_point():
        raise TypeError(
            "lengths: expected relative lengths, floats in (0, 1], got "
            f"{lengths.dtype} {lengths.tolist()}"
        )
    # float64: float32 products are off by a sample beyond 2**24.
    counts = torch.round(lengths.detach().cpu().double() * n_max).long()
    if not lengths.min() > 0 or counts.max() > n_max:
        raise InputError(
            f"lengths: expected values in (0, 1], got {lengths.tolist()}"
        )
    return counts.clamp_min(1)


def count_valid(frames, lengths=None, n_frames=None):
    """Count an utterance's frames, from whichever of two lengths is given.

    Arguments
    ---------
    frames : torch.Tensor
        Frames (B, T, D).
    lengths : torch.Tensor, optional
        Relative lengths (B,), as every SpeechBrain lobe takes them.
    n_frames : torch.Tensor, optional
        Frames per utterance (B,), where they are known. With neither, all
        frames count.

    Returns
    -------
    torch.Tensor
        Frames per utterance (B,), integers.

    Raises
    ------
    TypeError
        If ``n_frames`` are floats, or ``lengths`` are not.
    ValueError
        If both are given, or a relative length is not in (0, 1].

    Example
    -------
    >>> count_valid(torch.rand(2, 10, 4), torch.tensor([1.0, 0.6]))
    tensor([10,  6])
    >>> count_valid(torch.rand(2, 10, 4), n_frames=torch.tensor([1.0, 0.6]))
    Traceback (most recent call last):
    TypeError: expected numbers of frames or samples, integers, got ...
    """
    if n_frames is not None:
        if lengths is not None:
            raise ValueError("expected lengths or n_frames, got both")
        return _checked(n_frames)
    if lengths is None:
        return torch.full((len(frames),), frames.shape[1])
    return absolute_lengths(lengths, frames.shape[1])


def _checked(counts):
    if counts.is_floating_point():
        raise TypeError(
            "expected numbers of frames or samples, integers, got "
            f"{counts.dtype} {counts.tolist()}"
        )
    return counts


def valid_mask(lengths, max_len, device=None):
    """Mark real entries with True and padding with False.

    Arguments
    ---------
    lengths : torch.Tensor
        Number of real entries per utterance (B,).
    max_len : int
        Padded length T.
    device : torch.device, optional
        Where the mask is needed; where the lengths are by default.

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
    lengths = _checked(lengths)
    if device is not None:
        lengths = lengths.to(device, non_blocking=True)
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


class PackedBatch:
    """How the frames that are computed make up a batch (B, T, D).

    Packed, these are the valid frames alone, (M, D), and ``lengths`` says whose
    they are. Otherwise they stay as they are, and ``valid`` says which are
    real: a GPU is made for equal shapes.

    Arguments
    ---------
    n_rows : int
        Padded number of frames T.
    lengths : list of int or None
        Frames of each utterance; None where nothing is packed.
    valid : torch.Tensor or None
        Mask (B, T) of real frames; None where none is needed.
    """

    def __init__(self, n_rows, lengths=None, valid=None):
        self.n_rows = n_rows
        self.lengths = lengths
        self.valid = valid
        self._rows = None

    @classmethod
    def packed(cls, n_frames, n_rows):
        """Compute valid frames alone.

        Arguments
        ---------
        n_frames : torch.Tensor
            Valid frames per utterance (B,).
        n_rows : int
            Padded number of frames T.

        Returns
        -------
        PackedBatch
            A batch that is packed.

        Example
        -------
        >>> batch = PackedBatch.packed(torch.tensor([2, 1]), 3)
        >>> batch.pack(torch.arange(6.0).view(2, 3, 1)).T
        tensor([[0., 1., 3.]])
        >>> batch.pad(torch.ones(3, 1)).squeeze(-1)
        tensor([[1., 1., 0.],
                [1., 0., 0.]])
        """
        return cls(n_rows, _checked(n_frames).tolist())

    @classmethod
    def masked(cls, n_frames, n_rows, device=None):
        """Compute all frames; no utterance sees its padding.

        Arguments
        ---------
        n_frames : torch.Tensor
            Valid frames per utterance (B,).
        n_rows : int
            Padded number of frames T.
        device : torch.device, optional
            Where the frames are; where the counts are by default.

        Returns
        -------
        PackedBatch
            A batch that keeps its shape.

        Example
        -------
        >>> PackedBatch.masked(torch.tensor([2, 1]), 2).valid
        tensor([[ True,  True],
                [ True, False]])
        """
        if min(n_frames.tolist()) == n_rows:
            return cls(n_rows)
        return cls(n_rows, valid=valid_mask(n_frames, n_rows, device))

    @classmethod
    def without_padding(cls, n_rows):
        """Take all frames as they are.

        Arguments
        ---------
        n_rows : int
            Number of frames T.

        Returns
        -------
        PackedBatch
            A batch that no data decides on, as tracing wants it.

        Example
        -------
        >>> PackedBatch.without_padding(3).pack(torch.ones(2, 3, 1)).shape
        torch.Size([2, 3, 1])
        """
        return cls(n_rows)

    def pack(self, frames):
        """Take what is computed out of a padded batch.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, D).

        Returns
        -------
        torch.Tensor
            Frames (M, D), or (B, T, D) as they came.
        """
        if self.lengths is None:
            return frames
        frames, index = frames.flatten(0, 1), self.index(frames.device)
        return frames if index is None else frames.index_select(0, index)

    def pad(self, frames):
        """Put what was computed back in its place; zero elsewhere.

        Arguments
        ---------
        frames : torch.Tensor
            What :meth:`pack` returned, or was made of it.

        Returns
        -------
        torch.Tensor
            Frames (B, T, D).
        """
        if self.lengths is None:
            return frames
        shape, index = (
            (len(self.lengths), self.n_rows),
            self.index(frames.device),
        )
        if index is not None:
            padded = frames.new_zeros(shape[0] * shape[1], frames.shape[-1])
            frames = padded.index_copy(0, index, frames)
        return frames.unflatten(0, shape)

    def index(self, device):
        """Say which of the flattened frames are packed.

        Arguments
        ---------
        device : torch.device
            Where the frames are.

        Returns
        -------
        torch.Tensor or None
            Rows of the flattened (B * T) frames (M,); None if all are.
        """
        if min(self.lengths) == self.n_rows:
            return None
        if self._rows is None:
            starts = range(0, len(self.lengths) * self.n_rows, self.n_rows)
            spans = zip(starts, self.lengths)
            rows = [torch.arange(start, start + n) for start, n in spans]
            self._rows = torch.cat(rows).to(device, non_blocking=True)
        return self._rows

"""Frames of a padded batch without its padding, one utterance after another."""

from typing import NamedTuple

import torch
from torch import nn

from merit_modules.lengths import valid_mask


class PackedBatch(NamedTuple):
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

    n_rows: int
    lengths: list | None
    valid: torch.Tensor | None

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
        return cls(n_rows, n_frames.tolist(), None)

    @classmethod
    def masked(cls, n_frames, n_rows):
        """Compute all frames; no utterance sees its padding.

        Arguments
        ---------
        n_frames : torch.Tensor
            Valid frames per utterance (B,).
        n_rows : int
            Padded number of frames T.

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
        valid = valid_mask(n_frames, n_rows)
        return cls(n_rows, None, None if valid.all() else valid)

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
        return cls(n_rows, None, None)

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
        if min(self.lengths) == self.n_rows:
            return frames.flatten(0, 1)
        return torch.cat([x[:n] for x, n in zip(frames, self.lengths)])

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
        if min(self.lengths) == self.n_rows:
            return frames.unflatten(0, (-1, self.n_rows))
        padded = nn.utils.rnn.pad_sequence(
            frames.split(self.lengths), batch_first=True
        )
        return nn.functional.pad(
            padded, (0, 0, 0, self.n_rows - padded.shape[1])
        )

"""What every system hands its heads: one feature per task and valid frame."""

from typing import NamedTuple

import torch

from merit_modules.lengths import valid_mask


class MixtureOutput(NamedTuple):
    """Features per task and the decisions behind them.

    Arguments
    ---------
    features : dict
        Task name to features (B, T, R); zero in padding.
    routing : dict
        Task name to :class:`~merit_modules.moe.RoutingDecision` on the M
        valid frames, in the order of the flattened (B, T). Empty for a system
        without routers.
    valid : torch.Tensor
        Mask (B, T) of the M valid frames.
    """

    features: dict
    routing: dict
    valid: torch.Tensor

    def expert_map(self, task):
        """Lay a task's decisions out in time.

        Arguments
        ---------
        task : str
            Task name.

        Returns
        -------
        torch.Tensor
            Best expert per frame (B, T); -1 in padding.
        """
        index = self.routing[task].expert_index[:, 0]
        experts = index.new_full(self.valid.shape, -1)
        experts[self.valid] = index
        return experts


class FramePacker:
    """Takes the valid frames out of a padded batch, and puts them back.

    Arguments
    ---------
    n_frames : torch.Tensor
        Valid frames per utterance (B,).
    n_rows : int
        Padded number of frames T.

    Example
    -------
    >>> packer = FramePacker(torch.tensor([2, 1]), 2)
    >>> packer.index
    tensor([0, 1, 2])
    >>> packer.unpack(torch.tensor([[5.0], [6.0], [7.0]])).squeeze(-1)
    tensor([[5., 6.],
            [7., 0.]])
    """

    def __init__(self, n_frames, n_rows):
        self.valid = valid_mask(n_frames, n_rows)
        self._rows = self.valid.flatten().nonzero().squeeze(-1)

    @property
    def index(self):
        """Valid rows of the flattened frames (M,); None if all are."""
        everything = self._rows.numel() == self.valid.numel()
        return None if everything else self._rows

    def unpack(self, packed):
        """Lay frames out as they were.

        Arguments
        ---------
        packed : torch.Tensor
            Valid frames (M, R).

        Returns
        -------
        torch.Tensor
            Frames (B, T, R); zero in padding.
        """
        if self.index is not None:
            frames = packed.new_zeros(self.valid.numel(), packed.shape[-1])
            packed = frames.index_copy(0, self._rows, packed)
        return packed.unflatten(0, self.valid.shape)


def count_rows(layer_reps, n_rows=None):
    """Tell how many frames the layers of a padded batch have.

    Arguments
    ---------
    layer_reps : iterable of torch.Tensor
        Layer representations (B, T, D).
    n_rows : int, optional
        Number of frames T; needed with an iterator, which cannot be looked
        into before it is used.

    Returns
    -------
    int
        Number of frames T.

    Raises
    ------
    ValueError
        If ``n_rows`` is needed and not there.

    Example
    -------
    >>> count_rows([torch.rand(2, 5, 4)])
    5
    """
    if n_rows is not None:
        return n_rows
    if not hasattr(layer_reps, "__getitem__"):
        raise ValueError("n_rows: expected with an iterator of layers")
    return layer_reps[0].shape[1]

"""From the layer representations of an SSL encoder to one feature per frame."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorms(nn.Module):
    """A LayerNorm(D) of its own for each of L layer representations.

    Arguments
    ---------
    n_layer_reps : int
        Number of layer representations L (WavLM-Large: 25).
    dim : int
        Width D of one representation.
    eps : float
        Added to the variance.

    Example
    -------
    >>> norms = LayerNorms(n_layer_reps=3, dim=4)
    >>> [rep.shape for rep in norms.normed([torch.rand(2, 5, 4)] * 3, None)]
    [torch.Size([10, 4]), torch.Size([10, 4]), torch.Size([10, 4])]
    """

    def __init__(self, n_layer_reps, dim, eps=1e-5):
        super().__init__()
        self.n_layer_reps = n_layer_reps
        self.dim = dim
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_layer_reps, dim))
        self.bias = nn.Parameter(torch.zeros(n_layer_reps, dim))

    def normed(self, layer_reps, frame_index):
        """Yield the normed frames of one layer after another.

        Arguments
        ---------
        layer_reps : sequence of torch.Tensor
            L tensors (B, T, D), or one tensor (L, B, T, D).
        frame_index : torch.Tensor or None
            Rows of the flattened (B * T) frames to compute (M,); None for all.

        Yields
        ------
        torch.Tensor
            Normed frames (M, D).

        Raises
        ------
        ValueError
            If the number or the width of the layers is not as configured.
        """
        found = (len(layer_reps), layer_reps[0].shape[-1])
        expected = (self.n_layer_reps, self.dim)
        if found != expected:
            raise ValueError(
                "layer_reps: expected (layers, width) = "
                f"{expected}, got {found}"
            )
        for rep, weight, bias in zip(layer_reps, self.weight, self.bias):
            rows = rep.flatten(0, 1)
            if frame_index is not None:
                rows = rows.index_select(0, frame_index)
            yield F.layer_norm(rows, (self.dim,), weight, bias, self.eps)


class LayerNormConcat(LayerNorms):
    """Normalise every layer and concatenate them (paper Eq. for f_t).

    The feature is L * D wide. Only the frames asked for are computed.

    Arguments
    ---------
    n_layer_reps : int
        Number of layer representations L.
    dim : int
        Width D of one representation.
    eps : float
        Added to the variance.

    Example
    -------
    >>> mix = LayerNormConcat(n_layer_reps=3, dim=4)
    >>> mix([torch.rand(2, 5, 4)] * 3, torch.tensor([0, 1, 7])).shape
    torch.Size([3, 12])
    """

    @property
    def output_size(self):
        """Width L * D of the concatenation."""
        return self.n_layer_reps * self.dim

    def forward(self, layer_reps, frame_index):
        """Build the features of chosen frames.

        Arguments
        ---------
        layer_reps : sequence of torch.Tensor
            L tensors (B, T, D), or one tensor (L, B, T, D).
        frame_index : torch.Tensor or None
            Rows of the flattened (B * T) frames to compute (M,); None for all.

        Returns
        -------
        torch.Tensor
            Features (M, L * D).
        """
        return torch.cat(list(self.normed(layer_reps, frame_index)), dim=-1)


class WeightedLayerSum(LayerNorms):
    """Normalise every layer and add them up with softmax weights.

    The usual way to read an SSL encoder (SUPERB), with a norm per layer as in
    the released code; D wide.

    Arguments
    ---------
    n_layer_reps : int
        Number of layer representations L.
    dim : int
        Width D of one representation.
    eps : float
        Added to the variance.

    Example
    -------
    >>> mix = WeightedLayerSum(n_layer_reps=3, dim=4)
    >>> mix([torch.rand(2, 5, 4)] * 3, torch.tensor([0, 1, 7])).shape
    torch.Size([3, 4])
    """

    def __init__(self, n_layer_reps, dim, eps=1e-5):
        super().__init__(n_layer_reps, dim, eps)
        self.layer_weights = nn.Parameter(torch.zeros(n_layer_reps))

    @property
    def output_size(self):
        """Width D of the sum."""
        return self.dim

    def forward(self, layer_reps, frame_index):
        """Build the features of chosen frames.

        Arguments
        ---------
        layer_reps : sequence of torch.Tensor
            L tensors (B, T, D), or one tensor (L, B, T, D).
        frame_index : torch.Tensor or None
            Rows of the flattened (B * T) frames to compute (M,); None for all.

        Returns
        -------
        torch.Tensor
            Features (M, D).
        """
        weights = self.layer_weights.softmax(dim=0)
        normed = self.normed(layer_reps, frame_index)
        # One after another: L normed layers are never in memory at once,
        # unless the backward pass needs them.
        return sum(weight * rep for weight, rep in zip(weights, normed))

"""From the layer representations of an SSL encoder to one feature per frame."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNormConcat(nn.Module):
    """Normalise every layer and concatenate them (paper Eq. for f_t).

    Each of the L layers has a LayerNorm(D) of its own; the frame's feature is
    their concatenation, L * D wide. Only the frames asked for are computed.

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
    >>> mix = LayerNormConcat(n_layer_reps=3, dim=4)
    >>> mix([torch.rand(2, 5, 4)] * 3, torch.tensor([0, 1, 7])).shape
    torch.Size([3, 12])
    """

    def __init__(self, n_layer_reps, dim, eps=1e-5):
        super().__init__()
        self.n_layer_reps = n_layer_reps
        self.dim = dim
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(n_layer_reps, dim))
        self.bias = nn.Parameter(torch.zeros(n_layer_reps, dim))

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

        Raises
        ------
        ValueError
            If the number or the width of the layers is not as configured.
        """
        self._check(layer_reps)
        rows = [rep.flatten(0, 1) for rep in layer_reps]
        if frame_index is not None:
            rows = [rep.index_select(0, frame_index) for rep in rows]
        normed = [
            F.layer_norm(rep, (self.dim,), weight, bias, self.eps)
            for rep, weight, bias in zip(rows, self.weight, self.bias)
        ]
        return torch.cat(normed, dim=-1)

    def _check(self, layer_reps):
        found = (len(layer_reps), layer_reps[0].shape[-1])
        expected = (self.n_layer_reps, self.dim)
        if found != expected:
            raise ValueError(
                "layer_reps: expected (layers, width) = "
                f"{expected}, got {found}"
            )

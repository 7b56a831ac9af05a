"""From the layer representations of an SSL encoder to one feature per frame."""

import torch
import torch.nn.functional as F
from torch import nn

from merit_modules.cpu import onednn
from merit_modules.lengths import PackedBatch, count_valid


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

    def norm(self, number, rows):
        """Norm frames of one layer.

        Arguments
        ---------
        number : int
            Which layer representation, from 0.
        rows : torch.Tensor
            Its frames (M, D).

        Returns
        -------
        torch.Tensor
            Normed frames (M, D).
        """
        weight, bias = self.weight[number], self.bias[number]
        return F.layer_norm(rows, (self.dim,), weight, bias, self.eps)

    def forward(self, layer_reps, lengths=None, n_frames=None):
        """Build one feature per frame.

        Arguments
        ---------
        layer_reps : torch.Tensor
            Layer representations (L, B, T, D), as an SSL lobe gives them with
            ``output_all_hiddens``; or a list of L tensors (B, T, D).
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        n_frames : torch.Tensor, optional
            In place of ``lengths``: valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Features (B, T, output_size); zero in padding.
        """
        first = layer_reps[0]
        n_frames = count_valid(first, lengths, n_frames)
        batch = PackedBatch.packed(n_frames, first.shape[1])
        return batch.pad(self.rows(layer_reps, batch.index(first.device)))

    def normed(self, layer_reps, frame_index):
        """Yield the normed frames of one layer after another.

        Arguments
        ---------
        layer_reps : iterable of torch.Tensor
            L tensors (B, T, D), or one tensor (L, B, T, D). Each is asked for
            when the one before has been used.
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
        expected = (self.n_layer_reps, self.dim)
        for number, rows in enumerate(
            layer_rows(layer_reps, frame_index, *expected)
        ):
            yield self.norm(number, rows)


def layer_rows(layer_reps, frame_index, n_layer_reps, dim):
    """Yield the chosen frames of one layer after another.

    Arguments
    ---------
    layer_reps : iterable of torch.Tensor
        L tensors (B, T, D), or (M, D) that hold the chosen frames alone.
    frame_index : torch.Tensor or None
        Rows of the flattened (B * T) frames (M,); None for all.
    n_layer_reps : int
        Number of layers L that there must be.
    dim : int
        Their width D.

    Yields
    ------
    torch.Tensor
        Frames (M, D).

    Raises
    ------
    ValueError
        If the number or the width of the layers is another.

    Example
    -------
    >>> layers = (torch.rand(2, 5, 4) for _ in range(3))
    >>> [rows.shape[0] for rows in layer_rows(layers, None, 3, 4)]
    [10, 10, 10]
    """
    number, width = 0, dim
    for number, rep in enumerate(layer_reps, start=1):
        width = rep.shape[-1]
        if number > n_layer_reps or width != dim:
            break
        rows = rep
        if rep.dim() == 3:  # else the frames were packed already
            rows = rep.flatten(0, 1)
            if frame_index is not None:
                rows = rows.index_select(0, frame_index)
        del rep  # what comes next may need its memory
        yield rows
    if (number, width) != (n_layer_reps, dim):
        found = len(layer_reps) if hasattr(layer_reps, "__len__") else number
        raise ValueError(
            "layer_reps: expected (layers, width) = "
            f"{(n_layer_reps, dim)}, got {(found, width)}"
        )


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
    >>> mix(torch.rand(3, 2, 5, 4), torch.tensor([1.0, 0.6])).shape
    torch.Size([2, 5, 12])
    """

    def __init__(self, n_layer_reps, dim, eps=1e-5):
        super().__init__(n_layer_reps, dim, eps)
        #: False: weights are 1 and biases 0; see inference.prepack.
        self.affine = True
        # Weights that are loaded later count again.
        self.register_load_state_dict_post_hook(_use_affine)

    @property
    def output_size(self):
        """Width L * D of the concatenation."""
        return self.n_layer_reps * self.dim

    def norm(self, number, rows):
        """Norm frames of one layer; see :class:`LayerNorms`."""
        if self.affine:
            return super().norm(number, rows)
        return F.layer_norm(rows, (self.dim,), eps=self.eps)

    def rows(self, layer_reps, frame_index):
        """Build the features of chosen frames.

        Arguments
        ---------
        layer_reps : iterable of torch.Tensor
            L tensors (B, T, D), or one tensor (L, B, T, D).
        frame_index : torch.Tensor or None
            Rows of the flattened (B * T) frames to compute (M,); None for all.

        Returns
        -------
        torch.Tensor
            Features (M, L * D).
        """
        if not onednn.suits(self.weight.device):
            return self._rows_at_once(layer_reps, frame_index)
        normed = self.normed(layer_reps, frame_index)
        if torch.is_grad_enabled():
            return torch.cat(list(normed), dim=-1)
        features = None
        for number, rows in enumerate(normed):
            if features is None:
                size = (len(rows), self.n_layer_reps, self.dim)
                features = rows.new_empty(size)
            features[:, number] = rows
        return features.flatten(1)

    def _rows_at_once(self, layer_reps, frame_index):
        """Take few operations: frames are picked once, from all layers."""
        reps = list(layer_rows(layer_reps, None, self.n_layer_reps, self.dim))
        affine = zip(self.weight.unbind(), self.bias.unbind())
        if self.affine:
            size = (self.dim,)
            reps = [
                F.layer_norm(rep, size, *pair, self.eps)
                for rep, pair in zip(reps, affine)
            ]
        features = torch.cat(reps, dim=-1)
        del reps
        if frame_index is not None:
            features = features.index_select(0, frame_index)
        if self.affine:
            return features
        layers = features.unflatten(-1, (-1, self.dim))
        return F.layer_norm(layers, (self.dim,), eps=self.eps).flatten(1)


def _use_affine(layer_mix, incompatible_keys):
    layer_mix.affine = True


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
    >>> mix(torch.rand(3, 2, 5, 4), torch.tensor([1.0, 0.6])).shape
    torch.Size([2, 5, 4])
    """

    def __init__(self, n_layer_reps, dim, eps=1e-5):
        super().__init__(n_layer_reps, dim, eps)
        self.layer_weights = nn.Parameter(torch.zeros(n_layer_reps))

    @property
    def output_size(self):
        """Width D of the sum."""
        return self.dim

    def rows(self, layer_reps, frame_index):
        """Build the features of chosen frames.

        Arguments
        ---------
        layer_reps : iterable of torch.Tensor
            L tensors (B, T, D), or one tensor (L, B, T, D).
        frame_index : torch.Tensor or None
            Rows of the flattened (B * T) frames to compute (M,); None for all.

        Returns
        -------
        torch.Tensor
            Features (M, D).
        """
        expected = (self.n_layer_reps, self.dim)
        total = None
        for number, rows in enumerate(
            layer_rows(layer_reps, frame_index, *expected)
        ):
            total = self.add(total, number, rows)
        return total

    def add(self, total, number, rows):
        """Add a layer to the sum of those before it.

        Only the sum stays in memory, unless the backward pass needs more.

        Arguments
        ---------
        total : torch.Tensor or None
            The sum so far (M, D); None before the first layer.
        number : int
            Which layer representation, from 0.
        rows : torch.Tensor
            Its frames (M, D).

        Returns
        -------
        torch.Tensor
            The sum with this layer (M, D).
        """
        weights = self.layer_weights.softmax(dim=0)
        term = weights[number] * self.norm(number, rows)
        return term if total is None else total + term

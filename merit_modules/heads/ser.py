"""From the frames of an utterance to one vector, at once or piece by piece."""

from typing import NamedTuple

import torch
from torch import nn

from merit_modules.lengths import count_valid, valid_mask

MIN_VARIANCE = 1e-5  # released code


class PooledSums(NamedTuple):
    """What pooling needs to know of frames that it has seen.

    Arguments
    ---------
    log_weight : torch.Tensor
        Logarithm of the frames' weights, summed (B, 1).
    moments : tuple of torch.Tensor
        Weighted means (B, R) of the frames and, where that is asked for, of
        their squares.
    """

    log_weight: torch.Tensor
    moments: tuple

    def merge(self, other):
        """Join with what was seen of other frames of the same utterances.

        Arguments
        ---------
        other : PooledSums
            Of the other frames.

        Returns
        -------
        PooledSums
            Of all of them.

        Example
        -------
        >>> pool, frames = MeanPooling(6), torch.rand(1, 5, 6)
        >>> first = pool.sums(frames[:, :2], torch.tensor([2]))
        >>> rest = pool.sums(frames[:, 2:], torch.tensor([3]))
        >>> whole = pool(frames)
        >>> torch.allclose(pool.finish(first.merge(rest)), whole)
        True
        """
        both = torch.logaddexp(self.log_weight, other.log_weight)
        ours, theirs = (s.log_weight.sub(both).exp() for s in (self, other))
        return PooledSums(
            both,
            tuple(
                ours * a + theirs * b
                for a, b in zip(self.moments, other.moments, strict=True)
            ),
        )


class AttentiveStatsPooling(nn.Module):
    """Attention-weighted mean and standard deviation over valid frames.

    Arguments
    ---------
    input_size : int
        Width R of a frame.

    Example
    -------
    >>> pool = AttentiveStatsPooling(6)
    >>> pool(torch.rand(2, 5, 6), torch.tensor([1.0, 0.6])).shape
    torch.Size([2, 12])
    """

    def __init__(self, input_size):
        super().__init__()
        self.projection = nn.Linear(input_size, input_size)
        self.attention = nn.Parameter(torch.empty(input_size))
        nn.init.normal_(self.attention, std=input_size**-0.5)
        self.input_size = input_size
        self.output_size = 2 * input_size

    def forward(self, frames, lengths=None, n_frames=None):
        """Pool.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, R).
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        n_frames : torch.Tensor, optional
            In place of ``lengths``: valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Mean and standard deviation side by side (B, 2 R).
        """
        n_frames = count_valid(frames, lengths, n_frames)
        return self.finish(self.sums(frames, n_frames))

    def sums(self, frames, n_frames):
        """Pool some of the frames of each utterance.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, R).
        n_frames : torch.Tensor
            Valid frames per utterance (B,).

        Returns
        -------
        PooledSums
            To be merged with those of other frames.
        """
        scores = torch.tanh(self.projection(frames)) @ self.attention
        padding = ~valid_mask(n_frames, frames.shape[1], frames.device)
        scores = scores.float().masked_fill(padding, -torch.inf)
        weights = scores.softmax(dim=1).unsqueeze(-1)
        return PooledSums(
            scores.logsumexp(dim=1, keepdim=True),
            (
                (weights * frames).sum(dim=1),
                (weights * frames.square()).sum(dim=1),
            ),
        )

    def finish(self, sums):
        """Turn sums into the vector of an utterance.

        Arguments
        ---------
        sums : PooledSums
            Of all its frames.

        Returns
        -------
        torch.Tensor
            Mean and standard deviation side by side (B, 2 R).
        """
        mean, second_moment = sums.moments
        variance = (second_moment - mean.square()).clamp_min(MIN_VARIANCE)
        return torch.cat([mean, variance.sqrt()], dim=-1)


class MeanPooling(nn.Module):
    """Mean over valid frames: what attention is compared with.

    In a YAML file, put it in the place of ``pooling``.

    Arguments
    ---------
    input_size : int
        Width R of a frame.

    Example
    -------
    >>> MeanPooling(6)(torch.rand(2, 5, 6), torch.tensor([1.0, 0.6])).shape
    torch.Size([2, 6])
    """

    def __init__(self, input_size):
        super().__init__()
        self.input_size = input_size
        self.output_size = input_size

    def forward(self, frames, lengths=None, n_frames=None):
        """Pool.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, R).
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        n_frames : torch.Tensor, optional
            In place of ``lengths``: valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Mean (B, R).
        """
        n_frames = count_valid(frames, lengths, n_frames)
        return self.finish(self.sums(frames, n_frames))

    def sums(self, frames, n_frames):
        """Pool some of the frames; see :class:`AttentiveStatsPooling`."""
        n_frames = n_frames.to(frames.device, non_blocking=True)
        valid = valid_mask(n_frames, frames.shape[1]).unsqueeze(-1)
        # where, not a product: NaN in padding must not reach the sum.
        total = torch.where(valid, frames, 0.0).sum(dim=1)
        count = n_frames.unsqueeze(-1)
        return PooledSums(count.to(frames.dtype).log(), (total / count,))

    def finish(self, sums):
        """Turn sums into the vector of an utterance: their mean (B, R)."""
        (mean,) = sums.moments
        return mean


class SERHead(nn.Module):
    """Pooling, then a classifier with one hidden layer (paper Sec. III).

    Arguments
    ---------
    pooling : torch.nn.Module
        Frames (B, T, R) and ``n_frames`` (B,) to one vector per utterance;
        states its width as ``output_size``.
    n_classes : int
        Number of emotion classes C.
    hidden_size : int
        Width of the hidden layer (paper: 1024).
    dropout : float
        Dropout before each linear layer, 0 to 1 (paper: 0.5).

    Example
    -------
    >>> import torch
    >>> from merit_modules.heads.ser import AttentiveStatsPooling
    >>> head = SERHead(AttentiveStatsPooling(6), n_classes=4, hidden_size=8)
    >>> head(torch.rand(2, 5, 6), torch.tensor([1.0, 0.6])).shape
    torch.Size([2, 4])
    """

    def __init__(self, pooling, n_classes, hidden_size=1024, dropout=0.5):
        super().__init__()
        self.pooling = pooling
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(pooling.output_size, hidden_size),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, n_classes),
        )
        self.n_classes = n_classes
        self.hidden_size = hidden_size
        self.dropout = dropout

    def forward(self, frames, lengths=None, n_frames=None):
        """Classify.

        Arguments
        ---------
        frames : torch.Tensor
            Features (B, T, R).
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        n_frames : torch.Tensor, optional
            In place of ``lengths``: valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Class logits (B, C).
        """
        n_frames = count_valid(frames, lengths, n_frames)
        return self.classifier(self.pooling(frames, n_frames=n_frames))

"""From the frames of an utterance to one vector."""

import torch
from torch import nn

from merit_modules.shapes import valid_mask

MIN_VARIANCE = 1e-5  # released code


class AttentiveStatsPooling(nn.Module):
    """Attention-weighted mean and standard deviation over valid frames.

    Arguments
    ---------
    input_size : int
        Width R of a frame.

    Example
    -------
    >>> pool = AttentiveStatsPooling(6)
    >>> pool(torch.rand(2, 5, 6), torch.tensor([5, 3])).shape
    torch.Size([2, 12])
    """

    def __init__(self, input_size):
        super().__init__()
        self.projection = nn.Linear(input_size, input_size)
        self.attention = nn.Parameter(torch.empty(input_size))
        nn.init.normal_(self.attention, std=input_size**-0.5)
        self.input_size = input_size
        self.output_size = 2 * input_size

    def forward(self, frames, n_frames):
        """Pool.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, R).
        n_frames : torch.Tensor
            Valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Mean and standard deviation side by side (B, 2 R).
        """
        scores = torch.tanh(self.projection(frames)) @ self.attention
        padding = ~valid_mask(n_frames, frames.shape[1])
        scores = scores.float().masked_fill(padding, -torch.inf)
        weights = scores.softmax(dim=1).unsqueeze(-1)
        mean = (weights * frames).sum(dim=1)
        second_moment = (weights * frames.square()).sum(dim=1)
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
    >>> MeanPooling(6)(torch.rand(2, 5, 6), torch.tensor([5, 3])).shape
    torch.Size([2, 6])
    """

    def __init__(self, input_size):
        super().__init__()
        self.input_size = input_size
        self.output_size = input_size

    def forward(self, frames, n_frames):
        """Pool.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, R).
        n_frames : torch.Tensor
            Valid frames per utterance (B,).

        Returns
        -------
        torch.Tensor
            Mean (B, R).
        """
        valid = valid_mask(n_frames, frames.shape[1]).unsqueeze(-1)
        # where, not a product: NaN in padding must not reach the sum.
        total = torch.where(valid, frames, 0.0).sum(dim=1)
        return total / n_frames.unsqueeze(-1)

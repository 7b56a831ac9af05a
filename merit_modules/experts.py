"""The experts: feed-forward networks that all tasks share."""

from torch import nn


class FeedForwardExpert(nn.Sequential):
    """Linear, ReLU, Linear (paper Sec. III; 109 M parameters at full size).

    Arguments
    ---------
    input_size : int
        Width L * D of a frame's feature.
    hidden_size : int
        Hidden width H.
    output_size : int
        Output width R.

    Example
    -------
    >>> import torch
    >>> FeedForwardExpert(8, 16, 4)(torch.rand(5, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(self, input_size, hidden_size, output_size):
        super().__init__(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, output_size),
        )


class ExpertPool(nn.ModuleList):
    """E experts of the same shape.

    Arguments
    ---------
    n_experts : int
        Number of experts E.
    input_size : int
        Width of a frame's feature.
    hidden_size : int
        Hidden width H.
    output_size : int
        Output width R.

    Raises
    ------
    ValueError
        If ``n_experts`` is below 1.

    Example
    -------
    >>> pool = ExpertPool(3, input_size=8, hidden_size=16, output_size=4)
    >>> len(pool), pool.output_size
    (3, 4)
    """

    def __init__(self, n_experts, input_size, hidden_size, output_size):
        if n_experts < 1:
            raise ValueError(f"n_experts: expected 1 or more, got {n_experts}")
        super().__init__(
            FeedForwardExpert(input_size, hidden_size, output_size)
            for _ in range(n_experts)
        )
        self.input_size = input_size
        self.output_size = output_size

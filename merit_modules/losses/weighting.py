"""Task weights that are learned."""

import torch
from torch import nn


class UncertaintyWeighting(nn.Module):
    """Weigh tasks by their uncertainty (Kendall et al., CVPR 2018).

    Each task has a learned log scale s. Cross entropy L becomes
    ``exp(-s) L + s / 2`` (s: log variance), L1 becomes ``exp(-s) L + s`` (s:
    log scale of a Laplace distribution).

    Arguments
    ---------
    penalties : dict, optional
        Task name to the factor before s; by default that of the two tasks.

    Example
    -------
    >>> weighting = UncertaintyWeighting()
    >>> weighting("ser", torch.tensor(2.0))
    tensor(2., grad_fn=<AddBackward0>)
    """

    def __init__(self, penalties=None):
        super().__init__()
        self.penalties = penalties or {"se": 1.0, "ser": 0.5}
        self.log_scales = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(())) for task in self.penalties}
        )

    def forward(self, task, loss):
        """Weigh the loss of a task.

        Arguments
        ---------
        task : str
            Task name.
        loss : torch.Tensor
            Its loss, never negative.

        Returns
        -------
        torch.Tensor
            Weighted loss with its penalty.
        """
        log_scale = self.log_scales[task]
        return (-log_scale).exp() * loss + self.penalties[task] * log_scale

    def weights(self):
        """Tell the present weights.

        Returns
        -------
        dict
            Task name to weight, a tensor without gradient.

        Example
        -------
        >>> UncertaintyWeighting().weights()["se"]
        tensor(1.)
        """
        return {k: (-s.detach()).exp() for k, s in self.log_scales.items()}

"""The experts that all tasks share."""

import torch
from torch import nn

from merit_modules.cpu import onednn


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
    >>> FeedForwardExpert(8, 16, 4)(torch.rand(5, 8)).shape
    torch.Size([5, 4])
    """

    def __init__(self, input_size, hidden_size, output_size):
        super().__init__(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(inplace=True),  # no layer's gradient needs what was there
            nn.Linear(hidden_size, output_size),
        )

    def forward(self, frames):
        """Compute features (M, R) of frames (M, L * D)."""
        first, activation, last = self
        return onednn.apply(last, activation(onednn.apply(first, frames)))


class LayerMixingExpert(nn.Module):
    """A softmax-weighted sum of the normed layers and nothing else.

    Arguments
    ---------
    n_layer_reps : int
        Number of layer representations L.
    equal : bool
        Start with equal weights. Experts need random ones: if they started
        the same they would stay the same.

    Example
    -------
    >>> LayerMixingExpert(3)(torch.rand(5, 12)).shape
    torch.Size([5, 4])
    """

    def __init__(self, n_layer_reps, equal=False):
        super().__init__()
        self.n_layer_reps = n_layer_reps
        self.equal = equal
        start = torch.zeros if equal else torch.randn
        self.layer_weights = nn.Parameter(start(n_layer_reps))

    def forward(self, features):
        """Mix the layers of concatenated features.

        Arguments
        ---------
        features : torch.Tensor
            Concatenation of L normed layers (M, L * D).

        Returns
        -------
        torch.Tensor
            Their weighted sum (M, D).
        """
        layers = features.unflatten(-1, (len(self.layer_weights), -1))
        weights = self.layer_weights.softmax(dim=0).to(features.dtype)
        return torch.einsum("mld,l->md", layers, weights)


def _check_n_experts(n_experts):
    """Return the number of experts if it is one."""
    if n_experts < 1:
        raise ValueError(f"n_experts: expected 1 or more, got {n_experts}")
    return n_experts


EXPERT_STARTS = ("apart", "alike", "zero", "layer_mean")


@torch.no_grad()
def _start_as_layer_mean(expert):
    """Make an expert begin as the mean of the layers that it is given.

    Pairs of hidden units carry the mean: x = ReLU(x) - ReLU(-x). The others
    are random, and silent until the last linear map listens to them.

    Arguments
    ---------
    expert : FeedForwardExpert
        Its input is L layers of its output's width D; its hidden width is
        2 * D or more.

    Raises
    ------
    ValueError
        If it has other widths.
    """
    first, _, last = expert
    dim = last.out_features
    n_layer_reps, rest = divmod(first.in_features, dim)
    if rest or first.out_features < 2 * dim:
        raise ValueError(
            "start layer_mean: expected experts whose output is as wide as "
            "one layer, and whose hidden width is twice that or more, got "
            f"{first.in_features} -> {first.out_features} -> {dim}"
        )
    identity = torch.eye(dim)
    mean = identity.repeat(1, n_layer_reps) / n_layer_reps  # (D, L * D)
    first.weight[: 2 * dim] = torch.cat([mean, -mean])
    nn.init.zeros_(first.bias)
    nn.init.zeros_(last.weight)
    last.weight[:, : 2 * dim] = torch.cat([identity, -identity], dim=1)
    nn.init.zeros_(last.bias)


class ExpertPool(nn.ModuleList):
    """E feed-forward experts of the same shape.

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
    start : str
        ``apart``: every expert has random weights of its own. ``alike``: all
        start as copies of the first, as in sparse upcycling (arXiv
        2212.05055), so that a feature does not depend on the choice of the
        expert until the experts have learned to differ. ``zero``: as
        ``apart``, but all give 0 at first, for experts beside a skip.
        ``layer_mean``: every expert begins as the mean of the layers, the
        feature with which naive multi-task learning begins, and learns from
        there; its output is as wide as one layer, its hidden width twice
        that or more.

    Raises
    ------
    ValueError
        If ``n_experts`` is below 1, or ``start`` is unknown or not possible
        with these widths.

    Example
    -------
    >>> pool = ExpertPool(3, input_size=8, hidden_size=16, output_size=4)
    >>> len(pool), pool.output_size
    (3, 4)
    """

    def __init__(
        self, n_experts, input_size, hidden_size, output_size, start="apart"
    ):
        super().__init__(
            FeedForwardExpert(input_size, hidden_size, output_size)
            for _ in range(_check_n_experts(n_experts))
        )
        if start not in EXPERT_STARTS:
            raise ValueError(
                f"start: expected one of {EXPERT_STARTS}, got {start!r}"
            )
        if start == "alike":
            for expert in list(self)[1:]:
                expert.load_state_dict(self[0].state_dict())
        elif start == "zero":
            for expert in self:
                nn.init.zeros_(expert[-1].weight)
                nn.init.zeros_(expert[-1].bias)
        elif start == "layer_mean":
            for expert in self:
                _start_as_layer_mean(expert)
        self.n_experts = n_experts
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = output_size
        self.start = start


class LayerMixingPool(nn.ModuleList):
    """E experts that only mix layers (paper: layer-mixing experts).

    Arguments
    ---------
    n_experts : int
        Number of experts E.
    n_layer_reps : int
        Number of layer representations L.
    dim : int
        Width D of one representation, and of the result.

    Raises
    ------
    ValueError
        If ``n_experts`` is below 1.

    Example
    -------
    >>> pool = LayerMixingPool(2, n_layer_reps=3, dim=4)
    >>> pool.input_size, pool.output_size
    (12, 4)
    """

    def __init__(self, n_experts, n_layer_reps, dim):
        super().__init__(
            LayerMixingExpert(n_layer_reps)
            for _ in range(_check_n_experts(n_experts))
        )
        self.n_experts = n_experts
        self.n_layer_reps = n_layer_reps
        self.dim = dim

    @property
    def input_size(self):
        """Width L * D of the features that the experts take."""
        return self.n_layer_reps * self.dim

    @property
    def output_size(self):
        """Width D of what they give."""
        return self.dim

"""The routing decision: which experts serve a frame, and with what weight."""

from typing import NamedTuple

import torch
from torch import nn

GRADIENTS = ("straight_through", "scaled", "reference")


class RoutingDecision(NamedTuple):
    """What a router decided for M frames.

    Arguments
    ---------
    logits : torch.Tensor
        Router outputs (M, E).
    probs : torch.Tensor
        Their softmax (M, E).
    expert_index : torch.Tensor
        Chosen experts (M, k), the best first.
    weights : torch.Tensor
        Weights of the chosen experts (M, k).
    unit : bool
        Whether all weights are exactly 1 and constants.
    """

    logits: torch.Tensor
    probs: torch.Tensor
    expert_index: torch.Tensor
    weights: torch.Tensor
    unit: bool = False


class TopKRouter(nn.Module):
    """Send every frame to its k highest-scoring experts (paper Sec. III).

    The weights of the chosen experts are the softmax over the chosen ones:
    exactly 1 for k = 1 (the published sparse routing), exactly the full
    softmax for k = E (the published dense routing).

    Arguments
    ---------
    input_size : int
        Width of a frame's feature.
    n_experts : int
        Number of experts E.
    top_k : int
        Number of experts per frame k, 1 to E.
    gradient : str
        ``straight_through``: forward as above, backward as if the weights
        were the router's probabilities. ``scaled``: the weights are the
        probabilities themselves (Switch Transformer, arXiv 2101.03961).
        ``reference``: as in the released code, sparse weights are constants
        and the router never learns; dense weights are the softmax.

    Raises
    ------
    ValueError
        If ``top_k`` or ``gradient`` is not among the allowed values.

    Example
    -------
    >>> router = TopKRouter(input_size=8, n_experts=3)
    >>> decision = router(torch.rand(5, 8))
    >>> decision.weights.unique()
    tensor([1.], grad_fn=<Unique2Backward0>)
    """

    def __init__(
        self, input_size, n_experts, top_k=1, gradient="straight_through"
    ):
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(
                f"top_k: expected 1 to {n_experts} (n_experts), got {top_k}"
            )
        if gradient not in GRADIENTS:
            raise ValueError(
                f"gradient: expected one of {GRADIENTS}, got {gradient!r}"
            )
        self.input_size = input_size
        self.n_experts = n_experts
        self.top_k = top_k
        self.gradient = gradient
        self.linear = nn.Linear(input_size, n_experts)
        if gradient == "reference" and top_k < n_experts:
            # Constants in the released code too: no gradient, no decay.
            self.requires_grad_(False)

    def forward(self, features):
        """Decide.

        Arguments
        ---------
        features : torch.Tensor
            Features of M frames (M, L * D).

        Returns
        -------
        RoutingDecision
            Logits, probabilities, chosen experts and their weights.
        """
        # Half-precision logits would flip decisions between close experts.
        with torch.autocast(features.device.type, enabled=False):
            logits = self.linear(features.to(self.linear.weight.dtype))
        probs = logits.softmax(dim=-1)
        top_logits, expert_index = logits.topk(self.top_k, dim=-1)
        weights = top_logits.softmax(dim=-1)
        if self.gradient != "reference":
            chosen = probs.gather(-1, expert_index)
            if self.gradient == "scaled":
                weights = chosen
            else:
                # The bracket is exactly 0 in the forward pass.
                weights = weights.detach() + (chosen - chosen.detach())
        elif self.top_k < self.n_experts:
            weights = weights.detach()
        unit = self.top_k == 1 and self.gradient != "scaled"
        unit = unit and not weights.requires_grad
        return RoutingDecision(logits, probs, expert_index, weights, unit)

"""What keeps routers healthy: balance over experts, moderate logits.

Both losses take the decisions on valid frames only, so padding counts in
neither.
"""

import math

import torch
import torch.nn.functional as F

MIN_LOAD = 1e-3


def load_balance(decision, load=None):
    """Penalise uneven expert load (Switch Transformer, arXiv 2101.03961 Eq. 4).

    ``E * sum_e f_e P_e`` with f_e the share of decisions for expert e and P_e
    its mean probability: 1 for a uniform router, up to E for a collapsed one.

    Arguments
    ---------
    decision : RoutingDecision
        Decisions on M valid frames.
    load : torch.Tensor, optional
        The shares f_e (E,); those of ``decision`` by default. With
        :func:`pool_load` the pool is balanced and not each router: averaged
        over the tasks, the loss is that of all decisions together.

    Returns
    -------
    torch.Tensor
        The loss, a scalar.

    Example
    -------
    >>> import torch
    >>> from merit_modules.moe.routers import RoutingDecision
    >>> probs = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> index, weights = torch.tensor([[0], [0]]), torch.ones(2, 1)
    >>> load_balance(RoutingDecision(probs.log(), probs, index, weights))
    tensor(2.)
    """
    n_experts = decision.probs.shape[-1]
    load = expert_load(decision) if load is None else load
    return n_experts * (load * decision.probs.mean(dim=0)).sum()


def load_kl(decision, load=None):
    """Penalise uneven expert load by its KL divergence (released code).

    ``sum_e u (log u - log f_e) / E`` with u = 1 / E. The released code counts
    decisions, which have no gradient; here the backward pass takes the mean
    probabilities in their place.

    Arguments
    ---------
    decision : RoutingDecision
        Decisions on M valid frames.
    load : torch.Tensor, optional
        The shares f_e (E,); those of ``decision`` by default.

    Returns
    -------
    torch.Tensor
        The loss, a scalar.

    Example
    -------
    >>> import torch
    >>> from merit_modules.moe.routers import RoutingDecision
    >>> probs = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> index, weights = torch.tensor([[0], [1]]), torch.ones(2, 1)
    >>> load_kl(RoutingDecision(probs.log(), probs, index, weights))
    tensor(0.)
    """
    mean_probs = decision.probs.mean(dim=0)
    # An idle expert: a large loss with a gradient that stays moderate.
    load = expert_load(decision) if load is None else load
    load = load.clamp_min(MIN_LOAD)
    load = load + (mean_probs - mean_probs.detach())
    uniform = 1.0 / len(load)
    return (uniform * (math.log(uniform) - load.log())).mean()


def router_z(decision):
    """Penalise large router logits (ST-MoE, arXiv 2202.08906 Eq. 5).

    Arguments
    ---------
    decision : RoutingDecision
        Decisions on M valid frames.

    Returns
    -------
    torch.Tensor
        Mean squared log-sum-exp of the logits, a scalar.

    Example
    -------
    >>> import torch
    >>> from merit_modules.moe.routers import RoutingDecision
    >>> logits = torch.full((3, 2), -torch.tensor(2.0).log())
    >>> router_z(RoutingDecision(logits, None, None, None))
    tensor(0.)
    """
    return decision.logits.logsumexp(dim=-1).square().mean()


def expert_load(decision):
    """Compute the share of decisions that each expert received.

    Arguments
    ---------
    decision : RoutingDecision
        Decisions on M valid frames.

    Returns
    -------
    torch.Tensor
        Shares (E,), summing to 1.

    Example
    -------
    >>> import torch
    >>> from merit_modules.moe.routers import RoutingDecision
    >>> index = torch.tensor([[0], [2], [2], [2]])
    >>> expert_load(RoutingDecision(None, torch.zeros(4, 3), index, None))
    tensor([0.2500, 0.0000, 0.7500])
    """
    n_experts = decision.probs.shape[-1]
    chosen = F.one_hot(decision.expert_index.flatten(), n_experts)
    return chosen.float().mean(dim=0)


def pool_load(loads):
    """Compute the share of all tasks' decisions that each expert received.

    Arguments
    ---------
    loads : iterable of torch.Tensor
        Per task the shares that :func:`expert_load` gives (E,).

    Returns
    -------
    torch.Tensor
        Shares (E,), summing to 1: the mean of the tasks' loads.

    Example
    -------
    >>> import torch
    >>> pool_load([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
    tensor([0.5000, 0.5000])
    """
    return torch.stack(list(loads)).mean(dim=0)


#: What can keep the load even.
BALANCE_LOSSES = {"switch": load_balance, "kl": load_kl}


class RoutedCost:
    """A cost of one's own, plus what keeps the routers of a mixture healthy.

    In a YAML file it wraps the cost that a recipe calls, whose arguments it
    hands on; the decisions are those of the mixture's last call.

    Arguments
    ---------
    cost : callable
        What the recipe minimises.
    mixture : ExpertMixture
        The mixture.
    load_balance : float
        Weight of the load-balancing loss of each router.
    router_z : float
        Weight of the z-loss of each router.
    balance_loss : str
        ``switch`` or ``kl``.

    Example
    -------
    >>> import torch
    >>> from merit_modules.moe.routers import RoutingDecision
    >>> class Mixture:
    ...     probs = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    ...     index, weights = torch.tensor([[0], [0]]), torch.ones(2, 1)
    ...     routing = {"ser": RoutingDecision(probs, probs, index, weights)}
    >>> cost = RoutedCost(F.l1_loss, Mixture, load_balance=0.1, router_z=0.0)
    >>> cost(torch.ones(3), torch.zeros(3))
    tensor(1.2000)
    """

    def __init__(
        self,
        cost,
        mixture,
        load_balance=0.01,
        router_z=0.001,
        balance_loss="switch",
    ):
        self.cost = cost
        self.mixture = mixture
        self.load_balance = load_balance
        self.router_z = router_z
        self.balance_loss = BALANCE_LOSSES[balance_loss]

    def __call__(self, *args, **kwargs):
        """Compute the cost of a batch, a scalar."""
        total = self.cost(*args, **kwargs)
        for decision in self.mixture.routing.values():
            total = total + self.load_balance * self.balance_loss(decision)
            total = total + self.router_z * router_z(decision)
        return total

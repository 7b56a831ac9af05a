"""Take one expert away and see what the others do."""

from contextlib import contextmanager

from merit_modules.moe.mixture import ExpertMixture


def has_several_experts(system):
    """Tell whether a system has experts of which one can be taken away.

    Arguments
    ---------
    system : torch.nn.Module
        The system.

    Returns
    -------
    bool
        Whether it has routers and at least two experts.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> has_several_experts(tiny_system())
    True
    """
    mixture = getattr(system, "mixture", None)
    return isinstance(mixture, ExpertMixture) and len(mixture.experts) > 1


@contextmanager
def without_expert(system, index):
    """Let no router choose an expert; the next best ones take its frames.

    Arguments
    ---------
    system : torch.nn.Module
        A system with routers.
    index : int
        The expert.

    Raises
    ------
    ValueError
        If the system has no routers, there is no such expert, or a router
        needs all experts that there are.

    Example
    -------
    >>> import torch
    >>> from merit_modules.tiny import tiny_system
    >>> system = tiny_system().eval()
    >>> with without_expert(system, 0):
    ...     routing = system(torch.randn(1, 8000)).mixture.routing["se"]
    >>> 0 in routing.expert_index
    False
    """
    if not has_several_experts(system):
        raise ValueError("expected a system with routers and several experts")
    n_experts = len(system.mixture.experts)
    if index not in range(n_experts):
        raise ValueError(f"expert: expected 0 to {n_experts - 1}, got {index}")

    def remove(module, inputs, logits):
        logits = logits.clone()
        logits[:, index] = float("-inf")
        return logits

    hooks = [
        router.linear.register_forward_hook(remove)
        for router in system.mixture.routers.values()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()

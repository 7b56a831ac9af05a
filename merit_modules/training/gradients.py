"""The gradient of each task on shared parameters, and gradient surgery.

Nothing here touches the ``.grad`` of a parameter.
"""

import torch
import torch.distributed as dist

from merit_modules.errors import InputError


def parameter_groups(system):
    """Name the trainable parameters that the tasks could share.

    Arguments
    ---------
    system : JointSystem
        The system. Of its mixture the attributes ``layer_mix``, ``experts``
        and ``routers`` are looked at, where there are any.

    Returns
    -------
    dict
        Group name to its parameters (list of torch.nn.Parameter), in the order
        of the signal path: ``ssl_front_end`` (convolutions), ``ssl_input``
        (feature projection, position convolution and, in base-style models,
        the norm before the first layer), ``ssl_layer_1``..., ``layer_mix``,
        ``expert_0``..., ``router_se``, ``router_ser``. Parameters without
        ``requires_grad`` and groups without parameters are left out, and so
        are the heads and layer sums of a single task. WavLM's position
        embedding, which all layers use, belongs to ``ssl_layer_1``.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system = tiny_system()
    >>> system.ssl_encoder.set_frozen(True)
    >>> list(parameter_groups(system))
    ['layer_mix', 'expert_0', 'expert_1', 'expert_2', 'router_se', 'router_ser']
    """
    groups = _ssl_groups(system.ssl_encoder.model)
    mixture = system.mixture
    if hasattr(mixture, "layer_mix"):
        groups["layer_mix"] = mixture.layer_mix.parameters()
    for number, expert in enumerate(getattr(mixture, "experts", ())):
        groups[f"expert_{number}"] = expert.parameters()
    for task, router in getattr(mixture, "routers", {}).items():
        groups[f"router_{task}"] = router.parameters()
    trained = {
        name: [p for p in members if p.requires_grad]
        for name, members in groups.items()
    }
    return {name: members for name, members in trained.items() if members}


def _ssl_groups(model):
    front_end = list(model.feature_extractor.parameters())
    layers = {
        f"ssl_layer_{number}": list(layer.parameters())
        for number, layer in enumerate(model.encoder.layers, start=1)
    }
    elsewhere = set(front_end).union(*layers.values())
    rest = [p for p in model.parameters() if p not in elsewhere]
    return {"ssl_front_end": front_end, "ssl_input": rest, **layers}


def task_gradients(losses, parameters, scale=None):
    """Compute the gradient of each task's loss.

    The graph stays, so that the ordinary backward pass can follow.

    Arguments
    ---------
    losses : dict
        Task name to loss, a scalar (torch.Tensor).
    parameters : sequence of torch.nn.Parameter
        What to differentiate with respect to (P).
    scale : float or torch.Tensor, optional
        What the losses were multiplied with against underflow in half
        precision; the gradients are divided by it. By default they are left
        as they are.

    Returns
    -------
    dict
        Task name to P gradients (torch.Tensor), None where the loss does not
        depend on the parameter.

    Example
    -------
    >>> w, b = torch.nn.Parameter(torch.tensor([2.0, 3.0])), torch.ones(1)
    >>> losses = {"se": w.square().sum(), "ser": b.requires_grad_().sum()}
    >>> task_gradients(losses, [w, b])
    {'se': [tensor([4., 6.]), None], 'ser': [None, tensor([1.])]}
    >>> w.grad is None
    True
    """
    parameters = list(parameters)
    return {
        task: _gradient(loss, parameters, scale)
        for task, loss in losses.items()
    }


def _gradient(loss, parameters, scale):
    if not parameters or not loss.requires_grad:
        return [None] * len(parameters)
    gradients = list(
        torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True
        )
    )
    if scale is None:
        return gradients
    for i, gradient in enumerate(gradients):
        # Neither in place (two parameters may share one gradient) nor all at
        # once (twice the memory).
        gradients[i] = None if gradient is None else gradient / scale
    return gradients


@torch.no_grad()
def inner_product(first, second, device=None):
    """Multiply two gradients, accumulated in float32.

    Arguments
    ---------
    first, second : sequence of torch.Tensor or None
        P gradients each; None counts as zero.
    device : torch.device, optional
        Where the result is; needed if a sequence may hold nothing but None.

    Returns
    -------
    torch.Tensor
        The inner product of the concatenations, a scalar.

    Example
    -------
    >>> a = [torch.tensor([1.0, 2.0]), None, torch.tensor([[3.0]])]
    >>> b = [torch.tensor([4.0, 5.0]), torch.ones(7), torch.tensor([[6.0]])]
    >>> inner_product(a, b)
    tensor(32.)
    """
    products = [
        torch.dot(a.flatten().float(), b.flatten().float())
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    if not products:
        return torch.zeros((), device=device)
    return torch.stack(products).sum()


@torch.no_grad()
def project_conflicting(gradients, generator):
    """Add up the gradients of the tasks without what conflicts (PCGrad).

    Each task's gradient, as one long vector, loses its component along every
    other task's original gradient with which its inner product is negative,
    the others taken in random order (Yu et al., NeurIPS 2020, algorithm 1).
    Without conflict the result is the gradient of the sum of the losses.

    A parameter that only one loss depends on is not shared: it keeps its
    gradient and has no say in the conflict of the others.

    Arguments
    ---------
    gradients : dict
        Two or more task names, each to its P gradients (torch.Tensor or None)
        of the same parameters.
    generator : torch.Generator
        Draws the orders.

    Returns
    -------
    list of torch.Tensor
        P gradients, None where no task has one. They share no memory with
        those given. A gradient that is not finite gives a result that is not.

    Raises
    ------
    ValueError
        If there are fewer than two tasks or their numbers of gradients differ.

    Example
    -------
    >>> se, ser = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    >>> project_conflicting({"se": [se], "ser": [ser]}, torch.Generator())
    [tensor([0.5000, 1.5000])]
    """
    if len(gradients) < 2:
        raise ValueError(
            f"gradients: expected two or more tasks, got {list(gradients)}"
        )
    of_parameters = list(zip(*gradients.values(), strict=True))
    shared = [row for row in of_parameters if _n_given(row) > 1]
    weights = None
    if shared:
        gram = _gram(list(zip(*shared)), shared[0])
        weights = _surgery_weights(gram, generator)
    return [_combine(row, weights) for row in of_parameters]


def _n_given(row):
    return sum(gradient is not None for gradient in row)


def _gram(tasks, row):
    """Return all inner products of the K tasks' gradients (K, K)."""
    device = next(g.device for g in row if g is not None)
    n_tasks = len(tasks)
    gram = torch.zeros(n_tasks, n_tasks, device=device)
    for i in range(n_tasks):
        for j in range(i + 1):
            gram[i, j] = inner_product(tasks[i], tasks[j], device)
            gram[j, i] = gram[i, j]
    return gram


def _surgery_weights(gram, generator):
    """Return the weight of each original gradient in the result (K,).

    Every projected gradient is a weighted sum of the original ones, so their
    inner products are all that is needed: no gradient is copied, and nothing
    waits for the device.
    """
    n_tasks = len(gram)
    weights = torch.eye(n_tasks, device=gram.device)
    # Below, a squared norm has too few digits left to divide by.
    smallest = torch.finfo(gram.dtype).tiny
    for i in range(n_tasks):
        order = torch.randperm(
            n_tasks, generator=generator, device=generator.device
        ).tolist()
        for j in order:
            if j == i:
                continue
            inner = (weights[i] * gram[j]).sum()
            conflict = (inner < 0) & (gram[j, j] >= smallest)
            weights[i, j] -= torch.where(conflict, inner / gram[j, j], 0.0)
    return weights.sum(dim=0)


def _combine(row, weights):
    given = [(k, g) for k, g in enumerate(row) if g is not None]
    if not given:
        return None
    (first, gradient), *others = given
    if not others:
        return gradient.clone(memory_format=torch.contiguous_format)
    total = gradient * weights[first]
    for k, other in others:
        total.addcmul_(other, weights[k])
    return total


class GradientSurgery:
    """PCGrad (Yu et al., NeurIPS 2020) around accumulation and processes.

    Conflicts are looked for on the gradient of a whole step, over all batches
    and processes, and only where both tasks reach: the heads and routers,
    which serve one task, keep their gradient.

    Example
    -------
    >>> shared = torch.nn.Parameter(torch.zeros(2))
    >>> surgery = GradientSurgery()
    >>> surgery.accumulate({"se": shared[0], "ser": -shared[0]}, [shared])
    >>> surgery.set_gradients(seed=0)
    >>> shared.grad  # opposite gradients: nothing is left of either
    tensor([0., 0.])
    """

    def __init__(self):
        self._gradients = {}  # task to parameter to gradient or None

    def accumulate(self, losses, parameters):
        """Add the gradients of a batch to those that wait for a step.

        Arguments
        ---------
        losses : dict
            Task name to scalar loss.
        parameters : list of torch.nn.Parameter
            All that is trained. More may come with a later batch: a step can
            begin in one stage of the training and end in the next.
        """
        for task, new in task_gradients(losses, parameters).items():
            waiting = self._gradients.setdefault(task, {})
            for parameter, gradient in zip(parameters, new):
                waiting[parameter] = _add(waiting.get(parameter), gradient)

    def set_gradients(self, seed):
        """Project the gradients of a step and set every ``.grad``.

        Arguments
        ---------
        seed : int
            Draws the order of projections.
        """
        if not self._gradients:  # all batches of the step were left out
            return
        self._average_over_processes()
        parameters = list(next(iter(self._gradients.values())))
        gradients = project_conflicting(
            {task: list(g.values()) for task, g in self._gradients.items()},
            torch.Generator().manual_seed(seed),
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.forget()

    def forget(self):
        """Drop the gradients that wait for a step."""
        self._gradients = {}

    def _average_over_processes(self):
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        for gradients in self._gradients.values():
            for gradient in gradients.values():
                # Which are None depends on the system alone (an idle expert has
                # a gradient of zeros), so all processes meet here.
                if gradient is not None:
                    dist.all_reduce(gradient)
                    gradient /= dist.get_world_size()


def _add(first, second):
    if first is None or second is None:
        return second if first is None else first
    return first + second


def optimizer_groups(modules, rates, bare_vectors=False):
    """Group the parameters that are trained by how fast they learn.

    Arguments
    ---------
    modules : torch.nn.Module
        All that is trained.
    rates : list of (torch.nn.Module, float)
        Parts with a rate of their own, and that rate over the others'.
    bare_vectors : bool
        Whether vectors (biases, weights of norms) are not decayed.

    Returns
    -------
    list of dict
        Groups for an optimiser, none empty; ``lr_factor`` says what a group's
        rate is times.

    Example
    -------
    >>> parts = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False)] * 2)
    >>> groups = optimizer_groups(parts, [(parts[0], 0.5)])
    >>> [(len(group["params"]), group["lr_factor"]) for group in groups]
    [(1, 0.5)]
    """
    factors = [1.0, *(float(factor) for _, factor in rates)]
    groups = [{"params": [], "lr_factor": factor} for factor in factors]
    group_of = {
        parameter: number
        for number, (part, _) in enumerate(rates, start=1)
        for parameter in part.parameters()
    }
    vectors = [{**group, "params": [], "weight_decay": 0.0} for group in groups]
    for parameter in modules.parameters():
        if parameter.requires_grad:
            bare = bare_vectors and parameter.ndim < 2
            chosen = vectors if bare else groups
            chosen[group_of.get(parameter, 0)]["params"].append(parameter)
    return [group for group in groups + vectors if group["params"]]


#: What can be done where the gradients of the tasks conflict.
SURGERIES = ("none", "pcgrad")


def make_surgery(kind, tasks):
    """Make what is done where the gradients of the tasks conflict.

    Arguments
    ---------
    kind : str
        ``none`` or ``pcgrad``.
    tasks : list of str
        Tasks of the system.

    Returns
    -------
    GradientSurgery or None
        None for ``none``.

    Raises
    ------
    InputError
        If there is no such kind, or fewer than two tasks for it.

    Example
    -------
    >>> make_surgery("none", ["ser"]) is None
    True
    """
    if kind not in SURGERIES:
        raise InputError(
            f"gradient_surgery: expected one of {', '.join(SURGERIES)}, "
            f"got {kind!r}"
        )
    if kind == "none":
        return None
    if len(tasks) < 2:
        raise InputError(
            f"gradient_surgery {kind}: expected a system with two tasks, "
            f"this one has {', '.join(tasks)}"
        )
    return GradientSurgery()

"""Apply routers and experts: one feature per task and frame."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from merit_modules.cpu import onednn
from merit_modules.lengths import PackedBatch, count_valid, valid_mask

#: Frames that an expert takes at once in inference. Matrix products are no
#: faster with more, and their copy takes memory.
MAX_FRAMES = 384


class MixtureOutput(NamedTuple):
    """Features per task and the decisions behind them.

    Arguments
    ---------
    features : dict
        Task name to features (B, T, R); zero in padding.
    routing : dict
        Task name to :class:`~merit_modules.moe.RoutingDecision` on the M
        valid frames, in the order of the flattened (B, T). Empty for a system
        without routers.
    valid : torch.Tensor
        Mask (B, T) of the M valid frames.
    """

    features: dict
    routing: dict
    valid: torch.Tensor

    def expert_map(self, task):
        """Lay a task's decisions out in time.

        Arguments
        ---------
        task : str
            Task name.

        Returns
        -------
        torch.Tensor
            Best expert per frame (B, T); -1 in padding.
        """
        index = self.routing[task].expert_index[:, 0]
        experts = index.new_full(self.valid.shape, -1)
        experts[self.valid] = index
        return experts


class _DispatchPlan(NamedTuple):
    """Which frames each expert computes, and where its results are used.

    Arguments
    ---------
    rows : list of torch.Tensor
        Per expert, the frames that some task sent to it, in order.
    slots : list of torch.Tensor
        Per task (M, k), where the results of a frame's experts lie if those
        of all experts are put one after another.
    """

    rows: list
    slots: list


def plan_dispatch(decisions, n_experts):
    """Sort the frames of all tasks by expert, each pair once.

    Arguments
    ---------
    decisions : sequence of RoutingDecision
        One per task, on the same M frames.
    n_experts : int
        Number of experts E.

    Returns
    -------
    _DispatchPlan
        Frames per expert and slots per task.

    Example
    -------
    >>> from merit_modules.moe.routers import RoutingDecision
    >>> se, ser = torch.tensor([[0], [1]]), torch.tensor([[1], [1]])
    >>> plan = plan_dispatch(
    ...     [RoutingDecision(None, None, i, None) for i in (se, ser)], 2
    ... )
    >>> plan.rows
    (tensor([0]), tensor([0, 1]))
    >>> [slots.flatten().tolist() for slots in plan.slots]
    [[0, 2], [1, 2]]
    """
    experts = [decision.expert_index.t() for decision in decisions]
    sent = torch.zeros(
        n_experts,
        experts[0].shape[1],
        dtype=torch.bool,
        device=experts[0].device,
    )
    for index in experts:
        sent.scatter_(0, index, True)
    counts = sent.sum(dim=1).tolist()  # the only wait for a GPU
    pairs = torch.nonzero_static(sent, size=sum(counts))
    slot = sent.flatten().cumsum(0).view_as(sent) - 1
    return _DispatchPlan(
        pairs[:, 1].split(counts),
        [slot.gather(0, index).t() for index in experts],
    )


def dispatch(features, experts, decisions, checkpoint_experts=False):
    """Run every expert once on the frames that some task sent to it.

    Equal to running all experts on all frames and weighting the results with
    zero where an expert was not chosen, but only the chosen pairs are
    computed; a frame that several tasks send to one expert counts once.

    Arguments
    ---------
    features : torch.Tensor
        Features of M frames (M, L * D).
    experts : ExpertPool
        The E experts.
    decisions : sequence of RoutingDecision
        One per task.
    checkpoint_experts : bool
        Compute the experts again in the backward pass rather than keep what
        they computed.

    Returns
    -------
    list of torch.Tensor
        One result (M, R) per task.

    Example
    -------
    >>> from merit_modules.moe.experts import ExpertPool
    >>> from merit_modules.moe.routers import TopKRouter
    >>> x, pool = torch.rand(5, 8), ExpertPool(3, 8, 16, 4)
    >>> se, ser = TopKRouter(8, 3)(x), TopKRouter(8, 3)(x)
    >>> [y.shape for y in dispatch(x, pool, [se, ser])]
    [torch.Size([5, 4]), torch.Size([5, 4])]
    """
    plan = plan_dispatch(decisions, len(experts))
    # Once, not for each expert.
    features = features.to(onednn.working_dtype(features))
    if not torch.is_grad_enabled() and onednn.suits(features.device):
        results = _infer(features, experts, plan.rows)
    else:
        # An idle expert still runs, on no frame: its parameters then have a
        # gradient (zero) on every rank, which distributed training needs.
        results = [
            checkpoint(_serve, expert, features, rows, use_reentrant=False)
            if checkpoint_experts and torch.is_grad_enabled()
            else _serve(expert, features, rows)
            for expert, rows in zip(experts, plan.rows)
        ]
    results = torch.cat(results)
    return [
        _combine(results, slots, decision)
        for slots, decision in zip(plan.slots, decisions)
    ]


def _serve(expert, features, rows):
    everything = len(rows) == len(features)
    return expert(features if everything else features.index_select(0, rows))


def _infer(features, experts, all_rows):
    results = []
    for expert, pieces in zip(experts, _pieces(features, all_rows)):
        results += [expert(piece) for piece in pieces]
    return results


def _pieces(features, all_rows):
    # One copy for all: memory that was written before is faster to write.
    longest = min(MAX_FRAMES, max(map(len, all_rows)))
    copy = features.new_empty(longest, features.shape[1])

    def copied(rows):
        for part in rows.tensor_split(-(-len(rows) // MAX_FRAMES)):
            out = copy[: len(part)]
            yield torch.index_select(features, 0, part, out=out)

    for rows in all_rows:
        if len(rows) == len(features):
            yield features.split(MAX_FRAMES)
        else:
            yield copied(rows) if len(rows) else ()


def _combine(results, slots, decision):
    output = None
    for choice in range(slots.shape[1]):
        part = results.index_select(0, slots[:, choice])
        if not decision.unit:
            part = part * decision.weights[:, choice, None].to(part.dtype)
        output = part if output is None else output + part
    return output


class TaskFeatures(nn.Module):
    """Layer representations to one feature per task and frame: a lobe.

    Who inherits says in ``route`` how the features come about.

    Attributes
    ----------
    routing : dict
        Task name to the :class:`~merit_modules.moe.RoutingDecision` of the
        last call, for losses such as
        :class:`~merit_modules.losses.RoutedCost`.
    """

    def __init__(self):
        super().__init__()
        self.routing = {}

    def forward(self, layer_reps, lengths=None, n_frames=None):
        """Compute the features of all tasks.

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
        torch.Tensor or dict
            Features (B, T, R), zero in padding; with several tasks, task name
            to its features.
        """
        n_frames = count_valid(layer_reps[0], lengths, n_frames)
        features, self.routing, _ = self.route(layer_reps, n_frames)
        if len(features) > 1:
            return features
        return next(iter(features.values()))


class ExpertMixture(TaskFeatures):
    """Shared experts on a mix of the layers, one router per task.

    Sparse MERIT with ``top_k = 1`` in the routers, dense MERIT with
    ``top_k = n_experts`` (paper Sec. III).

    Arguments
    ---------
    layer_mix : LayerNormConcat or WeightedLayerSum
        Makes one feature per frame from the layer representations.
    experts : ExpertPool or LayerMixingPool
        The shared experts.
    routers : dict
        Task name to its TopKRouter.
    skips : dict, optional
        Task name to a LayerMixingExpert whose weighted sum of the layers is
        added to what the experts give: they then learn what the features of
        naive multi-task learning lack (not in the paper).
    checkpoint_experts : bool
        In training, compute the experts again in the backward pass: less
        memory, the same gradients, a third more time in the experts.

    Raises
    ------
    ValueError
        If the parts do not fit together.

    Example
    -------
    >>> from merit_modules.moe.experts import ExpertPool
    >>> from merit_modules.moe.layer_mix import LayerNormConcat
    >>> from merit_modules.moe.routers import TopKRouter
    >>> mixture = ExpertMixture(
    ...     LayerNormConcat(n_layer_reps=3, dim=4),
    ...     ExpertPool(2, input_size=12, hidden_size=16, output_size=6),
    ...     {"se": TopKRouter(12, 2), "ser": TopKRouter(12, 2)},
    ... )
    >>> features = mixture(torch.rand(3, 2, 5, 4), torch.tensor([1.0, 0.6]))
    >>> features["se"].shape, len(mixture.routing["se"].logits)
    (torch.Size([2, 5, 6]), 8)
    """

    def __init__(
        self,
        layer_mix,
        experts,
        routers,
        skips=None,
        checkpoint_experts=False,
    ):
        super().__init__()
        if layer_mix.output_size != experts.input_size:
            raise ValueError(
                f"experts: expected input_size {layer_mix.output_size} "
                f"(width of the layer mix), got {experts.input_size}"
            )
        for task, router in routers.items():
            if router.n_experts != len(experts):
                raise ValueError(
                    f"router of task {task!r}: expected {len(experts)} "
                    f"experts, got {router.n_experts}"
                )
        self.layer_mix = layer_mix
        self.experts = experts
        self.routers = nn.ModuleDict(routers)
        self.skips = nn.ModuleDict(skips) if skips else None
        self.checkpoint_experts = checkpoint_experts
        if skips:
            _check_skips(skips, layer_mix, experts, routers)

    @property
    def output_size(self):
        """Width R of the features."""
        return self.experts.output_size

    def route(self, layer_reps, n_frames, tasks=None, n_rows=None):
        """Compute the features of some or all tasks, and show the decisions.

        Arguments
        ---------
        layer_reps : iterable of torch.Tensor
            L layer representations (B, T, D), each used once.
        n_frames : torch.Tensor
            Valid frames per utterance (B,).
        tasks : sequence of str, optional
            The tasks to serve; all by default. Experts that only other tasks
            chose are not run.
        n_rows : int, optional
            Number of frames T; needed if ``layer_reps`` is an iterator.

        Returns
        -------
        MixtureOutput
            Features (B, T, R) per task, routing decisions and valid frames.
        """
        tasks = list(self.routers) if tasks is None else list(tasks)
        n_rows = count_rows(layer_reps, n_rows)
        batch = PackedBatch.packed(n_frames, n_rows)
        device = next(self.parameters()).device
        features = self.layer_mix.rows(layer_reps, batch.index(device))
        routing = {task: self.routers[task](features) for task in tasks}
        results = dispatch(
            features,
            self.experts,
            list(routing.values()),
            self.checkpoint_experts,
        )
        if self.skips is not None:
            results = [
                result + self.skips[task](features)
                for task, result in zip(tasks, results)
            ]
        features = dict(zip(tasks, map(batch.pad, results)))
        valid = valid_mask(n_frames, n_rows, device)
        return MixtureOutput(features, routing, valid)


def count_rows(layer_reps, n_rows=None):
    """Tell how many frames the layers of a padded batch have.

    Arguments
    ---------
    layer_reps : iterable of torch.Tensor
        Layer representations (B, T, D).
    n_rows : int, optional
        Number of frames T; needed with an iterator, which cannot be looked
        into before it is used.

    Returns
    -------
    int
        Number of frames T.

    Raises
    ------
    ValueError
        If ``n_rows`` is needed and not there.

    Example
    -------
    >>> count_rows([torch.rand(2, 5, 4)])
    5
    """
    if n_rows is not None:
        return n_rows
    if not hasattr(layer_reps, "__getitem__"):
        raise ValueError("n_rows: expected with an iterator of layers")
    return layer_reps[0].shape[1]


def _check_skips(skips, layer_mix, experts, routers):
    if set(skips) != set(routers):
        raise ValueError(
            f"skips: expected one for each of {', '.join(routers)}, got "
            f"{', '.join(skips)}"
        )
    for task, skip in skips.items():
        width, rest = divmod(layer_mix.output_size, len(skip.layer_weights))
        if rest or width != experts.output_size:
            raise ValueError(
                f"skip of task {task!r}: expected layers as wide as the "
                f"experts' output ({experts.output_size}), got "
                f"{layer_mix.output_size} / {len(skip.layer_weights)}"
            )

"""Apply routers and experts: one feature per task and frame."""

import torch
from torch import nn

from merit_modules.task_features import FramePacker, MixtureOutput


def dispatch(features, experts, decisions):
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

    Returns
    -------
    list of torch.Tensor
        One result (M, R) per task.

    Example
    -------
    >>> from merit_modules.experts import ExpertPool
    >>> from merit_modules.routers import TopKRouter
    >>> x, pool = torch.rand(5, 8), ExpertPool(3, 8, 16, 4)
    >>> se, ser = TopKRouter(8, 3)(x), TopKRouter(8, 3)(x)
    >>> [y.shape for y in dispatch(x, pool, [se, ser])]
    [torch.Size([5, 4]), torch.Size([5, 4])]
    """
    n_frames = features.shape[0]
    outputs = [None] * len(decisions)
    for number, expert in enumerate(experts):
        sent = [d.expert_index == number for d in decisions]
        wanted = torch.stack(sent).any(dim=0).any(dim=-1)
        rows = wanted.nonzero().squeeze(-1)
        # An idle expert still runs, on no frame: its parameters then have a
        # gradient (zero) on every rank, which distributed training needs.
        everything = rows.numel() == n_frames
        chosen = features if everything else features[rows]
        result = expert(chosen)
        for task, decision in enumerate(decisions):
            weight = torch.where(sent[task], decision.weights, 0.0).sum(-1)
            part = result * weight[rows].to(result.dtype).unsqueeze(-1)
            if outputs[task] is None:
                outputs[task] = part.new_zeros(n_frames, part.shape[-1])
            outputs[task] = outputs[task].index_add(0, rows, part)
    return outputs


class ExpertMixture(nn.Module):
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

    Raises
    ------
    ValueError
        If the parts do not fit together.

    Example
    -------
    >>> from merit_modules.experts import ExpertPool
    >>> from merit_modules.layer_mix import LayerNormConcat
    >>> from merit_modules.routers import TopKRouter
    >>> mixture = ExpertMixture(
    ...     LayerNormConcat(n_layer_reps=3, dim=4),
    ...     ExpertPool(2, input_size=12, hidden_size=16, output_size=6),
    ...     {"se": TopKRouter(12, 2), "ser": TopKRouter(12, 2)},
    ... )
    >>> out = mixture([torch.rand(2, 5, 4)] * 3, torch.tensor([5, 3]))
    >>> out.features["se"].shape, len(out.routing["se"].logits)
    (torch.Size([2, 5, 6]), 8)
    """

    def __init__(self, layer_mix, experts, routers, skips=None):
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
        if skips:
            _check_skips(skips, layer_mix, experts, routers)

    @property
    def output_size(self):
        """Width R of the features."""
        return self.experts.output_size

    def forward(self, layer_reps, n_frames, tasks=None):
        """Compute the features of some or all tasks.

        Arguments
        ---------
        layer_reps : sequence of torch.Tensor
            L layer representations (B, T, D).
        n_frames : torch.Tensor
            Valid frames per utterance (B,).
        tasks : sequence of str, optional
            The tasks to serve; all by default. Experts that only other tasks
            chose are not run.

        Returns
        -------
        MixtureOutput
            Features (B, T, R) per task, routing decisions and valid frames.
        """
        tasks = list(self.routers) if tasks is None else list(tasks)
        packer = FramePacker(n_frames, layer_reps[0].shape[1])
        features = self.layer_mix(layer_reps, packer.index)
        routing = {task: self.routers[task](features) for task in tasks}
        results = dispatch(features, self.experts, list(routing.values()))
        if self.skips is not None:
            results = [
                result + self.skips[task](features)
                for task, result in zip(tasks, results)
            ]
        unpacked = [packer.unpack(result) for result in results]
        return MixtureOutput(dict(zip(tasks, unpacked)), routing, packer.valid)


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

"""One weighted sum of layers per task: naive multi-task learning."""

from torch import nn

from merit_modules.lengths import PackedBatch, valid_mask
from merit_modules.moe.layer_mix import layer_rows
from merit_modules.moe.mixture import (
    MixtureOutput,
    TaskFeatures,
    count_rows,
)


class TaskLayerSums(TaskFeatures):
    """Gives every task a mix of the layers of its own; no expert, no router.

    With one task it is the front of a single-task system (paper: naive MTL,
    SER only, SE only).

    Arguments
    ---------
    layer_mixes : dict
        Task name to its WeightedLayerSum.

    Raises
    ------
    ValueError
        If the numbers of layers or the widths of the tasks differ.

    Example
    -------
    >>> import torch
    >>> from merit_modules.moe.layer_mix import WeightedLayerSum
    >>> sums = TaskLayerSums(
    ...     {task: WeightedLayerSum(3, 4) for task in ("se", "ser")}
    ... )
    >>> features = sums(torch.rand(3, 2, 5, 4), torch.tensor([1.0, 0.6]))
    >>> features["se"].shape
    torch.Size([2, 5, 4])
    """

    def __init__(self, layer_mixes):
        super().__init__()
        sizes = {t: (m.n_layer_reps, m.dim) for t, m in layer_mixes.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f"layer_mixes: expected one (layers, width), got {sizes}"
            )
        self.layer_mixes = nn.ModuleDict(layer_mixes)

    @property
    def output_size(self):
        """Width R of the features."""
        return next(iter(self.layer_mixes.values())).output_size

    def route(self, layer_reps, n_frames, tasks=None, n_rows=None):
        """Compute the features of some or all tasks.

        Arguments
        ---------
        layer_reps : iterable of torch.Tensor
            L layer representations (B, T, D), each used once.
        n_frames : torch.Tensor
            Valid frames per utterance (B,).
        tasks : sequence of str, optional
            The tasks to serve; all by default.
        n_rows : int, optional
            Number of frames T; needed if ``layer_reps`` is an iterator.

        Returns
        -------
        MixtureOutput
            Features (B, T, R) per task and valid frames.
        """
        n_rows = count_rows(layer_reps, n_rows)
        batch = PackedBatch.packed(n_frames, n_rows)
        device = next(self.parameters()).device
        index = batch.index(device)
        mixes = {
            task: self.layer_mixes[task]
            for task in (self.layer_mixes if tasks is None else tasks)
        }
        totals = dict.fromkeys(mixes)
        some = next(iter(mixes.values()))
        for number, rows in enumerate(
            layer_rows(layer_reps, index, some.n_layer_reps, some.dim)
        ):
            for task, mix in mixes.items():
                totals[task] = mix.add(totals[task], number, rows)
        features = {t: batch.pad(total) for t, total in totals.items()}
        return MixtureOutput(features, {}, valid_mask(n_frames, n_rows, device))

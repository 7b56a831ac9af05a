"""Several processes that train and test as one.

Each takes its share of the batches that one process would have, in the same
order: every utterance once. SpeechBrain's own ``DistributedSamplerWrapper``
repeats batches to give all processes as many, stops where an epoch has another
number of batches than the first one, and tests everything on every process.
"""

import speechbrain as sb
import torch
import torch.distributed as dist
from speechbrain.dataio.sampler import ReproducibleRandomSampler
from torch.utils.data import BatchSampler, Sampler, SequentialSampler

from merit_modules.losses.shares import Share
from merit_modules.training.stopping import outlive_sigterm


class RankBatches(Sampler):
    """One process's share of the batches: every W-th of W processes.

    Arguments
    ---------
    batches : Sampler
        All batches, the same ones on every process.
    rank : int
        This process, from 0.
    n_ranks : int
        Number of processes W.
    in_step : bool
        Whether all processes need as many, as in training. Where that does
        not work out, the last batch is repeated; :meth:`counts` tells.

    Example
    -------
    >>> batches = BatchSampler(range(5), 2, drop_last=False)
    >>> [list(RankBatches(batches, rank, 2, True)) for rank in (0, 1)]
    [[[0, 1], [4]], [[2, 3], [4]]]
    >>> [RankBatches(batches, rank, 2, True).counts(step=2) for rank in (0, 1)]
    [True, False]
    """

    def __init__(self, batches, rank, n_ranks, in_step):
        self.batches = batches
        self.rank = rank
        self.n_ranks = n_ranks
        self.in_step = in_step

    def set_epoch(self, epoch):
        """Draw the batches of an epoch, where they differ."""
        for sampler in (self.batches, getattr(self.batches, "sampler", None)):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def counts(self, step):
        """Tell whether this process's batch of a step, from 1, is its own."""
        return (step - 1) * self.n_ranks + self.rank < len(self.batches)

    def __len__(self):
        """Count the batches of this process."""
        n_batches = len(self.batches)
        first = 0 if self.in_step else self.rank
        return len(range(first, n_batches, self.n_ranks))

    def __iter__(self):
        """Give out the batches of this process."""
        batches = list(self.batches)
        own = batches[self.rank :: self.n_ranks]
        return iter(own + batches[-1:] * (len(self) - len(own)))


def share_batches(dataset, loader_kwargs, in_step):
    """Give a loader this process's share of the batches.

    Arguments
    ---------
    dataset : Dataset
        The data.
    loader_kwargs : dict
        Arguments of the loader of all batches.
    in_step : bool
        As for :class:`RankBatches`.

    Returns
    -------
    dict
        Arguments of the loader of this process, with a ``batch_sampler``.
    """
    kwargs = dict(loader_kwargs)
    batches = kwargs.pop("batch_sampler", None)
    if batches is None:
        sampler = kwargs.pop("sampler", None) or SequentialSampler(dataset)
        if kwargs.pop("shuffle", False):
            sampler = ReproducibleRandomSampler(dataset)
        size, drop_last = kwargs.pop("batch_size", 1), "drop_last"
        batches = BatchSampler(sampler, size, kwargs.pop(drop_last, False))
    batches = RankBatches(
        batches, dist.get_rank(), dist.get_world_size(), in_step
    )
    return {**kwargs, "batch_sampler": batches}


class TrainsAsOne:
    """What a Brain does so that several processes train and test as one."""

    @property
    def system(self):
        """The system itself, without a wrapper for distributed training."""
        module = self.modules.system
        return getattr(module, "module", module)

    def make_dataloader(self, dataset, stage, **kwargs):
        """Make a loader of this process's batches."""
        in_step = stage == sb.Stage.TRAIN
        kwargs = {"worker_init_fn": outlive_sigterm, **kwargs}
        if self.distributed_launch:
            kwargs = share_batches(dataset, kwargs, in_step)
        loader = super().make_dataloader(dataset, stage, **kwargs)
        if in_step and (self.distributed_launch or self.train_sampler is None):
            # SpeechBrain tells a batch sampler of the epoch only in DDP.
            self.train_sampler = kwargs.get("batch_sampler")
        return loader

    def _train_loader_specifics(self, dataset, loader_kwargs):
        if self.distributed_launch:
            return loader_kwargs  # shared already
        return super()._train_loader_specifics(dataset, loader_kwargs)

    def _counts(self):
        """Tell whether this step's batch is this process's own."""
        counts = getattr(self.train_sampler, "counts", None)
        return counts is None or counts(self.step)

    def _share_of(self, weights, predictions):
        """Compare this process's part of a step; None where it has it all."""
        if not self.distributed_launch:
            return None
        mixture = predictions.mixture
        device = mixture.valid.device
        return Share(weights, mixture.routing, self._counts(), device)

    def _wrap_distributed(self):
        """Wrap each module once, whatever was wrapped before."""
        for name, module in self.modules.items():
            self.modules[name] = getattr(module, "module", module)
        super()._wrap_distributed()

    def _any(self, *flags):
        """Tell which flags are set on some process."""
        if not self.distributed_launch:
            return flags
        flags = torch.tensor(flags, dtype=torch.int, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return [bool(flag) for flag in flags.tolist()]

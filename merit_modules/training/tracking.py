"""What is known about an epoch: sums over batches, turned into statistics.

Sums, not means of means: a statistic of an epoch does not depend on how its
utterances were batched. They can be saved in the middle of an epoch.
"""

from collections import defaultdict
from functools import partial

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from merit_modules.data.gathering import gathered
from merit_modules.evaluation.metrics.enhancement import MetricError, si_sdr_db
from merit_modules.losses.routing import expert_load

logger = get_logger(__name__)


@partial(register_checkpoint_hooks, save_on_main_only=False)
class EpochTracker:
    """Accumulate weighted means without waiting for the device.

    Example
    -------
    >>> tracker = EpochTracker()
    >>> tracker.add("loss", torch.tensor(1.0), weight=3)
    >>> tracker.add("loss", torch.tensor(5.0), weight=1)
    >>> tracker.means()
    {'loss': 2.0}
    """

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget everything."""
        self._sums = defaultdict(float)
        self._weights = defaultdict(float)

    def add(self, name, value, weight=1):
        """Add the mean of some entries.

        Arguments
        ---------
        name : str
            Name of the statistic.
        value : torch.Tensor or float
            Mean over the entries: a scalar, or a vector of scalars.
        weight : torch.Tensor or float
            How many entries there are.
        """
        value = torch.as_tensor(value).detach().double()
        total = self._sums[name]
        if isinstance(total, torch.Tensor):  # on the CPU in a resumed epoch
            total = total.to(value.device, non_blocking=True)
        self._sums[name] = total + value * weight
        self._weights[name] = self._weights[name] + weight

    def add_routing(self, mixture):
        """Add the routing decisions of a batch.

        Arguments
        ---------
        mixture : MixtureOutput
            Per task: expert load and entropy of the router's probabilities
            (nats); for two or more tasks: how often all choose the same best
            expert.
        """
        for task, decision in mixture.routing.items():
            count = len(decision.probs)
            entropy = torch.special.entr(decision.probs).sum(-1).mean()
            self.add(f"{task}_load", expert_load(decision), count)
            self.add(f"{task}_entropy", entropy, count)
        best = [d.expert_index[:, 0] for d in mixture.routing.values()]
        if len(best) > 1:
            same = torch.stack([b == best[0] for b in best]).all(dim=0)
            self.add("same_expert", same.double().mean(), len(same))

    def means(self):
        """Return the weighted mean of every statistic.

        Returns
        -------
        dict
            Name to float; a vector gives one entry per element, ``name_0``...
        """
        means = {}
        for name, total in self._sums.items():
            mean = (total / self._weights[name]).tolist()
            if isinstance(mean, list):
                means.update({f"{name}_{i}": m for i, m in enumerate(mean)})
            else:
                means[name] = mean
        return means

    def gather(self):
        """Add up what all processes noted, on each of them; once an epoch."""
        self._sums, self._weights = self._of_all()

    def _of_all(self):
        sums, weights = defaultdict(float), defaultdict(float)
        own = [
            {
                name: torch.as_tensor(x, dtype=torch.float64, device="cpu")
                for name, x in noted.items()
            }
            for noted in (self._sums, self._weights)
        ]
        for one in gathered(own):
            for total, noted in zip((sums, weights), one):
                for name, value in noted.items():
                    total[name] = total[name] + value
        return sums, weights

    @mark_as_saver
    def _save(self, path):
        sums, weights = self._of_all()
        if if_main_process():
            state = {"sums": dict(sums), "weights": dict(weights)}
            torch.save(state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.reset()
        if not end_of_epoch and if_main_process():  # it goes on for all
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._sums.update(state["sums"])
            self._weights.update(state["weights"])


#: What is told of an epoch on the screen, if it was computed.
TOLD = {
    "f1_macro": ("F1", "{:.3f}"),
    "ccc_mean": ("CCC", "{:.3f}"),
    "si_sdr_gain_db": ("SI-SDR gain", "{:+.2f} dB"),
}


def one_line(meta, n_epochs, train_stats, valid_stats):
    """Tell of an epoch in a line.

    Arguments
    ---------
    meta : dict
        ``epoch`` and ``lr``.
    n_epochs : int
        Number of epochs.
    train_stats : dict
        Name to float.
    valid_stats : dict
        Name to float.

    Returns
    -------
    str
        At most a hundred characters.

    Example
    -------
    >>> meta, stats = {"epoch": 3, "lr": 5e-5}, {"loss": 1.2345}
    >>> one_line(meta, 20, stats, {"loss": 1.3, "f1_macro": 0.5})
    'epoch 3/20: lr 5.00e-05, loss train 1.234, valid 1.300, F1 0.500'
    """
    parts = [
        f"epoch {meta['epoch']}/{n_epochs}: lr {meta['lr']:.2e}",
        f"loss train {train_stats['loss']:.3f}",
        f"valid {valid_stats['loss']:.3f}",
    ]
    for key, (name, form) in TOLD.items():
        if key in valid_stats:
            parts.append(f"{name} {form.format(valid_stats[key])}")
    return ", ".join(parts)


def log_epoch(hparams, meta, train_stats, valid_stats, pace=None):
    """Tell people of an epoch in a line, and loggers in numbers.

    Arguments
    ---------
    hparams : types.SimpleNamespace
        With ``epoch_counter``, ``train_logger`` and ``tensorboard_logger``.
    meta : dict
        ``epoch`` and ``lr``.
    train_stats : dict
        Name to float.
    valid_stats : dict
        Name to float.
    pace : dict, optional
        Name to float: how fast it was. For TensorBoard alone: the other logger
        is the same for every run with these settings.
    """
    n_epochs = hparams.epoch_counter.limit
    logger.info(one_line(meta, n_epochs, train_stats, valid_stats))
    if hparams.train_logger is not None:
        hparams.train_logger.log_stats(
            meta, train_stats, valid_stats, verbose=False
        )
    board = hparams.tensorboard_logger
    if board is None:
        return
    train_stats = {**train_stats, **(pace or {})}
    # It counts its own calls, from 0 again in a resumed run.
    board.global_step["meta"] = meta["epoch"] - 1
    for split, stats in (("train", train_stats), ("valid", valid_stats)):
        board.global_step[split] = dict.fromkeys(stats, meta["epoch"] - 1)
    board.log_stats(meta, train_stats, valid_stats)


def cut(wavs, n_samples):
    """Take the padding off a batch.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms (B, N).
    n_samples : torch.Tensor
        Lengths in samples (B,).

    Returns
    -------
    list of torch.Tensor
        B waveforms on the CPU.

    Example
    -------
    >>> [len(wav) for wav in cut(torch.zeros(2, 9), torch.tensor([9, 4]))]
    [9, 4]
    """
    wavs = wavs.detach().float().cpu()
    return [wav[:n] for wav, n in zip(wavs, n_samples.tolist())]


def track_gains(tracker, clean, noisy, enhanced):
    """Note by how much a batch was enhanced.

    Arguments
    ---------
    tracker : EpochTracker
        Where to, as ``si_sdr_gain_db``.
    clean : list of torch.Tensor
        B clean waveforms.
    noisy : list of torch.Tensor
        B noisy waveforms.
    enhanced : list of torch.Tensor
        B enhanced waveforms.
    """
    for reference, before, after in zip(clean, noisy, enhanced):
        try:
            gain = si_sdr_db(after, reference) - si_sdr_db(before, reference)
        except MetricError:  # noisy is clean, or silence came out
            continue
        tracker.add("si_sdr_gain_db", gain)

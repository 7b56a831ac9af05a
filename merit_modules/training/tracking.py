"""What is known about an epoch: sums over batches, turned into statistics.

Sums, not means of means: a statistic of an epoch does not depend on how its
utterances were batched. They can be saved in the middle of an epoch.
"""

from collections import defaultdict

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from merit_modules.losses.routing import expert_load


@register_checkpoint_hooks
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
        self._sums[name] = self._sums[name] + value * weight
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

    @mark_as_saver
    def _save(self, path):
        weights = {k: torch.as_tensor(v) for k, v in self._weights.items()}
        state = {"sums": dict(self._sums), "weights": weights}
        torch.save(state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.reset()
        if not end_of_epoch:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._sums.update(state["sums"])
            self._weights.update(state["weights"])


def readable(stats):
    """Write statistics as short text, vectors as one entry.

    Arguments
    ---------
    stats : dict
        Name to float, vectors as ``name_0``, ``name_1``...

    Returns
    -------
    dict
        Name to text.

    Example
    -------
    >>> readable({"loss": 1.23456, "load_0": 0.25, "load_1": 0.75})
    {'loss': '1.235', 'load': '0.250/0.750'}
    """
    text = {}
    for name, value in stats.items():
        stem, _, number = name.rpartition("_")
        is_element = number.isdigit()
        stem = stem if is_element else name
        value = f"{value:.3f}"
        text[stem] = f"{text[stem]}/{value}" if stem in text else value
    return text

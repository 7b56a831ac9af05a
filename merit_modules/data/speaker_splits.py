"""Split a corpus by whole speakers, with balanced classes."""

import math
from collections import Counter

from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}

_N_TRIALS = 10
_MAX_PASSES = 20
_ALL = object()  # among the emotions, whatever those are called


def speaker_disjoint_splits(entries, shares=SHARES, seed=1234):
    """Split by whole speakers, with the classes balanced as far as possible.

    Several random orders are tried: each speaker goes where the numbers per
    class then come closest to the shares (least chi-square), and is moved as
    long as that helps. Utterances without a speaker then fill the splits up,
    one by one. The result depends on ids, labels, shares and seed alone.

    Arguments
    ---------
    entries : dict
        ``{id: entry}`` with ``emo`` and, where known, ``spk_id``. None, an
        empty text and "unknown" (in any case) are no speaker.
    shares : dict
        ``{split: share}``, above 0, with a sum of 1.
    seed : int
        Seed of the random orders.

    Returns
    -------
    splits : dict
        ``{split: {id: entry}}``, sorted by id, none empty.

    Raises
    ------
    InputError
        If the shares are wrong or there are fewer speakers (and utterances
        without one) than splits.

    Example
    -------
    >>> entries = {
    ...     f"{speaker}{emo}": {"emo": emo, "spk_id": speaker}
    ...     for speaker in "abcdefghij"
    ...     for emo in ("sad", "happy")
    ... }
    >>> splits = speaker_disjoint_splits(entries, seed=1)
    >>> {name: len(split) for name, split in splits.items()}
    {'train': 16, 'valid': 2, 'test': 2}
    """
    if (
        not shares
        or min(shares.values()) <= 0
        or abs(sum(shares.values()) - 1) > 1e-6
    ):
        raise InputError(
            f"shares: expected shares above 0 with a sum of 1, got {shares!r}"
        )
    speakers, alone = _groups(entries)
    if len(speakers) + len(alone) < len(shares):
        raise InputError(
            f"expected at least {len(shares)} speakers, one per split "
            f"({', '.join(shares)}); got {len(speakers)}"
        )
    labels = {item: entry.get("emo") for item, entry in entries.items()}
    trials = [
        _Balance(labels, shares, speakers).fill(speakers, len(alone), seed, i)
        for i in range(_N_TRIALS if speakers else 0)
    ]
    balance = _Balance(labels, shares, speakers | alone)
    if trials:
        best = min(trials, key=_Balance.cost)
        for group, split in best.split_of.items():
            balance.put(group, split)
    balance.fill(alone, 0, seed, "alone")
    return balance.splits(entries)


def _groups(entries):
    """Return ``{group: ids}`` of the speakers, and of all without one."""
    speakers, alone = {}, {}
    for item in sorted(entries):
        speaker = entries[item].get("spk_id")
        if speaker is None or str(speaker).lower() in ("", "unknown"):
            alone["utterance", item] = [item]
        else:
            speakers.setdefault(("speaker", str(speaker)), []).append(item)
    return speakers, alone


class _Balance:
    """Groups of utterances in splits, and how far those are from the shares.

    A group is a speaker, or a single utterance of nobody known. Costs are
    summed by fsum: sum() rounds otherwise from Python 3.12 on, and where two
    splits are as good as equal, that would decide.
    """

    def __init__(self, labels, shares, groups):
        self._groups = groups
        self._sizes = {
            group: Counter(labels[item] for item in items)
            for group, items in groups.items()
        }
        for group, sizes in self._sizes.items():
            sizes[_ALL] = len(groups[group])
        total = Counter()
        for sizes in self._sizes.values():
            total.update(sizes)
        # What is missing in a split, counted negative.
        self._targets = {
            split: {what: share * n for what, n in total.items()}
            for split, share in shares.items()
        }
        self._excess = {
            split: {what: -target for what, target in targets.items()}
            for split, targets in self._targets.items()
        }
        self._n_groups = dict.fromkeys(shares, 0)
        self.split_of = {}

    def fill(self, groups, n_later, *key):
        """Put groups where they fit best, in a random order; then improve.

        With ``n_later`` groups to come, splits may stay empty until then.
        """
        order = sorted(groups, key=lambda group: keyed_seed(*key, group))
        for n_before, group in enumerate(order):
            n_left = len(order) - n_before + n_later
            empty = [s for s, n in self._n_groups.items() if n == 0]
            choice = empty if len(empty) >= n_left else self._n_groups
            self.put(group, self._best(group, choice))
        for _ in range(_MAX_PASSES):
            if not sum(self._improve(group) for group in order):
                break
        return self

    def put(self, group, split):
        """Put a group into a split."""
        self._move(group, split, 1)
        self.split_of[group] = split

    def cost(self):
        """Return chi-square of the numbers per split and class."""
        return math.fsum(
            excess**2 / self._targets[split][what]
            for split, excesses in self._excess.items()
            for what, excess in excesses.items()
        )

    def splits(self, entries):
        """Return ``{split: {id: entry}}``."""
        ids = {split: [] for split in self._n_groups}
        for group, split in self.split_of.items():
            ids[split] += self._groups[group]
        return {
            split: {item: entries[item] for item in sorted(items)}
            for split, items in ids.items()
        }

    def _move(self, group, split, sign):
        for what, n in self._sizes[group].items():
            self._excess[split][what] += sign * n
        self._n_groups[split] += sign

    def _added_cost(self, group, split):
        excess, targets = self._excess[split], self._targets[split]
        return math.fsum(
            (2 * excess[what] + n) * n / targets[what]
            for what, n in self._sizes[group].items()
        )

    def _best(self, group, choice):
        return min(choice, key=lambda split: self._added_cost(group, split))

    def _improve(self, group):
        """Move a group if that lowers the cost; say whether it did."""
        old = self.split_of[group]
        if self._n_groups[old] == 1:
            return False
        self._move(group, old, -1)
        new = self._best(group, self._n_groups)
        gain = self._added_cost(group, old) - self._added_cost(group, new)
        # Rounding errors must not send a group back and forth.
        if gain < 1e-9:
            new = old
        self.put(group, new)
        return new != old

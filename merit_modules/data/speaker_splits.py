"""Split a corpus by whole speakers, with every class in every split."""

import math
from collections import Counter

from merit_modules.data.seeding import keyed_seed
from merit_modules.data.text import key as same
from merit_modules.data.text import speaker_of
from merit_modules.errors import InputError

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}

_N_TRIALS = 10
_MAX_PASSES = 20
_MAX_TRIED = 5_000  # ways to give each split its classes
_ALL = object()  # among the emotions, whatever those are called


def speaker_disjoint_splits(entries, shares=SHARES, seed=1234):
    """Split by whole speakers: every class in every split, then balanced.

    Several random orders are tried: each speaker goes where the numbers per
    class then come closest to the shares (least chi-square), and is moved as
    long as that helps. Utterances without a speaker then fill the splits up,
    one by one. Where a class is not in every split in the end, each split is
    first given one of each, by a search that finds a way if there is one. The
    result depends on ids, labels, shares and seed alone; whether there is one
    does not depend on the seed.

    Arguments
    ---------
    entries : dict
        ``{id: entry}`` with ``emo`` and, where known, ``spk_id``; see
        :func:`merit_modules.data.text.speaker_of`. A speaker may be spelt in
        several ways.
    shares : dict
        ``{split: share}``, above 0, with a sum of 1.
    seed : int
        Seed of the random orders.

    Returns
    -------
    splits : dict
        ``{split: {id: entry}}``, sorted by id, none empty and none without
        a class.

    Raises
    ------
    InputError
        If the shares are wrong, there are fewer speakers (and utterances
        without one) than splits, or a class cannot be in every split.

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
        # Without utterances to come, what lacks a class is no way to split.
        whole = [] if alone else [t for t in trials if t.is_whole()]
        best = min(whole or trials, key=_Balance.cost)
        for group, split in best.split_of.items():
            balance.put(group, split)
    balance.fill(alone, 0, seed, "alone")
    if not balance.is_whole():
        balance = _whole(labels, shares, speakers, alone, seed)
    return balance.splits(entries)


def _groups(entries):
    """Return ``{group: ids}`` of the speakers, and of all without one."""
    speakers, alone, names = {}, {}, {}
    for item in sorted(entries):
        speaker = speaker_of(entries[item].get("spk_id"))
        if speaker is None:
            alone["utterance", item] = [item]
        else:
            speakers.setdefault(same(speaker), []).append(item)
            # Not the key: a seed goes on to mean what it meant.
            name = str(entries[item]["spk_id"])
            names[same(speaker)] = min(name, names.get(same(speaker), name))
    return {("speaker", names[k]): v for k, v in speakers.items()}, alone


def _whole(labels, shares, speakers, alone, seed):
    """Split so that every class is in every split, whatever the balance."""
    groups = speakers | alone
    _check_possible(labels, shares, groups)
    trials = []
    for i in range(_N_TRIALS if speakers else 1):
        balance = _Balance(labels, shares, groups, must_stay_whole=True)
        if not balance.give_each(seed, i):
            if balance.n_tried <= _MAX_TRIED:
                raise InputError(
                    f"{_each_class(shares)}; there is no such way to part "
                    "these speakers: too many have one class alone, or share "
                    "the same rare ones; give fewer splits or other speakers"
                )
            continue
        rest = [group for group in speakers if group not in balance.split_of]
        trials.append(balance.fill(rest, len(alone), seed, i))
    if not trials:
        raise InputError(
            f"{_each_class(shares)}; no such way to part these speakers was "
            f"found in {_N_TRIALS * _MAX_TRIED} tries; say where each goes"
        )
    best = min(trials, key=_Balance.cost)
    rest = [group for group in alone if group not in best.split_of]
    return best.fill(rest, 0, seed, "alone")


def _each_class(shares):
    return f"expected every class in each of {', '.join(shares)}"


def _check_possible(labels, shares, groups):
    """Raise if a class has fewer speakers than there are splits."""
    holders = {}
    for group, items in groups.items():
        for label in {labels[item] for item in items}:
            holders.setdefault(label, []).append(group)
    label = min(holders, key=lambda label: (len(holders[label]), str(label)))
    found = holders[label]
    if len(found) < len(shares):
        names = [name for kind, name in found if kind == "speaker"]
        n_alone = len(found) - len(names)
        told = f" ({', '.join(names)})" if names else ""
        told += f" and {n_alone} utterances without one" if n_alone else ""
        raise InputError(
            f"{_each_class(shares)}, which takes {len(shares)} speakers of "
            f"each class, whatever the seed; of {label!r} there are "
            f"{len(names)}{told}"
        )


class _Balance:
    """Groups of utterances in splits, and how far those are from the shares.

    A group is a speaker, or a single utterance of nobody known. Costs are
    summed by fsum: sum() rounds otherwise from Python 3.12 on, and where two
    splits are as good as equal, that would decide.
    """

    def __init__(self, labels, shares, groups, must_stay_whole=False):
        self._groups = groups
        self._must_stay_whole = must_stay_whole
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
        # How many groups of a split have a class.
        self._n_holders = {s: dict.fromkeys(total, 0) for s in shares}
        self.split_of = {}
        self.n_tried = 0

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

    def is_whole(self):
        """Say whether every class is in every split."""
        return all(all(n.values()) for n in self._n_holders.values())

    def give_each(self, *key):
        """Give each split one group of each class; say whether that works.

        What fewest groups can give is given first, and taken back where it
        leads to nothing: every way is tried, up to a bound.
        """
        order, n_alike = [], Counter()
        for group in sorted(self._sizes, key=lambda g: keyed_seed(*key, g)):
            sizes = frozenset(self._sizes[group].items())
            n_alike[sizes] += 1
            # Of single utterances alike, no more than one per split help.
            one = self._sizes[group][_ALL] == 1
            if not one or n_alike[sizes] <= len(self._n_groups):
                order.append(group)
        barred = {group: set() for group in order}
        self.n_tried = 0
        return self._give(order, barred)

    def _give(self, order, barred):
        """Meet the need that is hardest to meet, and all that are left."""
        needs = {}
        for split, holders in self._n_holders.items():
            for what in (what for what, n in holders.items() if not n):
                needs[split, what] = [
                    group
                    for group in order
                    if what in self._sizes[group]
                    and group not in self.split_of
                    and split not in barred[group]
                ]
        if not needs:
            return True
        split, _ = hardest = min(needs, key=lambda need: len(needs[need]))
        fit = [(self._added_cost(g, split), g) for g in needs[hardest]]
        tried = [group for _, group in sorted(fit, key=lambda pair: pair[0])]
        for group in tried:
            self.n_tried += 1
            if self.n_tried > _MAX_TRIED:
                break
            self.put(group, split)
            if self._give(order, barred):
                return True
            del self.split_of[group]
            self._move(group, split, -1)
            barred[group].add(split)  # every way with it was tried
        for group in tried:
            barred[group].discard(split)
        return False

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
            self._n_holders[split][what] += sign
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
        holders = self._n_holders[old]
        if self._must_stay_whole and any(
            holders[what] == 1 for what in self._sizes[group]
        ):
            return False
        self._move(group, old, -1)
        new = self._best(group, self._n_groups)
        gain = self._added_cost(group, old) - self._added_cost(group, new)
        # Rounding errors must not send a group back and forth.
        if gain < 1e-9:
            new = old
        self.put(group, new)
        return new != old

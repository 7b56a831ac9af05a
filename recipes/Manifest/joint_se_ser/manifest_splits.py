"""Training, validation and test set: as the CSV file says, or made here.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

from collections import Counter

from speechbrain.utils.logger import get_logger

from merit_modules.data.preparation import (
    check_disjoint,
    speaker_disjoint_splits,
)
from merit_modules.data.table import at
from merit_modules.errors import InputError

logger = get_logger(__name__)

#: Splits, and the share of each where they are made here.
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
#: Speaker of all whose speaker is not known.
UNKNOWN = "unknown"
#: So few test utterances of a class say little of it.
FEW = 10


def make_splits(manifest_csv, rows, entries, seed, fold=None, n_folds=5):
    """Take the splits that a CSV file names and make those that it lacks.

    A split that no row names is made of the rows for training and of those
    without a split; what is not taken is for training. With a fold, all are
    made: of as many parts as there are folds, one is tested, the next one is
    for validation and the others are for training.

    Arguments
    ---------
    manifest_csv : str or Path
        The CSV file, for messages.
    rows : dict
        ``{id: Row}``.
    entries : dict
        ``{id: entry}`` with ``emo`` and ``spk_id``.
    seed : int
        Seed of the splits that are made.
    fold : int, optional
        From 0: which part is tested.
    n_folds : int
        Number of parts, three or more.

    Returns
    -------
    splits : dict
        ``{split: {id: entry}}``.

    Raises
    ------
    InputError
        If a row is in no split although all of them are named, there are too
        few speakers of a class for the splits to make, or the file names
        splits beside a fold.

    Example
    -------
    >>> from manifest_rows import Row
    >>> rows = {
    ...     i: Row(n, i, i, "calm", None, split, None)
    ...     for n, (i, split) in enumerate(
    ...         [("a", "test"), ("b", None), ("c", "train")]
    ...     )
    ... }
    >>> entries = {i: {"emo": "calm", "spk_id": i} for i in rows}
    >>> splits = make_splits("list.csv", rows, entries, seed=1)
    >>> list(splits["test"]), len(splits["train"]), len(splits["valid"])
    (['a'], 1, 1)
    """
    if fold is not None:
        return _fold(manifest_csv, rows, entries, seed, fold, n_folds)
    named = {row.split for row in rows.values()} - {None}
    missing = [split for split in SHARES if split not in named]
    splits, pool = {split: {} for split in SHARES}, {}
    for item, row in rows.items():
        if row.split is None and not missing:
            raise InputError(
                f"{at(manifest_csv, row.line, 'split')}: empty, expected "
                f"one of {', '.join(SHARES)}, all of which are named"
            )
        in_pool = row.split is None or (missing and row.split == "train")
        (pool if in_pool else splits[row.split])[item] = entries[item]
    if missing:
        shares = {s: SHARES[s] for s in SHARES if s == "train" or s in missing}
        splits |= _made(manifest_csv, pool, shares, seed)
    try:
        check_disjoint(splits, allow=(UNKNOWN,))
    except InputError as error:
        logger.warning(f"{manifest_csv}: speakers leak between splits: {error}")
    return splits


def _fold(manifest_csv, rows, entries, seed, fold, n_folds):
    if type(n_folds) is not int or n_folds < 3:
        raise InputError(f"n_folds: expected 3 or more, got {n_folds!r}")
    if type(fold) is not int or fold not in range(n_folds):
        raise InputError(
            f"fold: expected a whole number from 0 to {n_folds - 1}, as "
            f"n_folds has it, got {fold!r}"
        )
    for row in rows.values():
        if row.split is not None:
            raise InputError(
                f"{at(manifest_csv, row.line, 'split')}: expected none beside "
                f"--fold, got {row.split}"
            )
    shares = {f"fold {i}": 1 / n_folds for i in range(n_folds)}
    parts = list(_made(manifest_csv, entries, shares, seed).values())
    test, valid = parts.pop(fold), parts.pop(fold % (n_folds - 1))
    train = {item: entry for part in parts for item, entry in part.items()}
    return {"train": dict(sorted(train.items())), "valid": valid, "test": test}


def _made(manifest_csv, pool, shares, seed):
    """Split the rows for training and those without a split."""
    total = sum(shares.values())
    shares = {split: share / total for split, share in shares.items()}
    if UNKNOWN in {entry["spk_id"] for entry in pool.values()}:
        logger.warning(
            f"{manifest_csv}, column spk_id: speakers are not known; one may "
            "be in several splits, which flatters the scores"
        )
    try:
        return speaker_disjoint_splits(pool, shares, seed)
    except InputError as error:
        raise InputError(
            f"{manifest_csv}, column split: {', '.join(shares)} cannot be "
            f"made of the {len(pool)} rows for training or without a split: "
            f"{error}"
        ) from None


def check_classes(manifest_csv, rows, splits, emotions):
    """Make sure that every class is in every split.

    Arguments
    ---------
    manifest_csv : str or Path
        The CSV file, for messages.
    rows : dict
        ``{id: Row}``.
    splits : dict
        ``{split: {id: entry}}``.
    emotions : list of str
        The classes.

    Raises
    ------
    InputError
        Naming class, split and the first line with the class.

    Example
    -------
    >>> check_classes("list.csv", {}, {"test": {"a": {"emo": "x"}}}, ["y"])
    Traceback (most recent call last):
    merit_modules.errors.InputError: list.csv, column emo: no 'y' in the split
    test; ...
    """
    for split, entries in splits.items():
        present = {entry["emo"] for entry in entries.values()}
        for emotion in emotions:
            if emotion in present:
                continue
            lines = [r.line for r in rows.values() if r.emo == emotion]
            first = f", line {min(lines)}" if lines else ""
            raise InputError(
                f"{manifest_csv}{first}, column emo: no {emotion!r} in the "
                f"split {split}; it is in {len(lines)} rows in all, and the "
                "column split can say where each goes"
            )


def warn_of_few(manifest_csv, splits, fold=None):
    """Warn of classes that the test set has little of.

    Arguments
    ---------
    manifest_csv : str or Path
        The CSV file, for messages.
    splits : dict
        ``{split: {id: entry}}``.
    fold : int, optional
        The fold that they are; without it, folds are offered.

    Example
    -------
    >>> warn_of_few("list.csv", {"test": {}})
    """
    n_test = Counter(entry["emo"] for entry in splits["test"].values())
    few = [f"{n} {name}" for name, n in sorted(n_test.items()) if n < FEW]
    if not few:
        return
    speakers = {}
    for entries in splits.values():
        for entry in entries.values():
            speakers.setdefault(entry["emo"], set()).add(entry["spk_id"])
    n_folds = min(5, *map(len, speakers.values()))
    offer = ""
    if fold is None and n_folds >= 3:
        offer = (
            f"; merit folds with --folds 0-{n_folds - 1}, and --n_folds "
            f"{n_folds} after --, tests every utterance once"
        )
    logger.warning(
        f"{manifest_csv}: few test utterances: {', '.join(few)}; what is right "
        f"of so few says little{offer}"
    )

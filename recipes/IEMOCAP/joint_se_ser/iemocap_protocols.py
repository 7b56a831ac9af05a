"""IEMOCAP's three protocols, whose results cannot be compared.

``leave_one_session_out``: five folds of two speakers each.
``leave_one_speaker_out``: ten folds of one speaker each.
``random``: 80/10/10 of the utterances; the test's speakers are trained on.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

from speechbrain.utils.logger import get_logger

from merit_modules.data.preparation import check_disjoint
from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")
N_FOLDS = {
    "leave_one_session_out": 5,
    "leave_one_speaker_out": 10,
    "random": 10,
}


def check_fold(protocol, fold):
    """Make sure that there is such a protocol with such a fold.

    Arguments
    ---------
    protocol : str
        A key of ``N_FOLDS``.
    fold : int
        1 to the protocol's number of folds.

    Raises
    ------
    InputError
        Naming what there is.

    Example
    -------
    >>> check_fold("leave_one_session_out", 6)
    Traceback (most recent call last):
    merit_modules.errors.InputError: fold: expected a whole number from 1 to 5
    for leave_one_session_out, got 6
    """
    if protocol not in N_FOLDS:
        raise InputError(
            f"protocol: expected one of {', '.join(N_FOLDS)}, got {protocol!r}"
        )
    if type(fold) is not int or not 1 <= fold <= N_FOLDS[protocol]:
        raise InputError(
            f"fold: expected a whole number from 1 to {N_FOLDS[protocol]} for "
            f"{protocol}, got {fold!r}"
        )


def split_entries(entries, protocol, fold, seed):
    """Split utterances for one fold of a protocol.

    Over all folds of a protocol, every utterance is tested exactly once.

    Arguments
    ---------
    entries : dict
        ``{id: entry}`` with ``emo``, ``spk_id`` and ``session``.
    protocol : str
        A key of ``N_FOLDS``.
    fold : int
        Leaving sessions out: fold f tests session f and validates on the next
        one. Leaving speakers out: speakers count as Ses01F, Ses01M, Ses02F,
        ...; the session's other speaker validates. Random: the f-th tenth is
        the test set, the next one the validation set.
    seed : int
        Seed of the random protocol; the others draw nothing.

    Returns
    -------
    dict
        ``{split: {id: entry}}``, ids sorted.

    Raises
    ------
    InputError
        If there is no such fold, or a split gets no utterance.

    Example
    -------
    >>> entries = {
    ...     f"u{i}": {"emo": "sad", "session": i, "spk_id": f"Ses0{i}F"}
    ...     for i in (1, 2, 3, 4, 5)
    ... }
    >>> splits = split_entries(entries, "leave_one_session_out", 5, seed=0)
    >>> {split: " ".join(ids) for split, ids in splits.items()}
    {'train': 'u2 u3 u4', 'valid': 'u1', 'test': 'u5'}
    """
    check_fold(protocol, fold)
    if protocol == "leave_one_session_out":
        split_of = _by_session(entries, fold)
    elif protocol == "leave_one_speaker_out":
        split_of = _by_speaker(entries, fold)
    else:
        split_of = _at_random(entries, fold, seed)
    splits = {split: {} for split in SPLITS}
    for name in sorted(entries):
        splits[split_of[name]][name] = entries[name]
    for split, members in splits.items():
        if not members:
            raise InputError(
                f"{protocol}, fold {fold}: no utterance for {split}"
            )
    if protocol == "random":
        _warn_of_leaks(splits)
    else:
        check_disjoint(splits)
    return splits


def _by_session(entries, fold):
    """Return ``{id: split}``: two whole sessions are held out."""
    role = {fold: "test", fold % 5 + 1: "valid"}
    return {
        name: role.get(entry["session"], "train")
        for name, entry in entries.items()
    }


def _by_speaker(entries, fold):
    """Return ``{id: split}``: both speakers of one session are held out."""
    session, number = divmod(fold - 1, 2)
    tested, other = "FM"[number], "MF"[number]
    role = {
        f"Ses0{session + 1}{tested}": "test",
        f"Ses0{session + 1}{other}": "valid",
    }
    return {
        name: role.get(entry["spk_id"], "train")
        for name, entry in entries.items()
    }


def _at_random(entries, fold, seed):
    """Return ``{id: split}``: two tenths are held out."""

    def draw(name):
        return entries[name]["emo"], keyed_seed("IEMOCAP", seed, name), name

    # Dealt out class after class: tenths are alike in size and in classes.
    role = {fold - 1: "test", fold % 10: "valid"}
    return {
        name: role.get(place % 10, "train")
        for place, name in enumerate(sorted(entries, key=draw))
    }


def _warn_of_leaks(splits):
    """Warn by number that training knows the test's speakers."""
    speakers = {
        split: {entry["spk_id"] for entry in members.values()}
        for split, members in splits.items()
    }
    shared = speakers["test"] & speakers["train"]
    logger.warning(
        f"protocol random: speakers leak: {len(shared)} of the test set's "
        f"{len(speakers['test'])} speakers are trained on; results cannot be "
        "compared with those of leave_one_session_out or leave_one_speaker_out"
    )

"""Make manifests of IEMOCAP and noise for one fold of a named protocol.

IEMOCAP holds twelve hours of ten actors in five sessions, 16 kHz. Access by
request: https://sail.usc.edu/iemocap/iemocap_release.htm

C. Busso, M. Bulut, C.-C. Lee, A. Kazemzadeh, E. Mower, S. Kim, J. Chang,
S. Lee and S. Narayanan, "IEMOCAP: interactive emotional dyadic motion capture
database", Language Resources and Evaluation, 2008.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import hashlib
from collections import Counter
from pathlib import Path

from iemocap_labels import (
    CLASSES,
    LABEL_SETS,
    SESSIONS,
    find_release,
    known_counts,
    read_labels,
)
from iemocap_protocols import SPLITS, check_fold, split_entries
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.manifest import DATA_ROOT
from merit_modules.data.noise.corpora import (
    noise_manifests,
    noise_stamp,
    prepare_noise,
)
from merit_modules.data.preparation import (
    count_table,
    is_prepared,
    probe_many,
    remove_stamp,
    split_digest,
    write_manifests,
)
from merit_modules.errors import InputError

logger = get_logger(__name__)

N_NAMED = 5  # of many files, so many are named in a warning


def prepare_iemocap(
    data_folder,
    noise_folder,
    manifest_folder,
    protocol="leave_one_session_out",
    fold=1,
    label_set="exc_merged",
    seed=1234,
    skip_broken_audio=False,
    skip_prep=False,
):
    """Write speech and noise manifests of one fold.

    Speech entries hold ``wav``, ``duration``, ``emo``, ``spk_id`` (such as
    ``Ses01F``) and ``session``. Nothing is done if the manifests are there
    already and were made from the same labels and folders with the same
    arguments.

    Arguments
    ---------
    data_folder : str or Path
        ``IEMOCAP_full_release``, or the folder that holds it. It is what
        ``{data_root}`` stands for in the speech manifests.
    noise_folder : str, Path or dict
        Any folder of noise (what ``{data_root}`` stands for in the noise
        manifests), or several corpora; see
        :mod:`merit_modules.data.noise.corpora`.
    manifest_folder : str or Path
        Where ``train.json``, ``valid.json``, ``test.json`` and the three
        noise manifests go.
    protocol : str
        ``leave_one_session_out``, ``leave_one_speaker_out`` or ``random``.
    fold : int
        From 1; see :func:`iemocap_protocols.split_entries`.
    label_set : str
        ``exc_merged`` (5,531 utterances), ``exc_replaces_hap`` (4,936) or
        ``exc_dropped`` (4,490): whether excited turns count as happy beside
        the happy ones, instead of them, or not at all.
    seed : int
        Seed of the noise split and of the random protocol.
    skip_broken_audio : bool
        Warn and go on without utterances whose audio is missing or broken.
    skip_prep : bool
        Do nothing: the manifests are known to be right.

    Raises
    ------
    InputError
        If a folder or session is missing, an argument is none of its
        choices, labels cannot be read (with file and line), audio is missing
        or broken (all such files are listed), or a split has no utterance.

    Example
    -------
    >>> prepare_iemocap("nowhere", "noise", "manifests", label_set="exc_only")
    Traceback (most recent call last):
    merit_modules.errors.InputError: label_set: expected one of exc_merged,
    exc_replaces_hap, exc_dropped, got 'exc_only'
    """
    if skip_prep:
        return
    check_fold(protocol, fold)
    if label_set not in LABEL_SETS:
        raise InputError(
            f"label_set: expected one of {', '.join(LABEL_SETS)}, "
            f"got {label_set!r}"
        )
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    release = find_release(data_folder)
    turns = read_labels(release)
    recordings = _find_recordings(release)
    stamp = {
        "corpus": "IEMOCAP",
        "data_folder": str(data_folder.resolve()),
        "labels": _digest(turns),
        "recordings": _digest(recordings),
        **noise_stamp(noise_folder),
        "protocol": protocol,
        "fold": fold,
        "label_set": label_set,
        "seed": seed,
        "skip_broken_audio": skip_broken_audio,
    }
    names = [*SPLITS, *noise_manifests(noise_folder)]
    if is_prepared(manifest_folder, names, stamp):
        logger.info(f"{manifest_folder}: manifests are up to date")
        return
    remove_stamp(manifest_folder)
    _warn_of_unlabelled(release, recordings - {turn.wav for turn in turns})
    kept = _keep_classes(turns, LABEL_SETS[label_set], label_set)
    durations_s = _durations_s(release, kept, skip_broken_audio)
    root = (Path(DATA_ROOT) / release.relative_to(data_folder)).as_posix()
    entries = {
        turn.name: {
            "wav": f"{root}/{turn.wav}",
            "duration": durations_s[turn.name],
            "emo": LABEL_SETS[label_set][turn.code],
            "spk_id": turn.speaker,
            "session": turn.session,
        }
        for turn in kept
        if turn.name in durations_s
    }
    splits = split_entries(entries, protocol, fold, seed)
    prepare_noise(noise_folder, manifest_folder, seed)
    write_manifests(manifest_folder, splits, stamp)
    _report(splits, protocol, fold, label_set)


def _find_recordings(release):
    """Return the paths of all sentences' recordings, relative to release."""
    # A pattern that starts with a letter passes macOS's ._ files by.
    return {
        path.relative_to(release).as_posix()
        for session in SESSIONS
        for path in release.glob(f"Session{session}/sentences/wav/Ses*/S*.wav")
    }


def _digest(items):
    """Return a short name for a set or list of strings or tuples."""
    return hashlib.sha256(repr(sorted(items)).encode()).hexdigest()[:16]


def _warn_of_unlabelled(release, recordings):
    """Warn of recordings that no evaluation file speaks of."""
    if recordings:
        named = sorted(recordings)[:N_NAMED]
        more = "" if len(recordings) <= N_NAMED else ", ..."
        logger.warning(
            f"{release}: left out, no evaluation file labels them: "
            f"{len(recordings)} recordings: {', '.join(named)}{more}"
        )


def _keep_classes(turns, class_of, label_set):
    """Return the turns of the four classes; say what else there is."""
    dropped = Counter(turn.code for turn in turns if turn.code not in class_of)
    if dropped:
        counts = [f"{n} {code}" for code, n in sorted(dropped.items())]
        logger.info(f"dropped, not in {label_set}: {', '.join(counts)}")
    return [turn for turn in turns if turn.code in class_of]


def _durations_s(release, turns, skip_broken_audio):
    """Return ``{name: seconds}`` of the usable recordings."""
    durations_s, problems = probe_many(
        {turn.name: release / turn.wav for turn in turns},
        desc="reading IEMOCAP headers",
    )
    if not skip_broken_audio:
        raise_if_broken(problems, "IEMOCAP recordings")
    for problem in problems.values():
        logger.warning(f"left out: {problem}")
    return durations_s


def _report(splits, protocol, fold, label_set):
    """Log counts beside the known ones, and what identifies the splits."""
    by_session = known_counts(label_set)
    counts, known = {}, {}
    for session in SESSIONS:
        of_session = [
            entry
            for members in splits.values()
            for entry in members.values()
            if entry["session"] == session
        ]
        counts[f"Session{session}"] = _count(of_session)
        known[f"Session{session}"] = by_session[session]
    for split, members in splits.items():
        counts[split] = _count(members.values())
        if protocol == "leave_one_session_out":
            held = {entry["session"] for entry in members.values()}
            known[split] = _sum(by_session[session] for session in held)
    counts["all"] = _sum(counts[split] for split in SPLITS)
    known["all"] = _sum(by_session.values())
    for row in (*counts.values(), *known.values()):
        row["total"] = sum(row.values())
    title = f"IEMOCAP, {label_set}, {protocol}, fold {fold}"
    logger.info(
        f"{title}: utterances (known)\n{count_table(counts, known)}\n"
        + "\n".join(_describe(*item) for item in splits.items())
    )
    differing = [
        f"{row} {column} {counts[row][column]} ({n})"
        for row, columns in known.items()
        for column, n in columns.items()
        if counts[row][column] != n
    ]
    if differing:
        logger.warning(
            f"{title}: {len(differing)} counts differ from the known ones in "
            f"brackets: {', '.join(differing)}"
        )


def _count(entries):
    """Return ``{class: number}``."""
    counts = Counter(entry["emo"] for entry in entries)
    return {emotion: counts[emotion] for emotion in CLASSES}


def _sum(tables):
    """Add ``{class: number}`` tables."""
    tables = list(tables)
    return {name: sum(table[name] for table in tables) for name in CLASSES}


def _describe(split, members):
    """Return a line on a split's size, speakers and identity."""
    minutes = sum(entry["duration"] for entry in members.values()) / 60
    speakers = sorted({entry["spk_id"] for entry in members.values()})
    return (
        f"{split}: {len(members)} utterances, {minutes:.1f} minutes, digest "
        f"{split_digest(members)}, speakers {' '.join(speakers)}"
    )

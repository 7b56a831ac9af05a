"""Make manifests of a corpus of one's own, listed in a CSV file, and noise.

The YAML asks this file for the corpus's labels and folder, too: they must be
known before there is a manifest.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import hashlib
import json
from collections import Counter
from pathlib import Path

from manifest_rows import read_rows
from manifest_splits import (
    SHARES,
    UNKNOWN,
    check_classes,
    make_splits,
    warn_of_few,
)
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.labels import emotion_labels
from merit_modules.data.manifest import DATA_ROOT
from merit_modules.data.noise.corpora import (
    noise_manifests,
    noise_stamp,
    prepare_noise,
)
from merit_modules.data.preparation import (
    STAMP,
    count_table,
    is_prepared,
    probe_many,
    remove_stamp,
    spelt_on_disk,
    split_digest,
    write_manifests,
)
from merit_modules.data.table import at
from merit_modules.data.text import key, spellings
from merit_modules.errors import InputError
from merit_modules.files import locale_problem

logger = get_logger(__name__)


def labels_of(manifest_csv):
    """List the labels of a corpus: its classes, unless the YAML names them.

    Arguments
    ---------
    manifest_csv : str or Path
        The CSV file, see :mod:`manifest_rows`.

    Returns
    -------
    list of str
        Sorted.

    Raises
    ------
    InputError
        If the file is wrong or has one label only.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("wav,emo\\na.wav,tense\\nb.wav,calm\\n")
    >>> labels_of(path)
    ['calm', 'tense']
    """
    rows = read_rows(manifest_csv).rows
    labels = sorted({row.emo for row in rows})
    if len(labels) < 2:
        lines = f"{rows[0].line} to {rows[-1].line}"
        raise InputError(
            f"{manifest_csv}, lines {lines}, column emo: expected at least "
            f"two labels, got {labels[0]!r} alone"
        )
    return labels


def folder_of(manifest_csv):
    """Say where relative paths of a CSV file start from.

    Arguments
    ---------
    manifest_csv : str or Path
        The CSV file.

    Returns
    -------
    str
        Its absolute folder.

    Example
    -------
    >>> folder_of("/corpora/mine/calls.csv")
    '/corpora/mine'
    """
    return str(Path(manifest_csv).absolute().parent)


def prepare_manifest(
    manifest_csv,
    noise_folder,
    manifest_folder,
    emotions,
    seed=1234,
    fold=None,
    n_folds=5,
    skip_broken_audio=False,
    save_folder=None,
    skip_prep=False,
):
    """Write speech and noise manifests of a corpus in a CSV file.

    Splits that the column ``split`` names are taken as they are. Those that
    it does not name are made of the rows for training and those without a
    split: by speakers where they are known, every class in every split, then
    with balanced classes.

    Nothing is done if the manifests are there already and were made from the
    same files with the same arguments.

    Arguments
    ---------
    manifest_csv : str or Path
        The CSV file, see :mod:`manifest_rows`.
    noise_folder : str, Path or dict
        Any folder of noise (what ``{data_root}`` stands for in the noise
        manifests), or several corpora; see
        :mod:`merit_modules.data.noise.corpora`. In the speech manifests
        ``{data_root}`` is the CSV file's folder; audio elsewhere has its
        absolute path.
    manifest_folder : str or Path
        Where ``train.json``, ``valid.json``, ``test.json`` and the three
        noise manifests go.
    emotions : list of str
        Labels to keep; rows of others are left out.
    seed : int
        Seed of the splits that are made, and of the noise split.
    fold : int, optional
        Make a fold of all rows: from 0 to ``n_folds - 1``.
    n_folds : int
        Number of folds.
    skip_broken_audio : bool
        Warn of audio that is missing or broken and go on without it.
    save_folder : str or Path, optional
        The run's checkpoints. Where there are any, the manifests that they
        were trained on are not replaced by others.
    skip_prep : bool
        Do nothing: the manifests are known to be right.

    Raises
    ------
    InputError
        If the CSV file is wrong, audio is missing or broken (all such lines
        are listed), a class is not in every split, splits cannot be made, or
        a run with checkpoints would go on with other data.

    Example
    -------
    >>> prepare_manifest("no.csv", "noise", "manifests", ["calm", "tense"])
    Traceback (most recent call last):
    merit_modules.errors.InputError: no.csv: there is no such CSV file
    """
    if skip_prep:
        return
    manifest_csv, manifest_folder = Path(manifest_csv), Path(manifest_folder)
    table = read_rows(manifest_csv)
    stamp = {
        "manifest_csv": str(manifest_csv.resolve()),
        "sha256": hashlib.sha256(manifest_csv.read_bytes()).hexdigest(),
        **noise_stamp(noise_folder),
        "emotions": list(emotions),
        "seed": seed,
        "skip_broken_audio": skip_broken_audio,
    }
    if fold is not None:
        stamp |= {"fold": fold, "n_folds": n_folds}
    names = [*SHARES, *noise_manifests(noise_folder)]
    if is_prepared(manifest_folder, names, stamp):
        logger.info(f"{manifest_folder}: manifests are up to date")
        return
    _keep_trained_on(manifest_folder, save_folder, stamp)
    if table.extra_columns:
        logger.info(f"columns not used: {', '.join(table.extra_columns)}")
    for note in table.notes:
        logger.warning(note)
    rows = _of_classes(manifest_csv, table.rows, emotions)
    rows = _by_id(_as_on_disk(manifest_csv, rows))
    durations_s = _durations(manifest_csv, rows, skip_broken_audio)
    rows = {item: rows[item] for item in sorted(durations_s)}
    entries = {
        item: _entry(row, durations_s[item], folder_of(manifest_csv))
        for item, row in rows.items()
    }
    splits = make_splits(manifest_csv, rows, entries, seed, fold, n_folds)
    check_classes(manifest_csv, rows, splits, emotions)
    warn_of_few(manifest_csv, splits, fold)
    # An old stamp must not vouch for what a stopped run leaves behind.
    remove_stamp(manifest_folder)
    prepare_noise(noise_folder, manifest_folder, seed)
    write_manifests(manifest_folder, splits, stamp)
    _report(manifest_csv, splits, emotions)


def _keep_trained_on(manifest_folder, save_folder, stamp):
    """Refuse to go on with a run on other data than it began with."""
    if save_folder is None or not list(Path(save_folder).glob("CKPT+*")):
        return
    try:
        old = json.loads((manifest_folder / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    changed = sorted(key for key in stamp if old.get(key) != stamp[key])
    if changed:
        what = ", ".join(changed).replace("sha256", "the CSV file's content")
        raise InputError(
            f"{save_folder} holds a run that was trained on other data "
            f"(changed: {what}); give another --corpus_name or "
            "--output_folder"
        )


def _of_classes(manifest_csv, rows, emotions):
    """Keep the rows of the classes, telling how many others there are."""
    counts = Counter(row.emo for row in rows)
    if len(emotions) < 2:
        raise InputError(
            f"emotions: expected at least two labels, got {emotions!r}"
        )
    emotion_labels(emotions)  # different ones
    known = spellings(counts)
    for emotion in emotions:
        if key(emotion) not in known:
            raise InputError(
                f"emotions: expected labels of {manifest_csv}, column emo "
                f"({', '.join(sorted(counts))}), got {emotion!r}"
            )
    name_of = {key(emotion): emotion for emotion in emotions}
    others = {k: n for k, n in sorted(counts.items()) if key(k) not in name_of}
    if others:
        found = ", ".join(f"{n} {emotion}" for emotion, n in others.items())
        logger.info(f"left out, not among the emotions: {found}")
    return [
        row._replace(emo=name_of[key(row.emo)])
        for row in rows
        if key(row.emo) in name_of
    ]


def _as_on_disk(manifest_csv, rows):
    """Take the names that files have, where the CSV spells them otherwise."""
    found, line_of, listed, problems = [], {}, {}, {}
    for row in rows:
        path = spelt_on_disk(row.path, listed) or row.path
        if line_of.setdefault(path, row.line) != row.line:
            problems[row.line] = (
                f"{at(manifest_csv, row.line, 'wav')}: {row.wav} is the file "
                f"of line {line_of[path]}"
            )
        found.append(row._replace(path=path))
    raise_if_broken(problems, f"cells of {manifest_csv}")
    other = [(a, b) for a, b in zip(rows, found) if a.path != b.path]
    if other:
        old, new = other[0]
        logger.warning(
            f"{at(manifest_csv, old.line, 'wav')}: {old.path} is spelt "
            f"{new.path!r} on the disk ({len(other)} such)"
        )
    return found


def _by_id(rows):
    """Name each row after its file; also after its path where it must be."""
    stems = Counter(Path(row.path).stem for row in rows)
    return {_id(row, stems[Path(row.path).stem] == 1): row for row in rows}


def _id(row, stem_is_unique):
    stem = Path(row.path).stem
    if stem_is_unique:
        return stem
    # The cell, not the whole path: the same id wherever the corpus lies.
    cell = Path(row.wav).as_posix()
    return f"{stem}-{hashlib.sha256(cell.encode()).hexdigest()[:8]}"


def _durations(manifest_csv, rows, skip_broken_audio):
    """Return ``{id: seconds}`` from the column or the files' headers."""
    durations_s, problems, unread = {}, {}, {}
    for item, row in rows.items():
        if row.duration_s is None:
            unread[item] = Path(row.path)
        elif Path(row.path).is_file():
            durations_s[item] = row.duration_s
        else:
            problems[item] = f"{row.path}: there is no such audio file"
    for item, row in rows.items():
        if told := locale_problem(row.path):
            problems[item] = told
            unread.pop(item, None)
    if unread:
        found, broken = probe_many(unread)
        durations_s |= found
        problems |= broken
    problems = {
        item: f"{at(manifest_csv, row.line, 'wav')}: {problems[item]}"
        for item, row in rows.items()
        if item in problems
    }
    if not skip_broken_audio:
        raise_if_broken(problems, f"audio files of {manifest_csv}")
    for problem in problems.values():
        logger.warning(f"left out: {problem}")
    return durations_s


def _entry(row, duration_s, folder):
    path = Path(row.path)
    if path.is_relative_to(folder):
        wav = f"{DATA_ROOT}/{path.relative_to(folder).as_posix()}"
    else:
        wav = path.as_posix()
    return {
        "wav": wav,
        "duration": duration_s,
        "emo": row.emo,
        "spk_id": UNKNOWN if row.spk_id is None else row.spk_id,
    }


def _report(manifest_csv, splits, emotions):
    counts = {}
    for split, entries in splits.items():
        values = list(entries.values())
        labels = Counter(entry["emo"] for entry in values)
        counts[split] = {emotion: labels[emotion] for emotion in emotions}
        counts[split] |= {
            "total": len(values),
            "minutes": round(sum(e["duration"] for e in values) / 60),
            "speakers": len({e["spk_id"] for e in values} - {UNKNOWN}),
        }
    digests = [f"{name} {split_digest(e)}" for name, e in splits.items()]
    logger.info(
        f"{manifest_csv}: utterances\n{count_table(counts)}\n"
        f"digests: {', '.join(digests)}"
    )

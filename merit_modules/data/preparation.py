"""What all corpus preparations share: headers, manifests, splits, counts.

A recipe finds its files and labels; lengths, splits by speaker, the check
that splits share nobody, tables of counts and the writing of manifests that
are whole or not there at all come from here.
"""

import errno
import os
from contextlib import contextmanager
from pathlib import Path

from merit_modules.data.manifest import write_manifest
from merit_modules.data.probing import probe_many
from merit_modules.data.speaker_splits import speaker_disjoint_splits
from merit_modules.data.state import digest_of, read_state, write_state
from merit_modules.data.text import key as same
from merit_modules.data.text import spellings
from merit_modules.errors import InputError

__all__ = [
    "STAMP",
    "check_disjoint",
    "count_table",
    "is_prepared",
    "probe_many",
    "remove_stamp",
    "speaker_disjoint_splits",
    "spelt_on_disk",
    "split_digest",
    "write_manifests",
]

STAMP = "prepared.json"


def write_manifests(manifest_folder, manifests, stamp):
    """Write all manifests and, last of all, the stamp that vouches for them.

    Arguments
    ---------
    manifest_folder : str or Path
        Made if need be.
    manifests : dict
        ``{name: entries}``: ``train`` is written to ``train.json``.
    stamp : dict
        What the manifests depend on (folders, number of files, arguments), of
        types that JSON knows.

    Raises
    ------
    InputError
        If the folder cannot be written.

    Example
    -------
    >>> entry = {"wav": "{data_root}/a.wav", "duration": 1.0}
    >>> folder = getfixture("tmp_path")
    >>> write_manifests(folder, {"train": {"a": entry}}, {"seed": 1})
    >>> sorted(path.name for path in folder.iterdir())
    ['prepared.json', 'train.json']
    """
    folder = Path(manifest_folder)
    remove_stamp(folder)
    with _naming(folder):
        for name, entries in manifests.items():
            write_manifest(folder / f"{name}.json", entries)
        write_state(folder / STAMP, stamp)


def remove_stamp(manifest_folder):
    """Declare the manifests of a folder out of date.

    :func:`write_manifests` does it by itself. It is needed before anything
    else writes a manifest there: an old stamp must not vouch for a mixture of
    old and new manifests that a stopped run leaves behind.

    Arguments
    ---------
    manifest_folder : str or Path
        The folder; it need not exist.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_manifests(folder, {}, {"seed": 1})
    >>> remove_stamp(folder)
    >>> is_prepared(folder, [], {"seed": 1})
    False
    """
    with _naming(manifest_folder):
        (Path(manifest_folder) / STAMP).unlink(missing_ok=True)


def is_prepared(manifest_folder, names, stamp):
    """Say whether all manifests are there and were made as the stamp says.

    Arguments
    ---------
    manifest_folder : str or Path
        Where :func:`write_manifests` wrote.
    names : list of str
        Manifests that must be there, without ``.json``.
    stamp : dict
        What they must have been made from.

    Returns
    -------
    bool

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_manifests(folder, {"train": {}}, {"seed": 1})
    >>> is_prepared(folder, ["train"], {"seed": 1})
    True
    >>> is_prepared(folder, ["train"], {"seed": 2})
    False
    >>> is_prepared(folder, ["train", "test"], {"seed": 1})
    False
    """
    folder = Path(manifest_folder)
    if not all((folder / f"{name}.json").is_file() for name in names):
        return False
    try:
        written = read_state(folder / STAMP)
    except (OSError, InputError):
        return False
    return digest_of(written) == digest_of(stamp)


@contextmanager
def _naming(path):
    """Turn an error of the file system into one that tells what to change."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(f"{path}: cannot be written: {error}") from error


def spelt_on_disk(path, listed):
    """Find a file whose name has another case or normal form on the disk.

    Arguments
    ---------
    path : str
        As a table has it, absolute.
    listed : dict
        What folders hold, kept from call to call; at first empty.

    Returns
    -------
    str or None
        The path if it is there, else the only one that is the same, if any.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "u\u0308.wav").touch()
    >>> spelt_on_disk(f"{folder}/Ü.WAV", {}) == f"{folder}/u\u0308.wav"
    True
    """
    if os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    folder = spelt_on_disk(folder, listed) if name else None
    if folder is None:
        return None
    if folder not in listed:
        try:
            listed[folder] = spellings(os.listdir(folder))
        except (OSError, ValueError):  # no folder; no such name in the locale
            listed[folder] = {}
    found = listed[folder].get(same(name), ())
    return os.path.join(folder, found[0]) if len(found) == 1 else None


def split_digest(entries):
    """Return a short name for what is in a split: equal splits, equal digest.

    Paths and durations do not count: they differ between machines and
    releases of a decoder where the split does not.

    Arguments
    ---------
    entries : dict
        ``{id: entry}``; of the entries, ``emo`` and ``spk_id`` count.

    Returns
    -------
    str
        16 hexadecimal digits.

    Example
    -------
    >>> split_digest({"a": {"wav": "/x/a.wav", "emo": "sad", "spk_id": "1"}})
    'b8d997ed3740ce56'
    """
    rows = sorted(
        [item, str(entry.get("emo")), str(entry.get("spk_id"))]
        for item, entry in entries.items()
    )
    return digest_of(rows)[:16]


def check_disjoint(splits, key="spk_id", allow=()):
    """Raise if something is in two splits, in whatever spelling.

    Arguments
    ---------
    splits : dict
        ``{split: {id: entry}}``.
    key : str
        What must not be in two splits. Entries without it share the value
        None.
    allow : list
        Values that may be, such as ``"Unknown"``.

    Raises
    ------
    InputError
        Naming the value and its splits.

    Example
    -------
    >>> entry = {"spk_id": "7"}
    >>> check_disjoint({"train": {"a": entry}, "valid": {"b": {}}})
    >>> check_disjoint({"train": {"a": entry}, "test": {"b": entry}})
    Traceback (most recent call last):
    merit_modules.errors.InputError: spk_id: expected each in one split, ...
    """
    allowed = {_identity(value) for value in allow}
    found = {}  # by what is the same: spelling to a split
    for split, entries in splits.items():
        for entry in entries.values():
            value = entry.get(key)
            found.setdefault(_identity(value), {})[split, value] = None
    shared = [
        list(places)
        for value, places in found.items()
        if value not in allowed and len({split for split, _ in places}) > 1
    ]
    if shared:
        places = min(shared, key=lambda places: str(places[0][1]))
        (_, value), names = places[0], dict.fromkeys(s for s, _ in places)
        others = {v: None for _, v in places if v != value}
        also = f" (also {', '.join(map(repr, others))})" if others else ""
        raise InputError(
            f"{key}: expected each in one split, got {value!r}{also} in "
            f"{' and '.join(names)} ({len(shared)} such in all)"
        )


def _identity(value):
    return value if value is None else same(value)


def count_table(counts, known=None):
    """Write counts as a table, beside those that are known to be right.

    Arguments
    ---------
    counts : dict
        ``{row: {column: count}}``.
    known : dict, optional
        The same for some rows and columns, such as published totals. They
        stand in brackets, with a ``*`` where they differ.

    Returns
    -------
    str
        The table, without a line break at its end.

    Example
    -------
    >>> counts = {"train": {"sad": 5, "angry": 7}, "test": {"sad": 1}}
    >>> print(count_table(counts, {"train": {"sad": 5, "angry": 8}}))
           sad    angry
    train  5 (5)  7 (8)*
    test   1      0
    * differs from the known number in brackets
    """
    known = known or {}
    rows = list(dict.fromkeys([*counts, *known]))
    columns = list(
        dict.fromkeys(
            column
            for table in (counts, known)
            for row in table.values()
            for column in row
        )
    )
    cells = [["", *map(str, columns)]]
    for row in rows:
        cells.append([str(row)])
        for column in columns:
            n = counts.get(row, {}).get(column, 0)
            expected = known.get(row, {}).get(column)
            mark = "" if expected in (None, n) else "*"
            beside = "" if expected is None else f" ({expected}){mark}"
            cells[-1].append(f"{n}{beside}")
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip()
        for row in cells
    ]
    if any(cell.endswith(")*") for row in cells for cell in row):
        lines.append("* differs from the known number in brackets")
    return "\n".join(lines)

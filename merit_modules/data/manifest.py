"""Manifests: files that say which utterances and noises there are.

A manifest is one JSON object, ``{id: entry}``, or a CSV file with the column
``ID``, as SpeechBrain has them. A speech entry holds ``wav``, ``duration``
(seconds, or ``length``) and, unless something else is learned, ``emo``; also
``spk_id``. A noise entry holds ``wav``, ``duration`` and ``noise_type``. Paths
start with ``{data_root}`` (any ``$data_root`` or ``{..._root}`` of others is
replaced, too), so that a manifest stays true when its audio moves.
"""

import json
import re
from pathlib import Path

from merit_modules.data.table import at, read_table, read_text
from merit_modules.data.text import is_missing
from merit_modules.errors import InputError
from merit_modules.files import write_atomically

DATA_ROOT = "{data_root}"
#: How others' manifests begin a path: {data_folder}, $noise_folder.
OTHER_ROOTS = r"^(\{\w+\}|\$\w+)(?=/)"
SPEECH_KEYS = ("wav", "duration", "emo", "spk_id")
NOISE_KEYS = ("wav", "duration", "noise_type")


def write_manifest(path, entries):
    """Write a manifest, atomically and in the order given.

    Arguments
    ---------
    path : str or Path
        JSON file to write.
    entries : dict
        ``{id: entry}``; paths in it start with ``{data_root}``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.json"
    >>> entry = {"wav": "{data_root}/a.wav", "duration": 1.5}
    >>> entry.update(emo="sad", spk_id="03")
    >>> write_manifest(path, {"a": entry})
    >>> read_manifest(path, "/corpus")["a"]["wav"]
    '/corpus/a.wav'
    """
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    write_atomically(path, text + "\n")


def read_manifest(path, data_root, kind=None):
    """Read a manifest and put the audio's folder into its paths.

    Arguments
    ---------
    path : str or Path
        JSON file made by :func:`write_manifest` or by hand, or a CSV file.
    data_root : str or Path
        Folder that stands for ``{data_root}``.
    kind : str, optional
        ``speech`` or ``noise``: what it must hold; by default each entry
        shows it.

    Returns
    -------
    entries : dict
        ``{id: entry}`` in the file's order.

    Raises
    ------
    InputError
        If the file is missing, is neither JSON nor CSV, holds no entry, or if
        an entry lacks a key or has no usable duration (named with its id).

    Example
    -------
    >>> path = getfixture("tmp_path") / "noise.json"
    >>> entry = {"wav": "{data_root}/n1.wav", "duration": 2.0}
    >>> write_manifest(path, {"n1": {**entry, "noise_type": "rain"}})
    >>> read_manifest(path, "/noise")
    {'n1': {'wav': '/noise/n1.wav', 'duration': 2.0, 'noise_type': 'rain'}}
    """
    if Path(path).suffix.lower() == ".csv":
        entries = _rows(path)
    else:
        text = read_text(path, "manifest file")
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise InputError(
                f"{path}: expected a JSON manifest, could not parse it: {error}"
            ) from None
    if not isinstance(entries, dict):
        raise InputError(
            f"{path}: expected a JSON object {{id: entry}}, "
            f"got a {type(entries).__name__}"
        )
    if not entries:
        raise InputError(f"{path}: the manifest is empty")
    return {
        item: _checked(path, item, entry, str(data_root), kind)
        for item, entry in entries.items()
    }


def files_of(path, place, names):
    """Say which manifest each set of a kind has.

    Arguments
    ---------
    path : str or Path
        Path of the manifests, with a place for the set's name.
    place : str
        What the place is called.
    names : list of str
        Names of the sets.

    Returns
    -------
    dict
        Name to path.

    Raises
    ------
    InputError
        If the names are no list.

    Example
    -------
    >>> files_of("noise_{set}.json", "set", ["train"])
    {'train': 'noise_train.json'}
    """
    if isinstance(names, str):
        raise InputError(
            f"{place}s: expected a list, such as [{names}], got {names!r}"
        )
    # Not str.format: other braces may be part of a file's name.
    return {name: str(path).replace(f"{{{place}}}", name) for name in names}


def _rows(path):
    """Read SpeechBrain's CSV manifests."""
    known = {*SPEECH_KEYS, *NOISE_KEYS, "length"}
    table = read_table(
        path, ["ID"], sorted(known), ["duration", "length"], "manifest file"
    )
    for problem in table.problems.values():
        raise InputError(problem)
    entries = {}
    for line, cells in table.rows:
        item = cells.pop("ID")
        if item in entries:
            raise InputError(f"{at(path, line, 'ID')}: {item!r} came before")
        entries[item] = cells
    return entries


def _checked(path, item, entry, data_root, kind):
    """Return one entry with its paths filled in; raise if it is not whole."""
    if not isinstance(entry, dict):
        raise InputError(
            f"{path}: entry {item!r}: expected an object with keys, "
            f"got {entry!r}"
        )
    # Other people's: the length by another name, the speaker or type unknown.
    if "duration" not in entry and "length" in entry:
        entry = {**entry, "duration": entry["length"]}
    if kind is None:
        kind = "noise" if "noise_type" in entry else "speech"
    if kind == "noise":
        entry = {**entry, "noise_type": entry.get("noise_type", "noise")}
    else:
        speaker = entry.get("spk_id")
        speaker = None if is_missing(speaker) else speaker
        entry = {**entry, "spk_id": speaker}
    needed = NOISE_KEYS if kind == "noise" else SPEECH_KEYS
    missing = [key for key in needed if key not in entry]
    if missing:
        raise InputError(
            f"{path}: entry {item!r} has no {missing[0]!r}; a {kind} entry "
            f"needs {', '.join(needed)}; it has {', '.join(entry) or 'none'}"
        )
    if not isinstance(entry["wav"], str):
        raise InputError(
            f"{path}: entry {item!r}: 'wav': expected a path, "
            f"got {entry['wav']!r}"
        )
    duration = _number(entry["duration"])
    if duration is None or not 0 < duration < 1e6:
        raise InputError(
            f"{path}: entry {item!r}: 'duration': expected seconds above 0, "
            f"got {entry['duration']!r}"
        )
    # Not str.format: other braces may be part of a file's name.
    filled = {
        key: value.replace(DATA_ROOT, data_root)
        if isinstance(value, str)
        else value
        for key, value in entry.items()
    }
    wav = re.sub(OTHER_ROOTS, lambda _: data_root, filled["wav"])
    return {**filled, "wav": wav, "duration": duration}


def _number(value):
    if isinstance(value, bool):
        return None
    try:
        return value if isinstance(value, (int, float)) else float(value)
    except (TypeError, ValueError):
        return None

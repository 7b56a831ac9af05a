"""Manifests: JSON files that say which utterances and noises there are.

A manifest is one JSON object, ``{id: entry}``. A speech entry holds ``wav``,
``duration`` (seconds), ``emo`` and ``spk_id``; a noise entry holds ``wav``,
``duration`` and ``noise_type``. Paths start with ``{data_root}``, which the
reader replaces, so that a manifest stays true when its audio moves.
"""

import json
from pathlib import Path

from merit_modules.errors import InputError
from merit_modules.files import write_atomically

DATA_ROOT = "{data_root}"
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


def read_manifest(path, data_root):
    """Read a manifest and put the audio's folder into its paths.

    Arguments
    ---------
    path : str or Path
        JSON file made by :func:`write_manifest`, or by hand.
    data_root : str or Path
        Folder that stands for ``{data_root}``.

    Returns
    -------
    entries : dict
        ``{id: entry}`` in the file's order.

    Raises
    ------
    InputError
        If the file is missing, is not JSON, holds no entry, or if an entry
        lacks a key or has no usable duration (named with the entry's id).

    Example
    -------
    >>> path = getfixture("tmp_path") / "noise.json"
    >>> entry = {"wav": "{data_root}/n1.wav", "duration": 2.0}
    >>> write_manifest(path, {"n1": {**entry, "noise_type": "rain"}})
    >>> read_manifest(path, "/noise")
    {'n1': {'wav': '/noise/n1.wav', 'duration': 2.0, 'noise_type': 'rain'}}
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: there is no such manifest file") from None
    except ValueError as error:  # not JSON, or not UTF-8
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
        item: _checked(path, item, entry, str(data_root))
        for item, entry in entries.items()
    }


def _checked(path, item, entry, data_root):
    """Return one entry with its paths filled in; raise if it is not whole."""
    if not isinstance(entry, dict):
        raise InputError(
            f"{path}: entry {item!r}: expected an object with keys, "
            f"got {entry!r}"
        )
    kind, needed = "speech", SPEECH_KEYS
    if "noise_type" in entry:
        kind, needed = "noise", NOISE_KEYS
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
    duration = entry["duration"]
    if not isinstance(duration, (int, float)) or not 0 < duration < 1e6:
        raise InputError(
            f"{path}: entry {item!r}: 'duration': expected seconds above 0, "
            f"got {duration!r}"
        )
    # Not str.format: other braces may be part of a file's name.
    return {
        key: value.replace(DATA_ROOT, data_root)
        if isinstance(value, str)
        else value
        for key, value in entry.items()
    }

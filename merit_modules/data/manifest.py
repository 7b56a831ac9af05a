"""Manifests: JSON files that say which utterances and noises there are.

A manifest is one JSON object, ``{id: entry}``. A speech entry holds ``wav``,
``duration`` (seconds), ``emo`` and ``spk_id``; a noise entry holds ``wav``,
``duration`` and ``noise_type``. Paths start with ``{data_root}``, which the
reader replaces, so that a manifest stays true when its audio moves.
"""

import json
import os
from pathlib import Path

from merit_modules.errors import InputError

DATA_ROOT = "{data_root}"
SPEECH_KEYS = ("wav", "duration", "emo", "spk_id")
NOISE_KEYS = ("wav", "duration", "noise_type")
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 "
    ".rf64 .sph .nist".split()
)


def write_atomically(path, text):
    """Write a text file so that it is either whole or as it was before.

    Arguments
    ---------
    path : str or Path
        File to write; its folder is made if need be.
    text : str
        What to write, as UTF-8.

    Example
    -------
    >>> path = getfixture("tmp_path") / "new" / "note.txt"
    >>> write_atomically(path, "whole")
    >>> path.read_text(), [p.name for p in path.parent.iterdir()]
    ('whole', ['note.txt'])
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Same folder: a rename is only atomic within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def find_audio(folder, what):
    """List the audio files below a folder, in an order that never changes.

    Hidden files and folders are left out (macOS leaves ``._name.wav`` files,
    which are no audio, beside the real ones). Linked folders are followed.

    Arguments
    ---------
    folder : str or Path
        Where to look, at any depth.
    what : str
        What the folder should hold, for the error message.

    Returns
    -------
    files : list of Path
        Sorted by their path relative to ``folder``.

    Raises
    ------
    InputError
        If the folder does not exist or holds no audio file.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.flac", "._b.wav", "notes.txt"):
    ...     (folder / name).touch()
    >>> [file.name for file in find_audio(folder, "noise")]
    ['a.flac', 'b.wav']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder ({what})")
    files, seen = [], set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if s[0] != ".")
        files += [
            Path(parent, name)
            for name in names
            if name[0] != "." and Path(name).suffix.lower() in AUDIO_SUFFIXES
        ]
    if not files:
        raise InputError(
            f"{folder}: no audio file in this folder ({what}); looked for "
            f"{', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())

"""Files: written whole, audio found in folders, folders here or on the hub."""

import os
import re
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from merit_modules.errors import InputError

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 "
    ".rf64 .sph .nist".split()
)
#: What ffmpeg reads, where it is installed.
FFMPEG_SUFFIXES = frozenset(
    ".m4a .m4b .mp4 .mov .webm .mka .mkv .aac .wma .amr .3gp".split()
)


def audio_suffixes():
    """List the endings of the files that can be read here.

    Returns
    -------
    frozenset of str
        Those that libsndfile reads and, if it is installed, ffmpeg.

    Example
    -------
    >>> ".wav" in audio_suffixes()
    True
    """
    found = FFMPEG_SUFFIXES if shutil.which("ffmpeg") else frozenset()
    return AUDIO_SUFFIXES | found


def sync(path):
    """Wait until a file, or a folder's list of files, is on the disk.

    Arguments
    ---------
    path : str or Path
        The file or folder.

    Example
    -------
    >>> sync(getfixture("tmp_path"))
    """
    try:
        place = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        return
    try:
        os.fsync(place)
    finally:
        os.close(place)


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
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def locale_problem(path):
    """Say why a path cannot be used in this locale.

    Arguments
    ---------
    path : str or Path
        A path, or a word of the command line.

    Returns
    -------
    str or None
        None if it can be used.

    Example
    -------
    >>> locale_problem("Glück.wav") is None
    True
    """
    path = os.fspath(path)
    try:
        shown = os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:  # in no encoding that we know
        return None
    except UnicodeEncodeError:
        shown = path
    else:
        if shown == path:
            return None
    return (
        f"{shown}: the locale of this shell (encoding "
        f"{sys.getfilesystemencoding()}) does not have these characters; set "
        "PYTHONUTF8=1, or LC_ALL=C.UTF-8"
    )


class AudioFiles(NamedTuple):
    """What a walk through a folder found.

    Arguments
    ---------
    files : list of Path
        Audio files, sorted by their path relative to the folder.
    passed_over : dict
        What else is there to how many of it: endings of other files, and
        folders that cannot be read, by name.
    """

    files: list
    passed_over: dict

    @property
    def told(self):
        """Say what was passed over; empty if nothing was."""
        parts = sorted(self.passed_over.items())
        return ", ".join(f"{count} {name}" for name, count in parts)


def walk_audio(folder):
    """Look for audio files below a folder, in an order that never changes.

    Hidden files and folders are left out (macOS leaves ``._name.wav`` files,
    which are no audio, beside the real ones). Linked folders are followed.

    Arguments
    ---------
    folder : str or Path
        Where to look, at any depth.

    Returns
    -------
    AudioFiles
        The files, and what was passed over.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.flac", "._b.wav", "notes.txt"):
    ...     (folder / name).touch()
    >>> found = walk_audio(folder)
    >>> [file.name for file in found.files], found.told
    (['a.flac', 'b.wav'], '1 .txt')
    """
    folder = Path(folder)
    files, passed_over, seen = [], Counter(), set()
    suffixes = audio_suffixes()

    def note(error):
        passed_over[f"folder that cannot be read ({error.filename})"] += 1

    walk = os.walk(folder, onerror=note, followlinks=True)
    for parent, subfolders, names in walk:
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if s[0] != ".")
        for name in names:
            path = Path(parent, name)
            if name[0] == ".":
                continue
            if path.suffix.lower() not in suffixes:
                passed_over[path.suffix.lower() or "without an ending"] += 1
            elif not path.exists():
                passed_over["link to nothing"] += 1
            else:
                files.append(path)
    files.sort(key=lambda file: file.relative_to(folder).as_posix())
    return AudioFiles(files, dict(passed_over))


def find_audio(folder, what, tell=None):
    """List the audio files below a folder; see :func:`walk_audio`.

    Arguments
    ---------
    folder : str or Path
        Where to look, at any depth.
    what : str
        What the folder should hold, for the error message.
    tell : callable, optional
        Called with a sentence where something was passed over.

    Returns
    -------
    list of Path
        Sorted by their path relative to ``folder``.

    Raises
    ------
    InputError
        If the folder does not exist or holds no audio file.

    Example
    -------
    >>> find_audio("nowhere", "noise")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: there is no such folder (noise)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder ({what})")
    found = walk_audio(folder)
    if not found.files:
        raise InputError(
            f"{folder}: no audio file in this folder ({what}); looked for "
            f"{', '.join(sorted(audio_suffixes()))}"
            + (f"; passed over {found.told}" if found.passed_over else "")
        )
    if tell is not None and found.passed_over:
        tell(f"{folder}: passed over {found.told}")
    return found.files


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_on_hub(source, what):
    """Tell whether a source is a name on the hub, not a folder here.

    A folder of that name goes before the hub.

    Arguments
    ---------
    source : str or Path
        A folder, or ``owner/name`` of a repository.
    what : str
        What it should be, for the error message.

    Returns
    -------
    bool
        False for a folder; nothing is asked of the network.

    Raises
    ------
    InputError
        If it can be neither.

    Example
    -------
    >>> is_on_hub("owner/name", "the folder of a model")
    True
    >>> is_on_hub("gone", "the folder of a model")
    Traceback (most recent call last):
    merit_modules.errors.InputError: gone: expected the folder of a model, ...
    """
    if Path(source).is_dir():
        return False
    if Path(source).exists() or not _HUB_NAME.fullmatch(str(source)):
        raise InputError(
            f"{source}: expected {what}, or its name on the hub (owner/name); "
            "there is no such folder"
        )
    return True


@contextmanager
def naming_source(source, what, errors=(OSError, ValueError)):
    """Let errors of loading from a folder or the hub name the source.

    Arguments
    ---------
    source : str or Path
        A folder, or a name on the hub.
    what : str
        What it should be.
    errors : tuple of type
        What loading may raise; an :class:`InputError` passes as it is.

    Example
    -------
    >>> with naming_source("owner/name", "the folder of a model"):
    ...     raise OSError("no network\\nand more")
    Traceback (most recent call last):
    merit_modules.errors.InputError: owner/name: expected ...: no network
    """
    try:
        yield
    except InputError:
        raise
    except errors as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{source}: expected {what}, or its name on the hub: {reason}"
        ) from error

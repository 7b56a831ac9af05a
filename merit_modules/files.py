"""Files: written whole, audio found in folders, folders here or on the hub."""

import logging
import os
import re
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from merit_modules.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

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


_HELD = {}  # device and inode of a folder to its open descriptor


def hold(folder):
    """Keep an output folder for this process, until it ends.

    The lock is on the folder itself: nothing is written into it, and the
    system lets go of it when the process ends, however it ends. Windows and
    some network disks have no such locks; there, nothing is kept apart.

    Arguments
    ---------
    folder : str or Path
        The folder; it is made if need be.

    Raises
    ------
    InputError
        If another process holds it, naming that, or if it cannot be made.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "run"
    >>> hold(folder)
    >>> hold(folder)  # it has it already
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return
        place = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from error
    found = os.fstat(place)
    key = found.st_dev, found.st_ino
    if key in _HELD:
        os.close(place)
        return
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        raise InputError(
            f"{folder}: {_holder(found.st_ino)} is at work there; wait for "
            "it, or give this one a folder of its own"
        ) from None
    except OSError as error:  # a file system without locks
        logger.warning(f"{folder}: cannot be locked ({error})")
    _HELD[key] = place


def _holder(inode):
    """Name the process that holds a folder, where the system tells."""
    try:
        rows = Path("/proc/locks").read_text().splitlines()
    except OSError:
        rows = []
    for row in rows:
        words = row.split()
        if "FLOCK" in words and words[-3].endswith(f":{inode}"):
            return f"process {words[-4]}"
    return "another process"


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

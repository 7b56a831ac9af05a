"""State that vouches for itself, in folders that one process works in."""

import hashlib
import json
import logging
import os
from pathlib import Path

from merit_modules.errors import InputError
from merit_modules.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

DIGEST = "digest"
_MARK = "sha256:"
_BLOCK = 2**22


class DamagedError(InputError):
    """A file that is not what was written.

    Example
    -------
    >>> raise DamagedError("results.json: damaged: it is cut off")
    Traceback (most recent call last):
    merit_modules.data.state.DamagedError: results.json: damaged: it is cut off
    """


def digest_of(content):
    """Give plain content a name of its own: equal content, equal digest.

    Arguments
    ---------
    content : object
        Of types that JSON knows.

    Returns
    -------
    str
        A SHA-256 in hexadecimal digits.

    Example
    -------
    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    # What is read again has keys of text alone.
    plain = json.loads(json.dumps(content))
    text = json.dumps(plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path):
    """Give a file's content a name of its own.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    str
        A SHA-256 in hexadecimal digits.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a"
    >>> _ = path.write_bytes(b"")
    >>> file_digest(path)[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_state(path, content):
    """Write a JSON file, whole and with a digest of what is in it.

    Arguments
    ---------
    path : str or Path
        The file; its folder is made if need be.
    content : dict
        What to write.

    Example
    -------
    >>> path = getfixture("tmp_path") / "state.json"
    >>> write_state(path, {"n": 1})
    >>> read_state(path)
    {'n': 1}
    >>> _ = path.write_text(path.read_text().replace("1", "2", 1))
    >>> read_state(path)
    Traceback (most recent call last):
    merit_modules.data.state.DamagedError: ...state.json: damaged, or changed...
    """
    content = {DIGEST: _MARK + digest_of(content), **content}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def read_state(path):
    """Read a file that :func:`write_state` wrote.

    Arguments
    ---------
    path : str or Path
        The file. One without a digest, of an earlier version, is taken as it
        is.

    Returns
    -------
    dict
        Its content, without the digest.

    Raises
    ------
    DamagedError
        If it is not what was written.
    OSError
        If it cannot be read.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, got {content!r:.40}")
    except ValueError as error:
        raise DamagedError(f"{path}: damaged: {error}") from None
    stated = content.pop(DIGEST, None)
    # A damaged name of the entry is not a missing one.
    renamed = [v for v in content.values() if str(v).startswith(_MARK)]
    if (stated or renamed) and stated != _MARK + digest_of(content):
        raise DamagedError(
            f"{path}: damaged, or changed by hand: what is in it is not what "
            "was written"
        )
    return content


_HELD = {}  # device and inode of a folder to its open descriptor


def hold(folder):
    """Keep an output folder for this process, until it ends or lets go.

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


def let_go():
    """Give back all folders that this process holds.

    Example
    -------
    >>> hold(getfixture("tmp_path"))
    >>> let_go()
    """
    while _HELD:
        os.close(_HELD.popitem()[1])


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

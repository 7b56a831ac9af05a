"""What was found in audio, kept for all runs of the same data.

It lies beside the manifests where these are shared, else in a folder of the
user's: ``$MERIT_CACHE``, ``$XDG_CACHE_HOME/merit`` or ``~/.cache/merit``. What
is said of a file counts as long as its path, size and time of change are the
same. The folder can be removed at any time: the audio is then read again.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechbrain.utils.logger import get_logger

from merit_modules.data.state import (
    DamagedError,
    digest_of,
    read_state,
    write_state,
)
from merit_modules.errors import InputError

logger = get_logger(__name__)

FINDINGS = "audio_findings"
_FILES_PER_TASK = 256
_N_THREADS = 8  # on a network disk they wait


def cache_folder():
    """Name the user's folder of what can be made again.

    Returns
    -------
    Path
        It need not exist.

    Example
    -------
    >>> monkeypatch = getfixture("monkeypatch")
    >>> monkeypatch.setenv("MERIT_CACHE", "/scratch/merit")
    >>> cache_folder().as_posix()
    '/scratch/merit'
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = os.environ.get("MERIT_CACHE") or os.path.join(cache, "merit")
    return Path(chosen).expanduser()


def findings_folder(manifest, run_folder):
    """Say where the findings of a run are, or will be.

    Arguments
    ---------
    manifest : str or Path
        One of its manifests.
    run_folder : str or Path
        Its output folder.

    Returns
    -------
    Path
        It need not exist.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> shared = findings_folder(folder / "train.json", folder / "run")
    >>> shared == folder / "audio_findings"
    True
    >>> findings_folder(folder / "run" / "train.json", folder / "run").name
    'audio_findings'
    """
    place = Path(manifest).absolute().parent
    is_own = place.is_relative_to(Path(run_folder).absolute())
    is_shared = not is_own and os.access(place, os.W_OK)
    return (place if is_shared else cache_folder()) / FINDINGS


def shared_cache(what, paths):
    """Name the file of the lengths that preparations read.

    Arguments
    ---------
    what : str
        Kind of cache: ``headers`` or ``noise``.
    paths : iterable of str or Path
        The audio.

    Returns
    -------
    Path or None
        A file that all runs append to; None if there can be none.

    Example
    -------
    >>> shared_cache("headers", ["/corpora/mine/a.wav", "/corpora/mine/b.wav"])
    PosixPath('...headers-mine-a8d5e701c460.jsonl')
    """
    folder = cache_folder() / FINDINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning(f"{folder}: cannot be made: {error.strerror}")
        return None
    if not os.access(folder, os.W_OK):
        return None
    return _named(folder, what, paths, "jsonl")


def _named(folder, what, paths, suffix, *about):
    """Name a file by the folder that holds all paths."""
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}
    try:
        root = os.path.commonpath(folders)
    except ValueError:  # no path, or several drives
        root = os.sep
    name = os.path.basename(root) or "root"
    digest = digest_of([root, *about])[:12]
    return Path(folder) / f"{what}-{name}-{digest}.{suffix}"


def identities(paths):
    """Tell by which one notices that files have changed.

    Arguments
    ---------
    paths : iterable of str
        The files.

    Returns
    -------
    dict
        Path to its size and its time of change in ns; None if it is gone.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> _ = path.write_bytes(b"12")
    >>> found = identities([str(path), "gone.wav"])
    >>> found[str(path)].split()[0], found["gone.wav"]
    ('2', None)
    """
    paths = list(dict.fromkeys(paths))
    tasks = [
        paths[start : start + _FILES_PER_TASK]
        for start in range(0, len(paths), _FILES_PER_TASK)
    ]
    with ThreadPoolExecutor(_N_THREADS) as pool:
        found = pool.map(lambda task: [_identity(path) for path in task], tasks)
        return {
            path: identity
            for task, some in zip(tasks, found)
            for path, identity in zip(task, some)
        }


def _identity(path):
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return f"{status.st_size} {status.st_mtime_ns}"


def read_findings(path, keys):
    """Read findings; None if there are none that can be trusted.

    Arguments
    ---------
    path : str or Path
        A file that :func:`write_findings` wrote.
    keys : collection of str
        What must be in it.

    Returns
    -------
    dict or None

    Example
    -------
    >>> path = getfixture("tmp_path") / "found.json"
    >>> write_findings(path, {"n": 1})
    >>> read_findings(path, ["n"])
    {'n': 1}
    >>> read_findings(path, ["another program's"]) is None
    True
    """
    try:
        found = read_state(path)
        if not set(keys) <= found.keys():
            raise DamagedError(f"{path}: expected {', '.join(keys)} in it")
        return found
    except FileNotFoundError:
        return None
    except (OSError, InputError) as error:
        logger.warning(f"{error}; the audio is read again")
        return None


def write_findings(path, findings):
    """Keep findings, if the folder can be written; of two, the last counts.

    Arguments
    ---------
    path : str or Path
        The file.
    findings : dict
        Of types that JSON knows.
    """
    try:
        write_state(path, findings)
    except OSError as error:
        logger.warning(
            f"{path}: cannot be written ({error.strerror}): other runs will "
            "read this audio again. MERIT_CACHE names another folder"
        )


class FileFindings:
    """What was found when files were read, whoever read them.

    Arguments
    ---------
    folder : str or Path
        See :func:`findings_folder`.
    files : dict
        Path to identity, from :func:`identities`.
    settings : list
        How they are read, as plain values.

    Example
    -------
    >>> folder, files = getfixture("tmp_path"), {"/audio/a.wav": "2 17"}
    >>> findings = FileFindings(folder, files, [16000])
    >>> findings.add({"/audio/a.wav": (None, {"loud": "very loud"})})
    >>> FileFindings(folder, files, [16000]).of("/audio/a.wav")
    (None, {'loud': 'very loud'})
    >>> FileFindings(folder, {"/audio/a.wav": "2 18"}, [16000]).of(
    ...     "/audio/a.wav") is None
    True
    """

    def __init__(self, folder, files, settings):
        self._files = files
        self.path = _named(folder, "files", files, "json", settings)
        self._known = {}
        self._read()

    def _read(self):
        found = read_findings(self.path, ("read", "problems", "doubts"))
        for path, identity in found["read"].items() if found else ():
            said = found["problems"].get(path), found["doubts"].get(path, {})
            self._known.setdefault(path, (identity, *said))

    def of(self, path):
        """Return a file's problem and doubts, or None if it is not known."""
        known = self._known.get(path)
        if known is None or known[0] != self._files.get(path):
            return None
        return known[1:]

    def add(self, found):
        """Keep what was found in more files.

        Arguments
        ---------
        found : dict
            Path to problem (str or None) and doubts (kind to sentence).
        """
        new = {p: said for p, said in found.items() if self.of(p) is None}
        if not new:
            return
        for path, said in new.items():
            self._known[path] = (self._files.get(path), *said)
        self._read()  # what another run has found since
        # A file that is not there now may come.
        known = [(p, said) for p, said in self._known.items() if said[0]]
        write_findings(
            self.path,
            {
                "read": {path: said[0] for path, said in known},
                "problems": {p: said[1] for p, said in known if said[1]},
                "doubts": {p: said[2] for p, said in known if said[2]},
            },
        )

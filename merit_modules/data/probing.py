"""Read the headers of many audio files, and never one of them twice."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from merit_modules.data.audio import probe_audio
from merit_modules.data.findings import shared_cache
from merit_modules.errors import InputError

_FILES_PER_TASK = 64
_LONGEST_S = 1e6  # as read_manifest has it


def probe_many(files, cache_path=None, n_workers=8, desc="reading headers"):
    """Read the headers of many audio files: how long is each?

    Arguments
    ---------
    files : dict
        ``{id: path}``.
    cache_path : str or Path, optional
        A text file that grows by a line for every header read, so that a
        stopped run goes on and a second one reads no header; by default one
        that all runs share. A line counts as long as path, size and time of
        change are the same; one that cannot be read is dropped.
    n_workers : int
        Threads. On a network disk they mostly wait, so that more than there
        are cores are of use.
    desc : str
        Text of the progress bar.

    Returns
    -------
    durations_s : dict
        ``{id: seconds}``, rounded to 4 digits, in the order of ``files``.
    problems : dict
        ``{id: message}`` of the files that cannot be used.

    Raises
    ------
    InputError
        If the cache cannot be written or ``n_workers`` is below 1.

    Example
    -------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", numpy.zeros(4000), 16000)
    >>> files = {"a": folder / "a.wav", "b": folder / "b.wav"}
    >>> durations_s, problems = probe_many(files, folder / "cache.jsonl")
    >>> durations_s, list(problems)
    ({'a': 0.25}, ['b'])
    """
    if n_workers < 1:
        raise InputError(f"n_workers: expected 1 or more, got {n_workers!r}")
    cache_path = cache_path or shared_cache("headers", files.values())
    known = {} if cache_path is None else read_cache(cache_path)
    ids = list(files)
    chunks = [
        ids[start : start + _FILES_PER_TASK]
        for start in range(0, len(ids), _FILES_PER_TASK)
    ]
    durations_s, problems = {}, {}

    def probe_chunk(chunk):
        return [_probe(files[item], known) for item in chunk]

    with (
        open_cache(cache_path) as cache,
        ThreadPoolExecutor(n_workers) as pool,
        # Closed early, it calls off what has not begun.
        closing(pool.map(probe_chunk, chunks)) as results,
        tqdm(total=len(ids), desc=desc, dynamic_ncols=True) as bar,
    ):
        for chunk, found in zip(chunks, results, strict=True):
            for item, (duration_s, problem, line) in zip(chunk, found):
                if problem is None:
                    durations_s[item] = duration_s
                else:
                    problems[item] = problem
                if line and cache:
                    cache.write(line)
            if cache:
                cache.flush()
            bar.update(len(chunk))
    return durations_s, problems


def _probe(path, known):
    """Return duration, problem and, of a header read now, the cache's line."""
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
        key = [path, status.st_size, status.st_mtime_ns]
        size, mtime_ns, duration_s = known.get(path, (None, None, None))
        if [path, size, mtime_ns] == key:
            return duration_s, None, None
        duration_s = round(probe_audio(path)[0], 4)
    except FileNotFoundError:
        return None, f"{path}: there is no such audio file", None
    except InputError as error:
        return None, str(error), None
    except OSError as error:
        return None, f"{path}: cannot be read: {error.strerror}", None
    except UnicodeError:
        return None, f"{path!r}: a file's name has to be UTF-8 text", None
    if duration_s <= 0:
        return None, f"{path}: too short: less than 0.05 ms", None
    return duration_s, None, json.dumps([*key, duration_s]) + "\n"


def read_cache(path):
    """Read what is known of files; of two lines about one, the last counts.

    Arguments
    ---------
    path : str or Path
        The cache.

    Returns
    -------
    dict
        Path (str) to size, modification time in ns and duration in s.

    Raises
    ------
    InputError
        If it cannot be read.

    Example
    -------
    >>> read_cache("nowhere")
    {}
    """
    known = {}
    try:
        stream = open(path, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return known
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    with stream:
        for line in stream:
            try:
                name, size, mtime_ns, duration_s = json.loads(line)
                if type(name) is str and 0 < duration_s < _LONGEST_S:
                    known[name] = (size, mtime_ns, float(duration_s))
            except (ValueError, TypeError, RecursionError):
                continue
    return known


@contextmanager
def open_cache(path):
    """Open the cache to append whole lines; None if there is none.

    Arguments
    ---------
    path : str, Path or None
        The cache.

    Yields
    ------
    file or None
        To write lines to.

    Raises
    ------
    InputError
        If it cannot be written.

    Example
    -------
    >>> with open_cache(None) as stream:
    ...     stream is None
    True
    """
    if path is None:
        yield None
        return
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a", encoding="ascii")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error
    with stream:
        # What a stopped run left of its last line must not spoil the next.
        if _ends_within_a_line(path):
            stream.write("\n")
        yield stream


def _ends_within_a_line(path):
    with open(path, "rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"

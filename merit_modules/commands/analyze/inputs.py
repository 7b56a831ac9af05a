"""What a command is given to work on: files, folders, lists, standard input."""

import os
from collections import Counter
from typing import NamedTuple

from merit_modules.data.table import read_text
from merit_modules.data.text import key, trim
from merit_modules.errors import InputError
from merit_modules.files import find_audio

#: Standard input, and what it is called in results.
STANDARD_INPUT, STANDARD_INPUT_NAME = "-", "stdin"
#: Endings of text files that list paths.
LIST_ENDINGS = (".txt", ".lst")


class Job(NamedTuple):
    """A recording to work on.

    Arguments
    ---------
    file : str
        Its path as it was given: its name in the results.
    path : str
        The absolute path; ``-`` for standard input.
    stem : str
        Where its outputs go below the output folder, without an ending.
    """

    file: str
    path: str
    stem: str

    @property
    def key(self):
        """What tells it from any other."""
        return printable(self.path)


def printable(path):
    r"""Give a path as text that every text file can hold.

    Arguments
    ---------
    path : str or Path
        A path, of any bytes.

    Returns
    -------
    str
        The same, but bytes that are not UTF-8 are spelt out.

    Example
    -------
    >>> print(printable("Gl\u00fcck.wav"), printable("Gl\udcfcck.wav"))
    Glück.wav Gl\xfcck.wav
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def collect_jobs(inputs, is_output=None, tell=None):
    """List the recordings, each once however often it is given.

    Arguments
    ---------
    inputs : sequence of str
        Audio files, folders (all audio at any depth), text files that list
        paths, or ``-``.
    is_output : callable, optional
        Tells of a folder and a file in it whether it is a command's own
        output there, to be left out.
    tell : callable, optional
        Called with a sentence on what was passed over in a folder.

    Returns
    -------
    list of Job
        In the order given; a folder's in alphabetical order.

    Raises
    ------
    InputError
        If something named on the command line is not there, or holds no
        audio, or a list is not text.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a.wav", "b.wav"):
    ...     (folder / name).touch()
    >>> _ = (folder / "some.txt").write_text("# mine\\nb.wav\\n\\nc.wav\\n")
    >>> jobs = collect_jobs([f"{folder}/some.txt", str(folder), "-"])
    >>> [job.stem for job in jobs]
    ['b', 'c', 'a', 'stdin']
    >>> (folder / "a.flac").touch()
    >>> [job.stem for job in collect_jobs([str(folder)])]
    ['a.flac', 'a.wav', 'b']
    """
    jobs = {}
    for given in inputs:
        for job in _jobs_of(given, is_output, tell):
            jobs.setdefault(job.path, job)
    return _told_apart(list(jobs.values()))


def _told_apart(jobs):
    """Keep the ending where files differ in nothing else."""
    while True:
        n_same = Counter(key(job.stem) for job in jobs)
        again = [
            job._replace(stem=job.stem + os.path.splitext(job.path)[1])
            if n_same[key(job.stem)] > 1 and not _has_ending(job)
            else job
            for job in jobs
        ]
        if again == jobs:
            return jobs
        jobs = again


def _has_ending(job):
    return os.path.basename(job.stem) == os.path.basename(job.path)


def _jobs_of(given, is_output, tell):
    if given == STANDARD_INPUT:
        return [Job(STANDARD_INPUT_NAME, given, STANDARD_INPUT_NAME)]
    if os.path.isdir(given):
        return _in_folder(given, is_output, tell)
    if not os.path.exists(given):
        raise InputError(f"{given}: there is no such file or folder")
    if given.lower().endswith(LIST_ENDINGS):
        return _in_list(given, is_output, tell)
    return [_job(given, os.path.basename(given))]


def _job(path, relative):
    absolute = os.path.abspath(path)
    return Job(printable(path), absolute, os.path.splitext(relative)[0])


def _in_folder(folder, is_output, tell, below=""):
    files = [
        path
        for path in find_audio(folder, "recordings", tell)
        if is_output is None or not is_output(folder, path)
    ]
    if not files:
        raise InputError(
            f"{folder}: no audio file in this folder but those that were "
            "written by an earlier run"
        )
    return [
        _job(str(path), os.path.join(below, path.relative_to(folder)))
        for path in files
    ]


def _in_list(path, is_output, tell):
    lines = read_text(path, "text file with a path on each line")
    names = [trim(line) for line in lines.splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise InputError(f"{path}: no path in this list")
    jobs = []
    for name in names:
        listed = os.path.join(os.path.dirname(path), name)
        below = _below(name)
        if os.path.isdir(listed):
            jobs += _in_folder(listed, is_output, tell, below)
        else:
            jobs.append(_job(listed, below or os.path.basename(name)))
    return jobs


def _below(name):
    """Return where a listed path lies below its list; '' if elsewhere."""
    name = os.path.normpath(name)
    outside = os.path.isabs(name) or name.split(os.sep)[0] in ("..", ".")
    return "" if outside else name

"""What is done already: results that go on where they stopped.

A recording is announced in ``log.jsonl`` before any file of it is written,
then its files come, then its rows, then the log says that it is done.
Wherever that is cut short, what is not logged as done is dropped and done
again, and nobody else's file is taken for ours.
"""

import hashlib
import os
import threading
from pathlib import Path

from speechbrain.utils.fetching import LocalStrategy, fetch

from merit_modules.commands.analyze.result_files import (
    FORMATS,
    JsonLines,
    count_segments,
)
from merit_modules.data.state import DamagedError, read_state, write_state
from merit_modules.errors import InputError
from merit_modules.files import is_on_hub, naming_source
from merit_modules.pretrained import HPARAMS_FILE, WEIGHTS_FILE

LOG, ERRORS = "log.jsonl", "errors.jsonl"
STARTED, DONE = "started", "done"
_RESULTS = [name for results in FORMATS.values() for name in results.names]


class JobLog:
    """The folder of a command's results.

    Arguments
    ---------
    out : str or Path
        The folder; need not be there yet.

    Raises
    ------
    InputError
        If it is a file, or holds another program's under a name of ours.

    Example
    -------
    >>> from merit_modules.commands.analyze.inputs import Job
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> job = Job("a.wav", str(folder / "a.wav"), "a")
    >>> settings = {"command": "classify", "model_fingerprint": "1f3c"}
    >>> settings["settings"] = {"format": "jsonl"}
    >>> for _ in range(2):
    ...     log = JobLog(folder / "out")
    ...     log.check(settings)
    ...     todo = [] if log.is_done(job) else [job]
    ...     log.begin(todo)
    ...     for job in todo:
    ...         log.claim(job, [])
    ...         log.add(job, {"file": "a.wav", "label": "sad"})
    ...     print(len(todo))
    1
    0
    """

    def __init__(self, out):
        self.out = Path(out)
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: --out: expected a folder")
        self._log = JsonLines(self.out / LOG)
        self._errors = JsonLines(self.out / ERRORS)
        self._lock = threading.Lock()
        self._earlier = _read_settings(self.out, [LOG, ERRORS, *_RESULTS])
        self._settings = self._results = None
        self._overwrite = False
        self._segments = {}  # of each recording whose rows are whole
        # Of each recording (by its key), the last that the log says.
        self._entries = {e["key"]: e for e in self._log.read()}
        #: Files below the folder that are ours: whose they are.
        self.owners = {
            name: key
            for key, entry in self._entries.items()
            for name in entry["outputs"]
        }

    def check(self, settings, overwrite=False):
        """Compare what the results depend on; change nothing yet.

        Arguments
        ---------
        settings : dict
            See :func:`~merit_modules.commands.analyze.job_log.write_settings`.
        overwrite : bool
            Whether to start anew, whatever is there.

        Raises
        ------
        InputError
            If there are results that depend on something else.
        """
        self._settings, self._overwrite = settings, overwrite
        self._results = FORMATS[settings["settings"]["format"]](self.out)
        if overwrite:
            return
        if self._earlier is not None:
            _check_same(self.out, self._earlier, settings)
        self._segments = self._results.count_segments()

    def is_done(self, job):
        """Tell whether a recording is done and its results still there.

        Arguments
        ---------
        job : Job
            The recording.

        Returns
        -------
        bool
            False also if its file has changed since.
        """
        entry = self._entries.get(job.key)
        if self._overwrite or entry is None or entry["state"] != DONE:
            return False
        return (
            _version(job) == entry["version"] is not None
            and self._segments.get(self._results.written(entry["file"]))
            == entry["n_segments"]
            and all((self.out / name).is_file() for name in entry["outputs"])
        )

    def begin(self, todo):
        """Make the folder ready; drop what is broken, or is to be done again.

        Arguments
        ---------
        todo : list of Job
            What this run is going to do.

        Raises
        ------
        InputError
            If that would remove a recording that is to be read, or if a row's
            name would stand for two recordings.
        """
        if self._overwrite:
            self._remove_all(todo)
        self._check_names(todo)
        if self._earlier is None:
            _write_settings(self.out, self._settings)
        for job in todo:
            if job.key in self._entries:
                self._entries[job.key]["state"] = STARTED
        entries = self._entries.values()
        self._log.write(entries)
        done = {e["file"] for e in entries if e["state"] == DONE}
        self._results.keep(done)
        settled = done | {job.file for job in todo}
        self._errors.keep(lambda row: row["file"] not in settled)

    def _remove_all(self, todo):
        """Remove what is ours, the settings last."""
        read = {os.path.realpath(job.path): job.file for job in todo}
        for name in self.owners:
            if file := read.get(os.path.realpath(self.out / name)):
                raise InputError(
                    f"{file}: an earlier run wrote this file, which "
                    "--overwrite would remove; choose another --out"
                )
        for name in [*self.owners, *_RESULTS, ERRORS, LOG, SETTINGS]:
            (self.out / name).unlink(missing_ok=True)
        self._entries, self.owners, self._earlier = {}, {}, None

    def _check_names(self, todo):
        known = {e["file"]: key for key, e in self._entries.items()}
        for job in todo:
            if known.setdefault(job.file, job.key) != job.key:
                raise InputError(
                    f"{job.file}: {self.out} already tells of "
                    f"{known[job.file]} by this name; give the absolute path, "
                    "or choose another --out"
                )

    def claim(self, job, outputs):
        """Announce the files of a recording; may be called by any thread.

        Arguments
        ---------
        job : Job
            The recording.
        outputs : list of str
            Files below the folder that are going to be written.

        Raises
        ------
        InputError
            If one of them is there and was not written for this recording.
        """
        with self._lock:
            for name in outputs:
                is_ours = self.owners.get(name) == job.key
                if not is_ours and (self.out / name).exists():
                    self._check_foreign(job, name)
            self.owners |= dict.fromkeys(outputs, job.key)
            entry = self._entries[job.key] = {
                "key": job.key,
                "file": job.file,
                "state": STARTED,
                "version": _version(job),
                "outputs": outputs,
                "n_segments": 0,
            }
            self._log.append([entry])

    def _check_foreign(self, job, name):
        if name in self.owners:
            raise InputError(
                f"{job.file}: {self.out / name} was written for "
                f"{self.owners[name]}; choose another --out"
            )
        if not self._overwrite:
            raise InputError(
                f"{job.file}: {self.out / name} is there already and was not "
                "written by an earlier run; choose another --out, or replace "
                "it with --overwrite"
            )

    def add(self, job, told):
        """Write the results of a recording whose files are there.

        Arguments
        ---------
        job : Job
            A recording that was claimed.
        told : dict
            From ``Analysis.as_dict()``.
        """
        entry = self._entries[job.key]
        entry |= {"state": DONE, "n_segments": count_segments(told)}
        self._results.append(told)
        with self._lock:
            self._log.append([entry])

    def fail(self, job, message):
        """Write down why there is no result.

        Arguments
        ---------
        job : Job
            The recording.
        message : str
            The reason.
        """
        self._errors.append([{"file": job.file, "error": message}])


def _version(job):
    """Return size and time of change of a recording; None without a file."""
    try:
        found = os.stat(job.path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


SETTINGS = "settings.json"
_COMPARED = ("command", "model_fingerprint", "settings")


def _read_settings(out, other_names):
    """Read the settings of the results in a folder."""
    path = Path(out) / SETTINGS
    if not path.exists():
        for name in other_names:
            if path.with_name(name).exists():
                raise _foreign(path.with_name(name))
        return None
    try:
        found = read_state(path)
    except DamagedError:
        raise _foreign(path) from None
    if not set(_COMPARED) <= set(found):
        raise _foreign(path)
    return found


def _foreign(path):
    return InputError(
        f"{path}: this file was not written by merit, or is damaged; choose "
        "another --out"
    )


def _write_settings(out, settings):
    """Write the settings of the results in a folder, which is made."""
    write_state(Path(out) / SETTINGS, settings)


def _check_same(out, earlier, settings):
    """Compare settings."""
    there, here = _compared(earlier), _compared(settings)
    if there["command"] != here["command"]:
        here = {"command": here["command"]}
    differing = [
        f"{key}: {there.get(key)} there, {here.get(key)} here"
        for key in here
        if there.get(key) != here[key]
    ]
    if differing:
        raise InputError(
            f"{out}: holds the results of something else: "
            f"{'; '.join(differing)}. Choose another --out, or start anew "
            "with --overwrite"
        )


def _compared(settings):
    return {
        "command": settings["command"],
        "model_fingerprint": settings["model_fingerprint"],
        **settings["settings"],
    }


_BLOCK = 2**22
_A_MODEL = "the folder of a model"


def check_source(source):
    """Raise if a model can neither be a folder nor a name on the hub.

    Arguments
    ---------
    source : str
        What was given.

    Raises
    ------
    InputError
        If so; nothing is asked of the network.

    Example
    -------
    >>> check_source("owner/name")
    >>> check_source("gone")
    Traceback (most recent call last):
    merit_modules.errors.InputError: gone: expected the folder of a model, ...
    """
    if is_on_hub(source, _A_MODEL):
        return
    path = Path(source) / HPARAMS_FILE
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected {_A_MODEL} (merit export makes "
            "one of a finished run)"
        )


def fingerprint_model(source):
    """Hash the files that decide what a model says.

    Arguments
    ---------
    source : str
        Its folder, or ``owner/name`` on the hub.

    Returns
    -------
    str
        The same for the same YAML file and weights, wherever they lie.

    Raises
    ------
    InputError
        If there is no model.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in (HPARAMS_FILE, WEIGHTS_FILE):
    ...     _ = (folder / name).write_text("once")
    >>> before = fingerprint_model(str(folder))
    >>> _ = (folder / WEIGHTS_FILE).write_text("twice")
    >>> before == fingerprint_model(str(folder))
    False
    """
    check_source(source)
    digest = hashlib.blake2b(digest_size=16)
    for path in _files(source):
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _files(source):
    if not is_on_hub(source, _A_MODEL):
        weights = sorted(Path(source).glob("*.safetensors"))
        return [Path(source) / HPARAMS_FILE, *weights]
    with naming_source(source, _A_MODEL):
        return [
            Path(fetch(name, source, local_strategy=LocalStrategy.NO_LINK))
            for name in (HPARAMS_FILE, WEIGHTS_FILE)
        ]

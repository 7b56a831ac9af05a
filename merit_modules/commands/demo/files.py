"""Files of the page's visitors: private while needed, and then gone."""

import contextlib
import shutil
import tempfile
import threading
import time
from pathlib import Path

from merit_modules.errors import InputError

_RESULT = "result-"  # how folders of results begin
_SLACK_S = 2.0  # by how much a file's time can lag behind the clock


class SessionFiles:
    """Knows which visitor's page needs which file, and deletes the others.

    An upload lives until its page has another one or is closed. Results live
    in a folder of their own, likewise. A file that two visitors uploaded
    alike is stored once: it goes with the last. Where all together are too
    many or too large, the oldest go: first those that no page holds, never
    those that are being worked on.

    Arguments
    ---------
    root : str or Path
        The private folder that holds uploads and results.
    max_bytes : float
        Most bytes of all files.
    max_files : int
        Most uploads and folders of results.

    Example
    -------
    >>> root = getfixture("tmp_path")
    >>> files = SessionFiles(root)
    >>> _ = (root / "a.wav").write_bytes(b"speech")
    >>> for visitor in ("ann", "bob"):
    ...     _ = files.claim(visitor, root / "a.wav")
    >>> files.end("ann")
    >>> (root / "a.wav").exists()
    True
    >>> files.end("bob")
    >>> (root / "a.wav").exists()
    False
    """

    def __init__(self, root, max_bytes=float("inf"), max_files=200):
        self.root = Path(root).resolve()
        self.max_bytes, self.max_files = max_bytes, max_files
        self._lock = threading.RLock()
        self._uploads = {}  # session: its upload
        self._claimed = {}  # upload: when what was claimed was written
        self._results = {}  # session: folder of its results
        self._working = set()  # sessions whose results are being made
        self._lent = []  # what is being worked on: uploads and folders
        self._coming = {}  # upload that is coming in: its size and start

    def store(self, name, content):
        """Keep a file as if it had been uploaded.

        Arguments
        ---------
        name : str
            What it is called.
        content : bytes
            What is in it.

        Returns
        -------
        str
            The file.
        """
        with self.admit(len(content)):
            path = Path(tempfile.mkdtemp(dir=self.root)) / name
            path.write_bytes(content)
        return str(path)

    def claim(self, session, upload):
        """Keep an upload until its session lets go of it.

        Arguments
        ---------
        session : str
            The visitor's page.
        upload : str, Path or None
            The file; None lets go of the one before.

        Returns
        -------
        Path or None
            The file.

        Raises
        ------
        InputError
            If it is gone, or was never uploaded here.
        """
        path = None if upload is None else Path(upload).resolve()
        with self._lock:
            if self._uploads.get(session) != path:
                self._release(session)
            if path is None:
                return None
            if not path.is_relative_to(self.root) or not path.is_file():
                raise InputError(
                    f"{path.name}: this upload is not here any more; please "
                    "upload it again"
                )
            self._uploads[session] = path
            self._claimed[path] = path.stat().st_mtime_ns
        return path

    def _release(self, session):
        path = self._uploads.pop(session, None)
        if path is not None:
            self._drop(path)

    def _drop(self, upload):
        """Delete an upload that no page holds and nobody works on.

        One that has been written again since it was claimed is another
        visitor's, who will claim it.
        """
        if upload in self._uploads.values() or upload in self._lent:
            return
        claimed = self._claimed.pop(upload, None)
        with contextlib.suppress(FileNotFoundError):
            if upload.stat().st_mtime_ns == claimed:
                self._delete(upload)

    @contextlib.contextmanager
    def work(self, session, upload):
        """Lend an upload and a folder for what is made of it.

        Afterwards the folder replaces the session's earlier one; it goes if
        there was an error. Both go if the page was closed meanwhile.

        Arguments
        ---------
        session : str
            The visitor's page.
        upload : str or Path
            The file.

        Yields
        ------
        upload : Path
            The file.
        folder : Path
            An empty folder.

        Raises
        ------
        InputError
            See :meth:`claim`.
        """
        with self._lock:
            upload = self.claim(session, upload)
            folder = Path(tempfile.mkdtemp(prefix=_RESULT, dir=self.root))
            self._working.add(session)
            self._lent += [upload, folder]
        old = folder
        try:
            yield upload, folder
            with self._lock:
                if session in self._working:
                    old = self._results.get(session)
                    self._results[session] = folder
        finally:
            with self._lock:
                self._lent.remove(upload)
                self._lent.remove(folder)
                if session not in self._working:  # its page was closed
                    self._uploads.pop(session, None)
                self._working.discard(session)
                self._drop(upload)
                if old is not None:
                    self._delete(old)
                self._make_room()

    def check_wanted(self, session):
        """Raise if nobody waits for the results of a session any more.

        Arguments
        ---------
        session : str
            The visitor's page.

        Raises
        ------
        InputError
            If its page was closed, or all are.
        """
        if session not in self._working:
            raise InputError("the page was closed")

    def close(self):
        """Let no work go on."""
        with self._lock:
            self._working.clear()

    def end(self, session):
        """Delete all that a session has.

        Arguments
        ---------
        session : str
            The visitor's page.
        """
        with self._lock:
            if session not in self._working:
                self._release(session)
            self._working.discard(session)
            folder = self._results.pop(session, None)
            if folder is not None:
                self._delete(folder)

    @contextlib.contextmanager
    def admit(self, n_bytes):
        """Make room for an upload while it comes in.

        Arguments
        ---------
        n_bytes : int
            Its size, or the largest that it may have.

        Raises
        ------
        InputError
            If there is no room, whatever is deleted.
        """
        token = object()
        with self._lock:
            if not self._make_room(n_bytes, n_new=1):
                raise InputError(
                    "there is no room for more recordings at the moment; "
                    "please try again later"
                )
            self._coming[token] = n_bytes, time.time()
        try:
            yield
        finally:
            with self._lock:
                del self._coming[token]
                self._sweep()

    def _make_room(self, n_bytes=0, n_new=0):
        """Delete the oldest until there is room; tell whether there is."""
        kept = [_Kept(path) for path in self._kept()]
        n_files = len(kept) + len(self._coming) + n_new
        total = sum(one.n_bytes for one in kept) + n_bytes
        total += sum(size for size, _ in self._coming.values())
        held = {*self._uploads.values(), *self._results.values()}
        kept.sort(key=lambda one: (one.path in held, one.time))
        for one in kept:
            if total <= self.max_bytes and n_files <= self.max_files:
                return True
            if one.path not in self._lent:
                self._forget(one.path)
                total, n_files = total - one.n_bytes, n_files - 1
        return total <= self.max_bytes and n_files <= self.max_files

    def _kept(self):
        """Yield uploads, each in a folder of its own, and results."""
        for path in _inside(self.root):
            if path.name.startswith(_RESULT):
                yield path
            elif path.is_dir():
                yield from _inside(path)

    def _forget(self, path):
        for known in (self._uploads, self._results):
            for session in [s for s, one in known.items() if one == path]:
                del known[session]
        self._claimed.pop(path, None)
        self._delete(path)

    def _delete(self, path):
        """Delete a file or a folder, and the folder around it if empty."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def _remove_empty(self, folder):
        # An upload that comes in may be about to go there.
        if folder != self.root and not self._coming:
            with contextlib.suppress(OSError):  # others' files are in it
                folder.rmdir()

    def _sweep(self):
        """Delete what uploads that broke off have left behind."""
        oldest = min((at for _, at in self._coming.values()), default=None)
        for path in _inside(self.root):
            if path.is_dir() and path not in self._lent:
                self._remove_empty(path)
            elif path.is_file() and path not in self._uploads.values():
                with contextlib.suppress(FileNotFoundError):
                    written = path.stat().st_mtime
                    if oldest is None or written < oldest - _SLACK_S:
                        path.unlink()


class _Kept:
    """A file, or a folder of files, with its size and age."""

    def __init__(self, path):
        self.path, self.n_bytes, self.time = path, 0, 0.0
        with contextlib.suppress(FileNotFoundError):  # it has just gone
            for file in _inside(path) if path.is_dir() else [path]:
                found = file.stat()
                self.n_bytes += found.st_size
                self.time = max(self.time, found.st_mtime)


def _inside(folder):
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []

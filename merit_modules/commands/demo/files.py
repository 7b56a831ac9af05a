"""Files of the page's visitors: private while needed, and then gone."""

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

from merit_modules.errors import InputError


class SessionFiles:
    """Knows which visitor's page needs which file, and deletes the others.

    An upload is deleted when it is analysed or its page closed. Results live
    in a folder of their own, until the page has others or is closed. A file
    that two visitors uploaded alike is stored once: it goes with the last.

    Arguments
    ---------
    root : str or Path
        The private folder that holds uploads and results.

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

    def __init__(self, root):
        self.root = Path(root).resolve()
        self._lock = threading.Lock()
        self._uploads = {}  # session: its upload
        self._results = {}  # session: folder of its results
        self._working = set()  # sessions whose results are being made

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
        return path

    def _release(self, session):
        path = self._uploads.pop(session, None)
        if path is not None and path not in self._uploads.values():
            path.unlink(missing_ok=True)
            if path.parent != self.root:
                with contextlib.suppress(OSError):  # others' files are in it
                    path.parent.rmdir()

    @contextlib.contextmanager
    def work(self, session, upload):
        """Lend an upload and a folder for what is made of it.

        Afterwards the upload is deleted; the folder replaces the session's
        earlier one, or goes as well if there was an error or the page was
        closed meanwhile.

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
        upload = self.claim(session, upload)
        folder = Path(tempfile.mkdtemp(prefix="result-", dir=self.root))
        with self._lock:
            self._working.add(session)
        old = folder
        try:
            yield upload, folder
            with self._lock:
                if session in self._working:
                    old = self._results.get(session)
                    self._results[session] = folder
        finally:
            with self._lock:
                self._working.discard(session)
                self._release(session)
            if old is not None:
                shutil.rmtree(old)

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
            shutil.rmtree(folder)

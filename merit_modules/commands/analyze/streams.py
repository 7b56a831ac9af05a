"""Standard input and output, and what must not get into them."""

import contextlib
import logging
import shutil
import struct
import sys
import warnings
from pathlib import Path

#: Libraries that tell how they load a model.
_TALKATIVE = ("speechbrain", "transformers", "huggingface_hub")
# What a WAV header says of a length that nobody knows yet.
_UNKNOWN = b"\xff\xff\xff\xff"


def spool_input(folder):
    """Write standard input to a file, so that it can be read as any other.

    A WAV file that comes through a pipe need not know its length.

    Arguments
    ---------
    folder : str or Path
        Where the file goes.

    Returns
    -------
    Path
        The file.
    """
    path = Path(folder) / "stdin.wav"
    with open(path, "wb") as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream, 2**20)
    with open(path, "r+b") as stream:
        _mend_length(stream)
    return path


def _mend_length(stream):
    """Turn 0 bytes of samples into an unknown number, if some follow.

    Some programs write 0 first and the length when all is written, which
    they cannot do through a pipe. (Others say unknown, which is read right.)
    """
    if stream.read(12)[8:] != b"WAVE":
        return
    while len(head := stream.read(8)) == 8:
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            if size == 0 and stream.read(1):
                stream.seek(-5, 1)
                stream.write(_UNKNOWN)
            return
        stream.seek(size + size % 2, 1)


class DataOutput:
    """Standard output for results alone: whatever else is printed goes to
    standard error in the meantime.

    Example
    -------
    >>> with DataOutput() as output:  # doctest: +SKIP
    ...     print("loading...")
    ...     output.write_line("{}")
    """

    def __init__(self):
        self._stack = contextlib.ExitStack()
        self._stream = None

    def __enter__(self):
        self._stream = sys.stdout
        self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(self, *error):
        self._stack.close()

    @property
    def is_terminal(self):
        """Whether somebody looks on."""
        return self._stream.isatty()

    def write_line(self, text):
        """Write a line of UTF-8, so that it can be read at once."""
        self._stream.buffer.write(text.encode() + b"\n")
        self._stream.flush()

    def write_file(self, path):
        """Write what a file holds."""
        with open(path, "rb") as stream:
            shutil.copyfileobj(stream, self._stream.buffer, 2**20)
        self._stream.flush()


@contextlib.contextmanager
def quiet_libraries():
    """Keep libraries from telling what they do; errors still come through.

    Example
    -------
    >>> with quiet_libraries():
    ...     logging.getLogger("speechbrain").warning("never heard of")
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)

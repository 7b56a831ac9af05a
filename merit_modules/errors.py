"""The one exception that tells a user what to change.

Whatever a user can get wrong (a path, a label, a file, a YAML key) ends in an
:class:`InputError`. The training commands print its message alone, without a
traceback; everywhere else it is a ``ValueError`` like any other.
"""

import errno


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message names the file or key, what was expected and what came.

    Example
    -------
    >>> raise InputError("snr_db: expected a number, got 'loud'")
    Traceback (most recent call last):
    merit_modules.errors.InputError: snr_db: expected a number, got 'loud'
    """


def told(error):
    """Say in one message what a user can mend.

    Arguments
    ---------
    error : BaseException
        What ended a command.

    Returns
    -------
    str or None
        The message; None for what is a fault of the program.

    Example
    -------
    >>> told(FileNotFoundError(2, "No such file or directory", "run/a.json"))
    'run/a.json: No such file or directory'
    >>> told(ZeroDivisionError()) is None
    True
    """
    if isinstance(error, InputError):
        # One that comes from a loader's worker brings its traceback along.
        return str(error).rsplit("InputError: ", 1)[-1].strip()
    if not isinstance(error, OSError) or error.strerror is None:
        return None
    if error.errno == errno.ENOSPC:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}the disk is full; nothing saved is lost"
    return f"{error.filename or 'a file'}: {error.strerror}"

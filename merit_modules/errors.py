"""The one exception that tells a user what to change.

Whatever a user can get wrong (a path, a label, a file, a YAML key) ends in an
:class:`InputError`. The training commands print its message alone, without a
traceback; everywhere else it is a ``ValueError`` like any other.
"""


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message names the file or key, what was expected and what came.

    Example
    -------
    >>> raise InputError("snr_db: expected a number, got 'loud'")
    Traceback (most recent call last):
    merit_modules.errors.InputError: snr_db: expected a number, got 'loud'
    """

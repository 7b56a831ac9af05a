"""Whether parts may take their fast path."""

import os


def is_allowed():
    """Tell whether fast paths may be taken.

    They give the same numbers as the plain ones up to rounding. The
    environment variable ``MERIT_FAST_PATH=0`` turns them off wherever they
    are, to look for the cause of a difference.

    Returns
    -------
    bool
        True unless the variable is 0.

    Example
    -------
    >>> is_allowed() in (True, False)
    True
    """
    return os.environ.get("MERIT_FAST_PATH", "1") != "0"

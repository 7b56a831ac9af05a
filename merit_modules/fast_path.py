"""Whether parts take their fast path where nobody says."""

import os


def enabled_by_default():
    """Tell whether fast paths are on.

    They give the same numbers as the plain ones up to rounding. The
    environment variable ``MERIT_FAST_PATH=0`` turns them off, to look for the
    cause of a difference.

    Returns
    -------
    bool
        True unless the variable is 0.

    Example
    -------
    >>> enabled_by_default() in (True, False)
    True
    """
    return os.environ.get("MERIT_FAST_PATH", "1") != "0"

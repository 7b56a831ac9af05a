"""Where a release lies: in a local folder, or on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from merit_modules.errors import InputError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(source):
    """Give the folder of a release, fetched from the hub where it must be.

    What was fetched before is taken from the hub's cache, also without a
    network. A local folder of that name goes before the hub.

    Arguments
    ---------
    source : str or Path
        A folder, or ``owner/name`` of a repository.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If it is neither, or cannot be fetched.

    Example
    -------
    >>> local_folder(getfixture("tmp_path")).is_dir()
    True
    >>> local_folder("/nowhere/at/all")
    Traceback (most recent call last):
    merit_modules.errors.InputError: /nowhere/at/all: expected a folder...
    """
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists() or not _HUB_NAME.fullmatch(str(source)):
        raise InputError(
            f"{source}: expected a folder, or owner/name of a repository on "
            "the Hugging Face hub"
        )
    try:
        return Path(snapshot_download(str(source)))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{source}: no such folder here, and it cannot be fetched from "
            f"the hub: {reason}"
        ) from error

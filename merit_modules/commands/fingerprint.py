"""What tells one model from another: a hash of its files."""

import hashlib
import re
from pathlib import Path

from speechbrain.utils.fetching import LocalStrategy, fetch

from merit_modules.errors import InputError
from merit_modules.pretrained import HPARAMS_FILE, WEIGHTS_FILE

_BLOCK = 2**22
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


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
    folder = Path(source)
    if not folder.exists() and not _HUB_NAME.fullmatch(source):
        raise InputError(
            f"{source}: expected the folder of a model, or its name on the "
            "hub (owner/name); there is no such folder"
        )
    if folder.exists() and not (folder / HPARAMS_FILE).is_file():
        raise InputError(
            f"{folder / HPARAMS_FILE}: no such file; expected the folder of a "
            "model (merit export makes one of a finished run)"
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
    folder = Path(source)
    if folder.exists():
        weights = sorted(folder.glob("*.safetensors"))
        return [folder / HPARAMS_FILE, *weights]
    try:
        return [
            Path(fetch(name, source, local_strategy=LocalStrategy.NO_LINK))
            for name in (HPARAMS_FILE, WEIGHTS_FILE)
        ]
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{source}: expected the folder of a model, or its name on the "
            f"hub: {reason}"
        ) from error

"""What tells one model from another: a hash of its files."""

import hashlib
from pathlib import Path

from speechbrain.utils.fetching import LocalStrategy, fetch

from merit_modules.errors import InputError
from merit_modules.pretrained import HPARAMS_FILE, WEIGHTS_FILE

_BLOCK = 2**22


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
        if not (folder / HPARAMS_FILE).is_file():
            raise InputError(
                f"{folder / HPARAMS_FILE}: no such file; expected the folder "
                "of a model (merit export makes one of a finished run)"
            )
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

"""What a folder of results hangs on, written down in ``settings.json``."""

import json
from pathlib import Path

from merit_modules.data.manifest import write_atomically
from merit_modules.errors import InputError

SETTINGS = "settings.json"
_COMPARED = ("command", "model_fingerprint", "settings")


def read_settings(out, other_names):
    """Read the settings of the results in a folder.

    Arguments
    ---------
    out : str or Path
        The folder.
    other_names : sequence of str
        Files that cannot be ours if there are no settings.

    Returns
    -------
    dict or None
        The settings; None if there are no results yet.

    Raises
    ------
    InputError
        If one of the files was written by another program.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> read_settings(folder, ["results.csv"])
    >>> _ = (folder / SETTINGS).write_text('{"theme": "dark"}')
    >>> read_settings(folder, ["results.csv"])
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...not written by merit; choose another...
    """
    path = Path(out) / SETTINGS
    if not path.exists():
        for name in other_names:
            if path.with_name(name).exists():
                raise _foreign(path.with_name(name))
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(_COMPARED) <= set(found):
        raise _foreign(path)
    return found


def _foreign(path):
    return InputError(
        f"{path}: this file was not written by merit; choose another --out"
    )


def write_settings(out, settings):
    """Write the settings of the results in a folder, which is made.

    Arguments
    ---------
    out : str or Path
        The folder.
    settings : dict
        ``command``, ``model_fingerprint``, ``settings`` (all compared), and
        what else is good to know.
    """
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    write_atomically(Path(out) / SETTINGS, text + "\n")


def check_same(out, earlier, settings):
    """Compare settings.

    Arguments
    ---------
    out : str or Path
        The folder, for the message.
    earlier : dict
        Of the results that are there.
    settings : dict
        Of those that are wanted.

    Raises
    ------
    InputError
        If they differ, saying in what.

    Example
    -------
    >>> there = {"command": "classify", "model_fingerprint": "1f3c"}
    >>> there["settings"] = {"segment_seconds": 3.0}
    >>> check_same("out", there, {**there, "command": "enhance"})
    Traceback (most recent call last):
    merit_modules.errors.InputError: out: holds the results of something else:
    command: classify there, enhance here. Choose another --out, or ...
    """
    there, here = _compared(earlier), _compared(settings)
    if there["command"] != here["command"]:
        here = {"command": here["command"]}
    differing = [
        f"{key}: {there.get(key)} there, {here.get(key)} here"
        for key in here
        if there.get(key) != here[key]
    ]
    if differing:
        raise InputError(
            f"{out}: holds the results of something else: "
            f"{'; '.join(differing)}. Choose another --out, or start anew "
            "with --overwrite"
        )


def _compared(settings):
    return {
        "command": settings["command"],
        "model_fingerprint": settings["model_fingerprint"],
        **settings["settings"],
    }

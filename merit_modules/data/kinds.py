"""What a single value has to be, in words and as a check."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import NamedTuple

from merit_modules.errors import InputError


class Kind(NamedTuple):
    """What a value has to be.

    Arguments
    ---------
    told : str
        In words, to follow "expected".
    accepts : callable
        Says whether a value is one.
    read : callable
        Makes a value of text.
    note : callable
        Says what else a user should know whose value is none.

    Example
    -------
    >>> number(above=0).check("lr", -1)
    Traceback (most recent call last):
    merit_modules.errors.InputError: lr: expected a number above 0, got -1
    """

    told: str
    accepts: Callable
    read: Callable = str
    note: Callable = str

    def problem(self, value):
        """Say what is wrong with a value; None if nothing is."""
        if self.accepts(value):
            return None
        shown = "null" if value is None else repr(value)
        if len(shown) > 200:
            shown = f"{shown[:200]}..."
        return f"expected {self.told}, got {shown}{self.note()}"

    def check(self, name, value):
        """Return a value; raise an ``InputError`` if something is wrong."""
        problem = self.problem(value)
        if problem:
            raise InputError(f"{name}: {problem}")
        return value

    def option(self, text):
        """Read a value from a command line: ``type`` of argparse."""
        try:
            value = self.read(text)
        except ValueError:
            value = text
        problem = self.problem(value)
        if problem:
            raise argparse.ArgumentTypeError(problem)
        return value


def number(
    told="a number", above=None, least=None, below=None, most=None, of=Real
):
    """Make the kind of a finite number within bounds.

    Arguments
    ---------
    told : str
        In words, without the bounds.
    above, least, below, most : float, optional
        The bounds: the first and third are none of the numbers themselves.
    of : type
        ``numbers.Real`` or ``numbers.Integral``; ``True`` is neither.

    Returns
    -------
    Kind
        The kind.

    Example
    -------
    >>> number("seconds", above=0, below=60).told
    'seconds above 0 and below 60'
    >>> number(least=0, most=1).told, number(least=1).told
    ('a number from 0 to 1', 'a number, 1 or more')
    """
    if most is not None:
        told += f" from {least} to {most}"
    elif least is not None:
        told += f", {least} or more"
    told += "" if above is None else f" above {above}"
    if below is not None:
        told += f" and below {below}"

    def accepts(value):
        return (
            isinstance(value, of)
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max  # neither NaN nor infinite
            and (above is None or value > above)
            and (least is None or value >= least)
            and (below is None or value < below)
            and (most is None or value <= most)
        )

    return Kind(told, accepts, int if of is Integral else float)


def whole(least=None, most=None, told="a whole number"):
    """Make the kind of a whole number.

    Example
    -------
    >>> whole(1).told, whole(0).accepts(True)
    ('a whole number, 1 or more', False)
    """
    return number(told, least=least, most=most, of=Integral)


def one_of(*values):
    """Make the kind of a choice.

    Example
    -------
    >>> one_of("noisy", "enhanced").told
    'one of noisy, enhanced'
    """
    return Kind(
        f"one of {', '.join(values)}",
        lambda value: isinstance(value, str) and value in values,
    )


def list_of(told, kind, least=0):
    """Make the kind of a list of different values.

    Example
    -------
    >>> list_of("names, such as [test_unseen]", TEXT, 1).told
    'a list of different names, such as [test_unseen], 1 or more'
    """

    def accepts(value):
        return (
            isinstance(value, list | tuple)
            and all(map(kind.accepts, value))
            and least <= len(set(value)) == len(value)
        )

    told += f", {least} or more" if least else ""
    return Kind(f"a list of different {told}", accepts)


def pair(told, kind):
    """Make the kind of two numbers, of which the second is not the smaller.

    Example
    -------
    >>> pair("dB", number("dB")).told
    'a pair [low, high] of dB'
    """

    def accepts(value):
        return (
            isinstance(value, list | tuple)
            and len(value) == 2
            and all(map(kind.accepts, value))
            and value[0] <= value[1]
        )

    return Kind(f"a pair [low, high] of {told}", accepts)


def either(*kinds):
    """Make the kind of what is of one of several kinds.

    Example
    -------
    >>> either(NULL, whole(1)).told
    'null or a whole number, 1 or more'
    """
    return Kind(
        " or ".join(kind.told for kind in kinds),
        lambda value: any(kind.accepts(value) for kind in kinds),
        note=lambda: "".join(kind.note() for kind in kinds),
    )


def _is_path(value):
    return isinstance(value, str | os.PathLike) and "\0" not in str(value)


def _can_be_folder(value):
    if not _is_path(value) or not str(value):
        return False
    path = Path(value).absolute()
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    return there.is_dir()


def _is_device(value):
    # Late: nobody else here needs it, and the commands' help does without.
    import torch

    if isinstance(value, int):  # PyTorch takes one, SpeechBrain does not
        return False
    try:
        device = torch.device(value)
        if device.type == "cuda":  # without waking it
            return (device.index or 0) < torch.cuda.device_count()
        torch.empty(1, device=device).item()
    except (RuntimeError, TypeError, AssertionError, ImportError):
        return False
    return True


def _devices_here():
    import torch

    names = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    if not names and not (torch.version.cuda or torch.version.hip):
        return "; this PyTorch is built for CPUs alone"
    return f"; PyTorch finds {', '.join(names) or 'no GPU'}"


def numbered(run_opts, hparams=None):
    """Give a GPU that is called ``cuda`` the number that SpeechBrain wants.

    That of the process on this machine under torchrun, where SpeechBrain takes
    GPU 0 for all, else 0, where it complains.

    Arguments
    ---------
    run_opts : RunOptions or dict or None
        SpeechBrain's options.
    hparams : dict, optional
        Where ``device`` may be, if not there.

    Returns
    -------
    RunOptions or dict or None
        The same, or with the number.

    Example
    -------
    >>> numbered({"device": "cuda", "debug": True})["device"]
    'cuda:0'
    >>> numbered({"device": "cpu"})
    {'device': 'cpu'}
    """
    from speechbrain.utils.distributed import infer_device
    from speechbrain.utils.run_opts import RunOptions

    options = run_opts or {}
    if not isinstance(options, RunOptions):
        options = RunOptions.from_dictionary(options)
    stated = (hparams or {}).get("device")
    if (options.device or stated or infer_device()) != "cuda":
        return run_opts
    number = os.environ.get("LOCAL_RANK", 0)
    return dataclasses.replace(
        options,
        device=f"cuda:{number}",
        overridden_args={*options.overridden_args, "device"},
    )


NULL = Kind("null", lambda value: value is None)
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
TEXT = Kind(
    "text", lambda value: isinstance(value, str) and bool(value.strip())
)
PATH = Kind("a path", _is_path)
#: A folder to write to.
FOLDER = Kind("a folder, or the path of one that can be made", _can_be_folder)
MAPPING = Kind("keys and values", lambda value: isinstance(value, dict))
DEVICE = Kind(
    "a device that is here, such as cpu or cuda:0",
    _is_device,
    note=_devices_here,
)
SEED = whole(0, 2**32 - 1)
#: Of audio: a megahertz is more than any recorder writes.
RATE_HZ = number("Hz", least=1, most=10**6)

"""``merit train``: train and test without a clone of the repository."""

import argparse
from pathlib import Path

from merit_modules.errors import InputError
from merit_modules.hparams import SHIPPED


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "train",
        help="train and test a system; the same command resumes it",
        description="Train and test what a YAML file describes, as python "
        "train.py does in a clone of the repository. Without further files: "
        "merit train sparse_merit --seed 1. What each key is and has to be: "
        "merit train sparse_merit --help",
    )
    parser.add_argument(
        "hparams",
        metavar="HPARAMS",
        help="a YAML file, or the name of one that comes with the package: "
        + ", ".join(sorted(path.stem for path in SHIPPED.glob("*_*.yaml"))),
    )
    parser.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="--key value",
        help="keys of the YAML file to replace, and SpeechBrain's run options",
    )
    parser.set_defaults(run=_run)


def find_hparams(name):
    """Find a YAML file: a path, or the name of one that is shipped.

    Arguments
    ---------
    name : str
        Path or name.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If there is no such file.

    Example
    -------
    >>> find_hparams("sparse_merit").name
    'sparse_merit.yaml'
    """
    for path in (Path(name), SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    raise InputError(
        f"{name}: there is no such YAML file, neither here nor in {SHIPPED}"
    )


def _run(args):
    from merit_modules.training.experiment import as_command
    from merit_modules.training.recipe import main

    hparams = find_hparams(args.hparams)
    return as_command(main, [str(hparams), *args.options])

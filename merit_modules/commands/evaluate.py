"""Evaluate a finished run: again, further, or where it was stopped.

> python -m merit_modules.commands.evaluate RUN [--key value ...]

RUN is the output folder of a training. Its last settings hold unless a key is
given, such as ``--test_snrs_db "[-5, 0]"``, ``--test_conditions
"[unseen_0dB]"``, ``--metrics "[pesq_wb, csig]"``, ``--device cuda`` or
``--num_metric_workers 8``. What was evaluated before with the same weights,
mixtures and metrics is kept.
"""

import sys
from pathlib import Path

import speechbrain as sb

from merit_modules.errors import InputError
from merit_modules.hparams import parse_overrides
from merit_modules.training import recipe
from merit_modules.training.datasets import load_data
from merit_modules.training.experiment import COMPOSED, as_command, load_run


def evaluate_run(argv):
    """Evaluate a finished run.

    Arguments
    ---------
    argv : list of str
        The run's folder, then options as the recipe's command takes them.

    Returns
    -------
    dict
        The content of ``results.json``.

    Raises
    ------
    InputError
        If the folder is no run, or has no checkpoint.

    Example
    -------
    >>> evaluate_run(["nowhere"])
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: no run: it has no file ...
    """
    if not argv or argv[0].startswith("-"):
        raise InputError("expected the folder of a run, then options")
    folder = Path(argv[0])
    # SpeechBrain's own parser tells run options from keys of the YAML.
    _, run_opts, overrides = sb.parse_arguments(
        [str(folder / COMPOSED), *argv[1:]]
    )
    hparams = load_run(folder, parse_overrides(overrides))
    if not list(Path(hparams["save_folder"]).glob("CKPT+*")):
        raise InputError(f"{hparams['save_folder']}: no checkpoint to evaluate")
    data = load_data(hparams)
    brain = recipe.make_brain(hparams, run_opts, data, trained=True)
    return recipe.evaluate(brain, hparams, data)


def main(argv=None):
    """Run the command; see the text of this file."""
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    return as_command(evaluate_run, argv)


if __name__ == "__main__":
    sys.exit(main())

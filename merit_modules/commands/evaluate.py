"""``merit evaluate``: test a finished run again, further, or to its end."""

import argparse
import sys
from pathlib import Path

from merit_modules.data.state import hold
from merit_modules.errors import InputError


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "evaluate",
        help="test a finished run again, or further",
        description="Test a finished run. Its last settings hold unless a key "
        "is given, such as --test_snrs_db '[-5, 0]', --test_conditions "
        "'[unseen_0dB]', --metrics '[pesq_wb, csig]', --device cuda or "
        "--num_metric_workers 8. --trust: of a run whose YAML names classes of "
        "somebody's own. What was tested before with the same "
        "weights, mixtures and metrics is kept.",
    )
    parser.add_argument(
        "run_folder", metavar="RUN", help="output folder of a training"
    )
    parser.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        metavar="--key value",
        help="keys of the run's YAML to replace, and SpeechBrain's run options",
    )
    parser.set_defaults(run=_run)


def _run(args):
    from merit_modules.training.experiment import as_command

    return as_command(evaluate_run, [args.run_folder, *args.options])


def evaluate_run(argv):
    """Test a finished run.

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
    merit_modules.errors.InputError: nowhere: no run: there is no ...
    """
    import speechbrain as sb
    from speechbrain.utils.distributed import ddp_init_group, get_rank

    from merit_modules.hparams import parse_overrides
    from merit_modules.training import recipe
    from merit_modules.training.experiment import (
        COMPOSED,
        check_run,
        described_run,
        load_run,
        stated_by,
    )
    from merit_modules.training.keys import check_command
    from merit_modules.training.seal import (
        check_same_data,
        check_same_run,
        read_seal,
    )
    from merit_modules.training.start import first_folder

    folder, trust = Path(argv[0]), "--trust" in argv
    argv = [word for word in argv if word != "--trust"]
    if not folder.is_dir():
        raise InputError(f"{folder}: no run: there is no such folder")
    if not get_rank():  # one process holds it for all
        hold(folder)
    if not trust:
        check_run(folder)
    # SpeechBrain's own parser tells run options from keys of the YAML.
    _, run_opts, overrides = sb.parse_arguments(
        [str(folder / COMPOSED), *argv[1:]]
    )
    ddp_init_group(run_opts)
    stated = parse_overrides(overrides)
    all_stated = {**stated_by(folder)[1], **stated}
    check_command(folder / COMPOSED, run_opts, all_stated)
    before, now = described_run(folder), described_run(folder, stated)
    check_same_run(folder, before, now, tested=True)
    hparams = load_run(folder, stated, trust)
    if not list(Path(hparams["save_folder"]).glob("CKPT+*")):
        raise InputError(f"{hparams['save_folder']}: no checkpoint to evaluate")
    for key in ("speech_root", "noise_root"):
        if hparams[key] and not Path(hparams[key]).is_dir():
            raise InputError(
                f"{key}: expected the folder of the run's audio, there is no "
                f"{hparams[key]}; give the place where it is now: --{key} DIR"
            )
    check_same_data(folder, read_seal(folder), hparams)
    if hparams["front_end_experiment"]:
        first = first_folder(folder, hparams["front_end_experiment"])
        hparams["system"].front_end = load_run(first, trust=trust)["system"]
    data = recipe.dataio_prepare(hparams)
    brain = recipe.make_brain(hparams, run_opts, data)
    return recipe.evaluate(brain, hparams, data)


if __name__ == "__main__":
    from merit_modules.commands.__main__ import main

    sys.exit(main(["evaluate", *sys.argv[1:]]))

"""``merit mix``: write the noisy audio of an experiment's split, once."""

import sys
from pathlib import Path

from merit_modules.data.kinds import FOLDER
from merit_modules.errors import InputError

#: Named here, too, so that the help is there without loading any library.
FORMATS = ("float", "pcm16")


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "mix",
        help="write an experiment's noisy speech to disk, before training",
        description="Write what training would hear in epoch 0 to DIR/train; "
        "--split valid and --split test (or another of test_sets) do "
        "likewise, the test under each condition: DIR/test/unseen_-5dB and so "
        "on. Other options replace keys of the YAML file, as they do in "
        "training: folders, --seed, --train_snr_db, --num_workers. A recipe's "
        "own preparation is found if the command is called in the recipe's "
        "folder. The same command goes on where it was stopped.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "hparams", metavar="HPARAMS", help="YAML file of an experiment"
    )
    parser.add_argument(
        "--split", required=True, help="train, valid or one of test_sets"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to write to"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="pcm16 halves the size (default: %(default)s)",
    )
    parser.add_argument(
        "--epoch", type=int, default=0, help="train only (default: 0)"
    )
    parser.set_defaults(run=_run, takes_keys=True)


def _run(args):
    import speechbrain as sb

    from merit_modules.data.offline import mix
    from merit_modules.data.offline.write import write_mixtures
    from merit_modules.hparams import parse_overrides
    from merit_modules.training.defaults import workers_of
    from merit_modules.training.keys import check_command

    path = args.hparams
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such YAML file")
    FOLDER.check("--out", args.out)
    _, run_opts, overrides = sb.parse_arguments([path, *args.rest])
    overrides = parse_overrides(overrides)
    check_command(path, run_opts, overrides)
    settings = mix.load_data_settings(path, overrides)
    settings["prepare"]()
    mixers = mix.mixtures_of(settings, args.split, args.epoch)
    speech = mix.speech_of(settings, args.split)
    for folder, mixer in mixers.items():
        try:
            write_mixtures(
                Path(args.out) / folder,
                speech,
                mixer,
                settings["max_duration_s"],
                args.format,
                workers_of(settings)["num_workers"],
                settings["skip_broken_audio"],
            )
        except OSError as error:
            # One that comes from a loader's worker brings its traceback.
            message = str(error).strip().rsplit("\nOSError: ", 1)[-1]
            raise InputError(message) from error
        print(f"written: {Path(args.out) / folder}")
    return 0


if __name__ == "__main__":
    from merit_modules.commands.__main__ import main

    sys.exit(main(["mix", *sys.argv[1:]]))

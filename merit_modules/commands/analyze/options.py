"""``merit analyze|enhance|classify``: a trained model at work on recordings."""

from merit_modules.commands.analyze.inputs import printable
from merit_modules.data.kinds import number, whole
from merit_modules.errors import InputError

# What each command does, and its help.
COMMANDS = {
    "analyze": "enhance recordings and recognise their emotion, in one pass",
    "enhance": "enhance recordings",
    "classify": "recognise the emotion of recordings, and follow it over time",
}
# Named here, too, so that the help is there without loading any library.
ENCODINGS = ("float", "pcm16")
EXTENSIONS = ("wav", "flac")
FORMATS = ("jsonl", "csv")
_SECONDS = number("a number of seconds", least=0)
SEGMENT_SECONDS, CHUNK_SECONDS, CONTEXT_SECONDS = 3.0, 24.0, 12.0


def add_parser(subparsers):
    """Add the three commands.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Of the command ``merit``.
    """
    for name, purpose in COMMANDS.items():
        parser = subparsers.add_parser(
            name, help=purpose, description=f"{purpose.capitalize()}."
        )
        _add_inputs(parser, name)
        if name != "classify":
            _add_sound(parser)
        _add_computing(parser, name)
        parser.set_defaults(run=run, command=name)


def _add_inputs(parser, name):
    needed = "needed unless the only INPUT is -"
    printed = "without it, JSON Lines go to standard output"
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders (audio at any depth), lists of paths "
        "(.txt or .lst, one path a line), or - for standard input",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="folder of a trained model, or owner/name on the hub",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="build whatever the model's YAML names, not only what merit "
        "export writes",
    )
    parser.add_argument(
        "--out",
        help="folder for results; a run that was stopped goes on there; "
        + (needed if name == "enhance" else printed),
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="jsonl",
        help="results.jsonl, or results.csv and timeline.csv",
    )
    parser.add_argument(
        "--routing",
        action="store_true",
        help="write the expert of each frame and task to routing/*.npz",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew: remove the earlier results in --out",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="no progress bar and no summary, only errors",
    )


def _add_sound(parser):
    parser.add_argument(
        "--encoding",
        choices=ENCODINGS,
        default="float",
        help="samples of enhanced files; pcm16 is made softer where it would "
        "clip (default: float)",
    )
    parser.add_argument(
        "--extension",
        choices=EXTENSIONS,
        default="wav",
        help="format of enhanced files; flac needs --encoding pcm16",
    )


def _add_computing(parser, name):
    if name != "enhance":
        parser.add_argument(
            "--segment-seconds",
            type=_SECONDS.option,
            default=SEGMENT_SECONDS,
            help="length of a segment of the timeline (default: %(default)g)",
        )
    parser.add_argument(
        "--chunk-seconds",
        type=_SECONDS.option,
        default=CHUNK_SECONDS,
        help="new audio per window, of recordings that are not computed whole "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--context-seconds",
        type=_SECONDS.option,
        default=CONTEXT_SECONDS,
        help="audio that a window sees before and after it "
        "(default: %(default)g)",
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: cpu)")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="compute in 8 bits where possible: faster, a little less exact",
    )
    parser.add_argument(
        "--batch-seconds",
        type=_SECONDS.option,
        default=0.0,
        help="audio that is computed together (default: 0, one window at a "
        "time)",
    )
    parser.add_argument(
        "--jobs",
        type=whole(0).option,
        default=1,
        help="recordings that are read and resampled at the same time, beside "
        "the model; 0: in between (default: 1)",
    )


def run(args):
    """Run one of the three commands.

    Arguments
    ---------
    args : argparse.Namespace
        Options.

    Returns
    -------
    int
        0, or 1 if a recording failed.

    Raises
    ------
    InputError
        If the command cannot start.
    """
    _check(args)
    # Late: this loads torch, which the help does not need.
    from merit_modules.commands.analyze.run import run_command

    return run_command(args)


def _check(args):
    """Raise if options make no sense, or not together."""
    if args.out is not None and printable(args.out) != args.out:
        raise InputError(f"--out {printable(args.out)}: expected UTF-8")
    if args.command != "classify":
        if args.extension == "flac" and args.encoding != "pcm16":
            raise InputError(
                "--extension flac: FLAC holds no floats; give --encoding pcm16"
            )
        only_input = set(args.inputs) == {"-"}
        if args.command == "enhance" and not (args.out or only_input):
            raise InputError("--out: expected a folder for enhanced files")
    if args.out is None:
        for option in ("routing", "overwrite"):
            if getattr(args, option):
                raise InputError(f"--{option}: goes with --out alone")
        if args.format != "jsonl":
            raise InputError(
                f"--format {args.format}: goes with --out alone; standard "
                "output gets JSON Lines"
            )

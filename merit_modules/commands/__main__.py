"""The command ``merit``: all that this package does, from the command line."""

import argparse
import importlib
import os
import sys

from merit_modules import __version__
from merit_modules.data.escaping import escape_logs, terminal
from merit_modules.data.state import let_go
from merit_modules.errors import InputError, told
from merit_modules.files import locale_problem

#: Modules of this room that add subcommands, in the order of the help: to use
#: a model, to train and compare, to make folders.
MODULES = (
    "analyze.options",
    "demo.options",
    "train",
    "evaluate",
    "folds",
    "report",
    "export",
    "convert",
    "mix",
)

EXAMPLES = """\
to begin:
  merit train sparse_merit                      train on a corpus that is made
  merit export RUN MODEL_DIR                    make a model of a finished run
  merit analyze noisy.wav --model MODEL_DIR     enhance it, tell its emotion
  merit COMMAND --help                          what a command takes
"""

#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130


def main(argv=None):
    """Run a subcommand.

    Arguments
    ---------
    argv : list of str, optional
        Command line; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code: 0; 1 if something could not be done; 2 if the command
        could not start; 130 after Ctrl-C.

    Example
    -------
    >>> main(["analyze", "gone.wav", "--model", "gone"])
    2
    """
    argv, rest = _split(list(sys.argv[1:] if argv is None else argv))
    parser = _parser()
    try:
        args, unknown = parser.parse_known_args(argv)
        if getattr(args, "takes_keys", False):
            rest = unknown
        elif unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as stop:  # argparse has said why
        return stop.code
    if not hasattr(args, "run"):
        parser.print_help()
        return 0
    args.rest = rest
    escape_logs()
    try:
        for word in [*argv, *rest]:
            if problem := locale_problem(word):
                raise InputError(problem)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on (merit ... | head): there is nothing more to say,
        # not even when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = told(error)
        if message is None:
            raise
        print(terminal(f"error: {message}", keep="\n"), file=sys.stderr)
        return 2
    finally:
        let_go()


def _split(argv):
    """Take apart what ``merit folds`` hands on: all after ``--``."""
    if argv[:1] != ["folds"] or "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


class _Parser(argparse.ArgumentParser):
    """A parser that repeats what it was given as text alone."""

    def error(self, message):
        """Say what is wrong, and exit."""
        super().error(terminal(message))


def _parser():
    parser = _Parser(
        prog="merit",
        description="Speech enhancement and emotion recognition: use, train "
        "and compare models.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"merit {__version__}"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in MODULES:
        module = importlib.import_module(f"merit_modules.commands.{name}")
        module.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())

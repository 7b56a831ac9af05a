"""The command ``merit``: a trained model from the command line."""

import argparse
import importlib
import os
import sys

from merit_modules.errors import InputError

#: Modules of this package that add subcommands, in the order of the help.
MODULES = ("analyze.options", "export", "demo.options")

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
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on (merit ... | head): there is nothing more to say,
        # not even when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="merit",
        description="Enhance speech and recognise emotions by a trained model.",
    )
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for name in MODULES:
        module = importlib.import_module(f"merit_modules.commands.{name}")
        module.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())

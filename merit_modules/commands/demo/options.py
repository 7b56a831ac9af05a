"""``merit demo``: a page in the browser on a trained model."""

import sys

from merit_modules.commands.demo.gate import LOCAL
from merit_modules.data.escaping import terminal
from merit_modules.data.kinds import number, whole
from merit_modules.errors import InputError


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where it goes.

    Example
    -------
    >>> import argparse
    >>> parser = argparse.ArgumentParser()
    >>> add_parser(parser.add_subparsers())
    >>> parser.parse_args(["demo", "--model", "DIR"]).host
    '127.0.0.1'
    """
    parser = subparsers.add_parser(
        "demo",
        help="a local page: record or upload, hear, see",
        description="Serve a page on which a model enhances and recognises "
        "what is recorded or uploaded. Nothing leaves this machine. Needs "
        "Gradio (pip install gradio). Ends with Ctrl-C.",
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="folder of the model, or its name on the hub",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; others than the default let other "
        "machines in (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=whole(0, 65535).option,
        default=0,
        help="port; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name that the page is reached by, such as that of a "
        "proxy; may be repeated",
    )
    parser.add_argument(
        "--max-upload-mb",
        type=number(above=0).option,
        default=100.0,
        metavar="MB",
        help="largest upload (default: %(default)g)",
    )
    parser.add_argument(
        "--max-minutes",
        type=number(above=0).option,
        default=30.0,
        metavar="MIN",
        help="longest recording at 48 kHz in stereo; more samples than that "
        "has are refused, too (default: %(default)g)",
    )
    parser.add_argument(
        "--max-total-mb",
        type=number(above=0).option,
        default=2000.0,
        metavar="MB",
        help="all recordings and results that are kept; the oldest go first "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="where the model computes: cpu, cuda (default: %(default)s)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="build whatever the model's YAML names, not only what merit "
        "export writes",
    )
    parser.set_defaults(run=run)


def run(args):
    """Serve the page until it is stopped.

    Arguments
    ---------
    args : argparse.Namespace
        What :func:`add_parser` asked for.

    Returns
    -------
    int
        Exit code.
    """
    from merit_modules.commands.about import about_model
    from merit_modules.commands.demo.page import Limits
    from merit_modules.commands.demo.server import serve
    from merit_modules.inference import SparseMERIT

    if args.max_total_mb < args.max_upload_mb:
        raise InputError(
            f"--max-total-mb: expected at least --max-upload-mb "
            f"({args.max_upload_mb:g}), got {args.max_total_mb:g}"
        )
    model = SparseMERIT.from_hparams(
        source=args.model,
        run_opts={"device": args.device},
        trust=args.trust,
    )
    if args.host not in LOCAL:
        print(
            f"warning: whoever reaches {terminal(args.host)} can use this "
            "page, and browsers give it no microphone without HTTPS",
            file=sys.stderr,
        )
    limits = Limits(args.max_upload_mb, args.max_minutes, args.max_total_mb)
    about = about_model(model, args.model)
    names = args.allow_host
    serve(model, about, limits, args.host, args.port, names, say=_say)
    return 0


def _say(address):
    print(f"{address} (Ctrl-C ends it)", flush=True)

"""``merit convert``: the authors' released files as a folder to load."""

import sys

from merit_modules.data.escaping import terminal

#: Named here, too, so that the help is there without loading any library.
RULES = ("exact", "released")


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "convert",
        help="make a model folder of the authors' released files",
        description="Convert the authors' released files to a folder that "
        "merit, SparseMERIT and SpeechBrain load, and that a training can "
        "start from (--init_from). No code in them is run.",
    )
    parser.add_argument(
        "release_dir",
        metavar="RELEASE_DIR",
        help="folder with final_*.pt, with WavLM-Large.pt and the other "
        "pre-trained parts, or with both; or owner/name on the hub",
    )
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder to write")
    parser.add_argument(
        "--padding_rule",
        choices=RULES,
        default="exact",
        help="released: results depend on the batch, as in the authors' code",
    )
    parser.add_argument(
        "--top_k",
        type=int,
        default=1,
        help="experts per frame: 1 for sparse models, all for dense ones",
    )
    parser.add_argument(
        "--labels", nargs="+", help="emotions in the order of the logits"
    )
    parser.set_defaults(run=_run)


def _run(args):
    from merit_modules.released import convert

    release = convert(
        args.release_dir,
        args.out_dir,
        top_k=args.top_k,
        padding_rule=args.padding_rule,
        labels=args.labels,
    )
    print(terminal(describe(release), keep="\n"))
    print(f"Written: {args.out_dir}")
    return 0


def describe(release):
    """Write down what a release holds.

    Arguments
    ---------
    release : Release
        From :func:`~merit_modules.released.converter.read_release`.

    Returns
    -------
    str
        One line per file, and the assumptions.

    Example
    -------
    >>> from pathlib import Path
    >>> import torch
    >>> from merit_modules.released.converter import Release
    >>> from merit_modules.released.files import ReleasedPart
    >>> part = ReleasedPart(Path("final_ser.pt"), {"w": torch.ones(2, 3)})
    >>> print(describe(Release(Path("."), {"ser": part}, None, None, {}, [])))
    ser   final_ser.pt: 1 tensors, 6 numbers
    These are parts to start a training from, not a whole system.
    """
    lines = []
    for key, part in release.parts.items():
        count = sum(tensor.numel() for tensor in part.state.values())
        lines.append(
            f"{key:5} {part.path}: {len(part.state)} tensors, {count:,} numbers"
        )
    if release.ssl_config is not None:
        config = release.ssl_config
        lines.append(
            f"WavLM: {config['num_hidden_layers']} layers of width "
            f"{config['hidden_size']}"
        )
    if release.statistics is not None:
        told = ", ".join(f"{k} {v:.6g}" for k, v in release.statistics.items())
        lines.append(f"Statistics: {told}")
    for key, value in release.training.items():
        lines.append(f"Training: {key} {value}")
    lines += [f"Note: {note}" for note in release.notes]
    if not release.is_complete:
        lines.append(
            "These are parts to start a training from, not a whole system."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from merit_modules.commands.__main__ import main

    sys.exit(main(["convert", *sys.argv[1:]]))

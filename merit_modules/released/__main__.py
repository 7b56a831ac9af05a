"""Convert the authors' files: ``python -m merit_modules.released IN OUT``."""

import argparse
import sys

from merit_modules.errors import InputError
from merit_modules.lengths import RULES
from merit_modules.released.converter import convert


def main(argv=None):
    """Convert a release and say what was found.

    Arguments
    ---------
    argv : list of str, optional
        Command line; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code: 0, or 2 after an error that the user can mend.

    Example
    -------
    >>> folder = str(getfixture("tmp_path"))
    >>> main([folder, folder + "/converted"])
    2
    """
    args = _parser().parse_args(argv)
    try:
        release = convert(
            args.release_dir,
            args.out_dir,
            top_k=args.top_k,
            padding_rule=args.padding_rule,
            labels=args.labels,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(release))
    print(f"Written: {args.out_dir}")
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m merit_modules.released",
        description="Convert the authors' released files to a folder that "
        "merit_modules and SpeechBrain load.",
    )
    parser.add_argument(
        "release_dir",
        help="folder with final_*.pt, with WavLM-Large.pt and the other "
        "pre-trained parts, or with both; or owner/name on the hub",
    )
    parser.add_argument("out_dir", help="folder to write")
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
    return parser


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
    sys.exit(main())

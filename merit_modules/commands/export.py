"""``merit export``: a folder for other people, of a finished run."""

from merit_modules.data.escaping import terminal
from merit_modules.hparams import parse_overrides


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "export",
        help="make a folder of a finished run: for use, for the hub",
        description="Write weights, YAML and model card of a finished run as "
        "a folder that merit, SparseMERIT and SpeechBrain load. Neither the "
        "corpus nor the place of the training is needed.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="output folder")
    parser.add_argument("folder", metavar="DIR", help="folder to write")
    parser.add_argument(
        "--average",
        type=int,
        default=1,
        metavar="N",
        help="the mean of the N best checkpoints; trained with "
        "--keep_checkpoints N (default: the best one)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="linear layers in 8-bit integers: smaller (down to a quarter), "
        "and faster in large models; for CPUs alone",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="also write model.onnx, for onnxruntime; needs pip install "
        "onnx onnxscript onnxruntime",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        help="classes in the order of the logits, for a run that was not "
        "tested and whose classes were read from its corpus",
    )
    parser.add_argument(
        "--corpus_about",
        metavar="YAML",
        help="facts of the corpus for the card, such as '{language: [en], "
        "licence: cc-by-4.0}': in place of the run's own",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="build whatever the run's YAML names, classes of somebody's own "
        "among it",
    )
    parser.set_defaults(run=_run)


def _run(args):
    # It imports the training's code, which the other commands do without.
    from merit_modules.export import export_run
    from merit_modules.export.card_text import weights_text

    about = args.corpus_about and parse_overrides(args.corpus_about)
    run = export_run(
        args.run_folder,
        args.folder,
        args.average,
        args.labels,
        about,
        args.int8,
        args.onnx,
        args.trust,
    )
    print(terminal(f"Weights: {weights_text(run.weights)}"))
    if run.results is None:
        print("The run has not been tested; the card says so.")
    if run.weights.last_epoch < run.hparams["number_of_epochs"]:
        print("The training was cut short; the card says so.")
    print(f"Written: {args.folder}")
    return 0

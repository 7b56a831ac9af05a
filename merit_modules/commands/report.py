"""``merit report``: compare finished runs."""

import sys

SHOWN = ("f1_macro", "ccc_", "si_sdr_db")  # on the screen
#: Named here, too, so that the help is there without loading any library.
TESTS = ("bootstrap", "permutation", "subsets", "mcnemar", "wilcoxon")


def add_parser(subparsers):
    """Add the subcommand.

    Arguments
    ---------
    subparsers : argparse._SubParsersAction
        Where to.
    """
    parser = subparsers.add_parser(
        "report",
        help="compare finished runs: a page, tables, figures",
        description="Compare finished runs, grouped by system, seed and fold, "
        "such as: merit report results/study --baseline naive_mtl --out DIR",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="output folder of a run, or a folder that holds such folders",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to write"
    )
    parser.add_argument("--baseline", help="system to compare with")
    parser.add_argument(
        "--test",
        default="bootstrap",
        choices=TESTS,
        help="of the difference between two systems (default: %(default)s)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        help="level of the tests' marks (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples",
        type=int,
        default=10000,
        help="of the bootstrap or permutation (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument(
        "--title", default="Comparison of systems", help="of the page"
    )
    parser.set_defaults(run=_run)


def _run(args):
    from merit_modules.data.escaping import terminal
    from merit_modules.evaluation.metrics.table import number
    from merit_modules.report.compare import Settings
    from merit_modules.report.report import write_report

    settings = Settings(
        args.baseline, args.test, args.alpha, args.resamples, args.seed
    )
    content = write_report(args.runs, args.out, settings, args.title)
    lines = [*content["findings"], "", *content["about"]]
    for entry in content["left_out"]:
        lines.append("Left out: {what} of {of} ({because})".format_map(entry))
    for name, table in content["scores"].items():
        if not name.startswith(SHOWN):
            continue
        for system, cells in table.items():
            shown = "  ".join(
                f"{column} {number(cell['score'], 3)}{cell.get('mark', '')}"
                for column, cell in cells.items()
            )
            lines.append(f"{name}: {system}: {shown}")
    lines.append(
        f"Written: {args.out}/report.html, report.md, tables.tex, tables.csv, "
        "report.json, figures/"
    )
    print("\n".join(map(terminal, lines)))
    return 0


if __name__ == "__main__":
    from merit_modules.commands.__main__ import main

    sys.exit(main(["report", *sys.argv[1:]]))

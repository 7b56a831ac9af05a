"""Write the report of a comparison.

> python -m merit_modules.report RUN [RUN ...] --baseline naive_mtl --out DIR

RUN is the output folder of a run, or a folder that holds such folders. Runs
are grouped by system, seed and fold.
"""

import argparse
import sys
from pathlib import Path

from merit_modules.errors import InputError
from merit_modules.files import write_atomically
from merit_modules.report import writers
from merit_modules.report.about import about, costs, failures
from merit_modules.report.compare import TESTS, Comparer, Settings
from merit_modules.report.emotions import score_emotions, summarise_emotions
from merit_modules.report.gallery import draw_all, take_examples
from merit_modules.report.page import render_page
from merit_modules.report.routing import (
    ROUTING_LEGEND,
    analyse_runs,
    summarise_removal,
    summarise_routing,
)
from merit_modules.report.study import Study

SHOWN = ("f1_macro", "ccc_", "si_sdr_db")  # on the screen


def write_report(folders, out, settings, title="Comparison of systems"):
    """Compare runs and write the report.

    Arguments
    ---------
    folders : list of str or Path
        Runs, or folders with runs.
    out : str or Path
        Folder for ``report.html``, ``report.md``, ``tables.tex``,
        ``tables.csv``, ``report.json`` and ``figures/``.
    settings : Settings
        How systems are compared.
    title : str
        Title of the page.

    Returns
    -------
    dict
        The content of ``report.json``.

    Raises
    ------
    InputError
        If the runs cannot be compared.
    """
    study = Study(folders)
    comparer = Comparer(study, settings)
    tables = comparer.tables()
    grids = [
        writers.Grid(name, table, comparer.columns)
        for name, table in tables.items()
    ]
    emotions = score_emotions(study)
    routing = analyse_runs(study, settings.seed)
    content = {
        "about": about(study, settings),
        "settings": settings._asdict(),
        "runs": [str(run.folder) for run in study.runs],
        "columns": [column.name for column in comparer.columns],
        "scores": tables,
        "emotions": emotions,
        "routing": routing,
        "cost": costs(study),
        "failures": failures(study),
    }
    out = Path(out)
    baseline = settings.baseline
    figures = out / "figures"
    pictures = draw_all(study, tables, comparer.columns, routing, figures)
    extras = [
        writers.Extra(
            "Emotions",
            "Mean over the conditions of a group, runs pooled; precision and "
            "recall: macro averages; calibration error: 15 bins.",
            *summarise_emotions(emotions, comparer.columns),
        ),
        writers.Extra("Routing", ROUTING_LEGEND, *summarise_routing(routing)),
        writers.Extra(
            "Experts removed",
            "The next best expert takes the frames of the one that is gone.",
            *summarise_removal(routing),
        ),
    ]
    extras = [extra for extra in extras if extra.rows]
    examples = take_examples(study, figures)
    files = {
        "report.html": render_page(
            title, content, grids, extras, pictures, examples
        ),
        "report.md": writers.markdown(
            grids, extras, content["about"], baseline
        ),
        "tables.tex": writers.latex(grids, baseline),
        "tables.csv": writers.long_csv(tables),
        "report.json": writers.as_json(content),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return content


def main(argv=None):
    """Run the command; see the text of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m merit_modules.report",
        description=__doc__.partition("\n\n")[0],
    )
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--baseline", help="system to compare with")
    parser.add_argument("--test", default="bootstrap", choices=TESTS)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--resamples", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--title", default="Comparison of systems")
    args = parser.parse_args(argv)
    settings = Settings(
        args.baseline, args.test, args.alpha, args.resamples, args.seed
    )
    try:
        content = write_report(args.runs, args.out, settings, args.title)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(content["about"]))
    for name, table in content["scores"].items():
        if not name.startswith(SHOWN):
            continue
        for system, cells in table.items():
            shown = "  ".join(
                f"{column} {cell['score']:.3f}{cell.get('mark', '')}"
                for column, cell in cells.items()
            )
            print(f"{name}: {system}: {shown}")
    print(
        f"Written: {args.out}/report.html, report.md, tables.tex, tables.csv, "
        "report.json, figures/"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The report of a comparison: a page, tables, figures, numbers."""

from pathlib import Path

from merit_modules.data.kinds import FOLDER, SEED, number, whole
from merit_modules.data.state import hold
from merit_modules.files import write_atomically
from merit_modules.report import writers
from merit_modules.report.about import (
    about,
    costs,
    failures,
    summarise_costs,
)
from merit_modules.report.compare import Comparer
from merit_modules.report.emotions import score_emotions, summarise_emotions
from merit_modules.report.findings import find
from merit_modules.report.gallery import draw_all, take_examples
from merit_modules.report.page import render_page
from merit_modules.report.routing import (
    ROUTING_LEGEND,
    analyse_runs,
    summarise_removal,
    summarise_routing,
)
from merit_modules.report.study import Study

_LEFT_OUT = ["what", "of", "because", "scores"]


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
        If the runs cannot be compared, or not in that way.
    """
    FOLDER.check("out", out)
    number(above=0, below=1).check("alpha", settings.alpha)
    whole(1).check("resamples", settings.n_resamples)
    SEED.check("seed", settings.seed)
    hold(out)
    study = Study(folders)
    comparer = Comparer(study, settings)
    tables = comparer.tables()
    grids = [
        writers.Grid(name, table, comparer.columns)
        for name, table in tables.items()
    ]
    emotions = score_emotions(study)
    routing = analyse_runs(study, settings.seed)
    omitted = [
        [*about, ", ".join(writers.heading_of(name)[0] for name in scores)]
        for about, scores in study.left_out.items()
    ]
    content = {
        "findings": find(tables, comparer.columns, settings),
        "about": about(study, settings, tables),
        "settings": settings._asdict(),
        "runs": [str(run.folder) for run in study.runs],
        "left_out": [dict(zip(_LEFT_OUT, row)) for row in omitted],
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
            "What was left out",
            "Systems are compared on what all of them have. To compare more, "
            "test the runs that lack it, or leave their systems out.",
            _LEFT_OUT,
            omitted,
        ),
        writers.Extra(
            "Emotions",
            "Mean over the conditions of a group, runs pooled; precision and "
            "recall: macro averages; calibration error: 15 bins, before any "
            "temperature.",
            *summarise_emotions(emotions, comparer.columns),
        ),
        writers.Extra("Routing", ROUTING_LEGEND, *summarise_routing(routing)),
        writers.Extra(
            "Experts removed",
            "The next best expert takes the frames of the one that is gone.",
            *summarise_removal(routing),
        ),
        summarise_costs(content["cost"]),
        writers.Extra(
            "What could not be computed",
            "Utterances without a value, over all runs.",
            ["condition", "side", "metric", "reason", "utterances"],
            [list(map(str, failure)) for failure in content["failures"]],
        ),
    ]
    extras = [extra for extra in extras if extra.rows]
    sections = {
        "Findings": content["findings"],
        "What was compared": content["about"],
    }
    told = title, sections, grids, extras
    examples = take_examples(study, figures)
    files = {
        "report.html": render_page(*told, baseline, pictures, examples),
        "report.md": writers.as_markdown(*told, baseline),
        "tables.tex": writers.as_latex(grids, baseline),
        "tables.csv": writers.long_csv(tables),
        "report.json": writers.as_json(content),
    }
    for name, text in files.items():
        write_atomically(out / name, text)
    return content

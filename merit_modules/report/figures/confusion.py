"""Confusion matrices, a row per system, a column per condition."""

import numpy as np
from matplotlib import rc_context

from merit_modules.report.figures.style import RC, new_figure
from merit_modules.report.significance.scores import confusions


def draw_confusions(study, systems, conditions):
    """Draw confusion matrices in shares of the true class, with counts.

    Arguments
    ---------
    study : Study
        The runs.
    systems : list of str
        A row each; those without decisions are left out.
    conditions : list of Condition
        A column each.

    Returns
    -------
    matplotlib.figure.Figure or None
        None if no system recognises emotions.
    """
    shared = [
        study.shared(condition, "prediction", "f1_macro")[0]
        for condition in conditions
    ]
    tables = {
        system: [_count(study, found[system].values()) for found in shared]
        for system in systems
        if study.classes and all(system in found for found in shared)
    }
    if not tables:
        return None
    side = 0.55 * len(study.classes) + 0.9
    figure = new_figure(side * len(conditions), side * len(tables))
    with rc_context({**RC, "font.size": 7}):
        panels = figure.subplots(len(tables), len(conditions), squeeze=False)
        for row, (system, found) in zip(panels, tables.items()):
            for panel, condition, counts in zip(row, conditions, found):
                _draw(panel, counts, study.classes)
                panel.set_title(f"{system}, {condition.name}", fontsize=7)
            row[0].set_ylabel("true")
        for panel in panels[-1]:
            panel.set_xlabel("predicted")
    return figure


def _count(study, rows):
    units = np.zeros(len(rows), dtype=int)
    return confusions(*study.decisions(rows), units, len(study.classes))[0]


def _draw(panel, counts, classes):
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(
        counts, totals, out=np.zeros_like(counts), where=totals > 0
    )
    panel.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        panel.text(
            column,
            row,
            f"{shares[row, column]:.2f}\n({count:.0f})",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
            fontsize=6,
        )
    places = range(len(classes))
    panel.set_xticks(places, classes, rotation=45, ha="right")
    panel.set_yticks(places, classes)

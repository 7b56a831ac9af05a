"""Scores over SNR, a line with its confidence intervals per system."""

import numpy as np
from matplotlib import rc_context

from merit_modules.report.figures.style import (
    RC,
    add_legend,
    labelled,
    line_style,
    new_figure,
)
from merit_modules.report.runs import NOISY

MAX_BANDS = 5  # more would hide each other: bars, side by side
BARS_WIDTH = 0.4  # of all of them, of the distance between two SNRs


def draw_curves(title, table, columns, systems, is_gain=False):
    """Draw a score over SNR, a panel per noise set.

    Arguments
    ---------
    title : str
        Name of the score with its unit.
    table : dict
        System to column to cell.
    columns : list of Column
        All columns; clean speech stands at the right end of each panel.
    systems : list of str
        All systems of the report: one has the same line in every figure.
    is_gain : bool
        Draw a line at 0, where the noisy input is.

    Returns
    -------
    matplotlib.figure.Figure or None
        None without two SNRs of a noise set.
    """
    single = [c for c in columns if len(c.conditions) == 1]
    groups = {}
    for column in single:
        if column.snr_db is not None:
            groups.setdefault(column.group, []).append(column)
    groups = {name: c for name, c in groups.items() if len(c) > 1}
    if not groups:
        return None
    clean = [
        c
        for c in single
        if c.snr_db is None and any(c.name in cells for cells in table.values())
    ][:1]
    height = 3.2 + 0.2 * (len(table) // 3)
    figure = new_figure(min(4.2 * len(groups) + 0.8, 11), height)
    with rc_context(RC):
        panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for panel, (name, members) in zip(panels, groups.items()):
            _draw_panel(panel, table, members + clean, systems)
            panel.set_title(f"{name} noise", fontsize=9)
            panel.set_xlabel("SNR (dB)")
            if is_gain:
                panel.axhline(0, color="0.45", linestyle=(0, (1, 1)))
        panels[0].set_ylabel(title)
        entries = panels[0].get_legend_handles_labels()
        add_legend(figure, *entries, handlelength=3)
    return figure


def _draw_panel(panel, table, columns, systems):
    places = np.arange(len(columns))
    names = ["clean" if c.snr_db is None else f"{c.snr_db:g}" for c in columns]
    has_bands = len(table) <= MAX_BANDS
    for number, (system, cells) in enumerate(table.items()):
        here = [
            (x, cells[c.name])
            for x, c in zip(places, columns)
            if c.name in cells
        ]
        if not here:
            continue
        shift = BARS_WIDTH * ((number + 0.5) / len(table) - 0.5)
        shift = 0 if has_bands else shift
        x = [place + shift for place, _ in here]
        if system == NOISY:
            style = {"color": "0.45", "linestyle": (0, (1, 1)), "marker": "."}
        else:
            style = line_style(systems.index(system))
        scores = np.array([cell["score"] for _, cell in here])
        low = np.array([cell["low"] for _, cell in here])
        high = np.array([cell["high"] for _, cell in here])
        panel.plot(x, scores, label=labelled(system), **style)
        colour = style["color"]
        if has_bands:
            panel.fill_between(
                x, low, high, color=colour, alpha=0.12, linewidth=0
            )
        else:
            panel.vlines(x, low, high, color=colour, linewidth=0.8, alpha=0.7)
    panel.set_xticks(places, names)
    panel.grid(axis="y", color="0.9", linewidth=0.6)

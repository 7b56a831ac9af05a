"""Scores over SNR, a line with a confidence band per system."""

import numpy as np
from matplotlib import rc_context

from merit_modules.report.compare import NOISY
from merit_modules.report.figures.style import RC, line_style, new_figure


def draw_curves(title, table, columns, systems):
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
        panels[0].set_ylabel(title)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=3,
            frameon=False,
            handlelength=3,
        )
    return figure


def _draw_panel(panel, table, columns, systems):
    places = np.arange(len(columns))
    names = ["clean" if c.snr_db is None else f"{c.snr_db:g}" for c in columns]
    for system, cells in table.items():
        here = [
            (x, cells[c.name])
            for x, c in zip(places, columns)
            if c.name in cells
        ]
        if not here:
            continue
        x = [place for place, _ in here]
        if system == NOISY:
            style = {"color": "0.45", "linestyle": (0, (1, 1)), "marker": "."}
        else:
            style = line_style(systems.index(system))
        panel.plot(
            x, [cell["score"] for _, cell in here], label=system, **style
        )
        panel.fill_between(
            x,
            [cell["low"] for _, cell in here],
            [cell["high"] for _, cell in here],
            color=style["color"],
            alpha=0.12,
            linewidth=0,
        )
    panel.set_xticks(places, names)
    panel.grid(axis="y", color="0.9", linewidth=0.6)

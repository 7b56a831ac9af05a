"""Which share of the frames each expert serves, by what they are."""

import numpy as np
from matplotlib import rc_context

from merit_modules.report.figures.style import (
    COLOURS,
    RC,
    add_legend,
    new_figure,
)

MAX_GROUPS = 10
#: Told apart in grey print, too.
HATCHES = ("", "//", "..", "xx", "--", "oo")
TITLES = {
    "snr_db": "SNR (dB)",
    "noise_type": "noise type",
    "emotion": "emotion",
    "voicing": "voicing",
}


def draw_loads(analysis):
    """Draw the expert load per task by SNR, noise type, emotion and voicing.

    Arguments
    ---------
    analysis : dict
        Of one run, from
        :func:`~merit_modules.report.routing_analysis.analyse_routing`.

    Returns
    -------
    matplotlib.figure.Figure or None
        A row per task, a panel per factor; None if there is nothing to tell
        apart. Of more than ten groups, those are drawn whose load differs
        most from the whole.
    """
    tasks = analysis["tasks"]
    first = next(iter(tasks.values()))["load_by"]
    factors = [name for name in TITLES if len(first.get(name, ())) > 1]
    if not factors:
        return None
    shown = {
        (task, factor): _choose(entry["load_by"][factor], entry["load"])
        for task, entry in tasks.items()
        for factor in factors
    }
    widths = [max(2, len(shown[next(iter(tasks)), f])) for f in factors]
    figure = new_figure(min(0.42 * sum(widths) + 2, 11), 1.7 * len(tasks) + 1.2)
    with rc_context({**RC, "font.size": 8}):
        panels = figure.subplots(
            len(tasks),
            len(factors),
            sharey=True,
            squeeze=False,
            width_ratios=widths,
        )
        for row, task in zip(panels, tasks):
            for panel, factor in zip(row, factors):
                _draw(panel, shown[task, factor], analysis["n_experts"])
            row[0].set_ylabel(f"{task.upper()}: share")
        for panel, factor in zip(panels[0], factors):
            panel.set_title(TITLES[factor], fontsize=8)
        handles, labels = panels[0][0].get_legend_handles_labels()
        add_legend(figure, handles, labels, most_columns=6)
    return figure


def _choose(loads, overall):
    distance = {
        name: np.abs(np.subtract(load, overall)).sum()
        for name, load in loads.items()
    }
    kept = sorted(loads, key=distance.get, reverse=True)[:MAX_GROUPS]
    return {name: load for name, load in loads.items() if name in kept}


def _draw(panel, loads, n_experts):
    places = np.arange(len(loads))
    bottom = np.zeros(len(loads))
    for expert in range(n_experts):
        heights = np.array([load[expert] for load in loads.values()])
        panel.bar(
            places,
            heights,
            bottom=bottom,
            color=COLOURS[expert % len(COLOURS)],
            hatch=HATCHES[expert % len(HATCHES)],
            edgecolor="white",
            linewidth=0.5,
            label=f"expert {expert}",
        )
        bottom += heights
    names = [_short(name) for name in loads]
    turned = max(map(len, names)) > 4
    panel.set_xticks(
        places,
        names,
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
    )
    panel.set_ylim(0, 1)


def _short(name):
    try:
        return f"{float(name):g}"
    except ValueError:
        return name

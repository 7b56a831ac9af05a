"""How the tasks' gradients went together over training."""

import numpy as np
from matplotlib import rc_context

from merit_modules.report.figures.style import (
    RC,
    add_legend,
    labelled,
    line_style,
    new_figure,
)


def draw_conflict(measurements):
    """Draw the mean cosine over all groups of parameters, per system.

    Arguments
    ---------
    measurements : dict
        System to the ``measurements`` of ``gradient_conflict.json``; an empty
        name has no legend.

    Returns
    -------
    matplotlib.figure.Figure or None
        None without any measurement.
    """
    figure = new_figure(6.4, 2.8)
    n_lines = 0
    with rc_context(RC):
        panel = figure.subplots()
        for number, (system, found) in enumerate(measurements.items()):
            points = [(m["step"], _mean_cosine(m)) for m in found]
            points = [
                (step, value) for step, value in points if value is not None
            ]
            if not points:
                continue
            steps, values = np.array(points).T
            style = {**line_style(number), "markersize": 3}
            panel.plot(steps, values, label=labelled(system), **style)
            n_lines += 1
        panel.axhline(0, color="0.6", linewidth=0.8)
        panel.set_xlabel("training step")
        panel.set_ylabel("mean cosine")
        add_legend(figure, *panel.get_legend_handles_labels())
    return figure if n_lines else None


def _mean_cosine(measurement):
    cosines = [
        group["cosine"]
        for group in measurement["groups"].values()
        if group.get("cosine") is not None
    ]
    return float(np.mean(cosines)) if cosines else None

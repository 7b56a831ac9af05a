"""An utterance: noisy, enhanced and clean spectrograms over expert choices."""

import numpy as np
from matplotlib import rc_context
from scipy.signal import stft

from merit_modules.evaluation.conditions import HEARD
from merit_modules.report.figures.style import COLOURS, RC, new_figure

RANGE_DB = 70.0


def draw_example(wavs, sample_rate_hz, routing=None):
    """Draw one utterance.

    Arguments
    ---------
    wavs : dict
        Side (noisy, enhanced, clean) to waveform (N,).
    sample_rate_hz : int
        Sample rate of all.
    routing : Routing, optional
        Which expert served which frame of it.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    sides = [side for side in HEARD if side in wavs]
    tasks = list(routing.experts) if routing is not None else []
    heights = [3] * len(sides) + [0.5] * len(tasks)
    figure = new_figure(6.4, 1.3 * len(sides) + 0.45 * len(tasks) + 0.4)
    spectra = {side: _spectrum_db(wavs[side], sample_rate_hz) for side in sides}
    top = max(spectrum.max() for spectrum in spectra.values())
    duration_s = len(wavs[sides[0]]) / sample_rate_hz
    extent = (0, duration_s, 0, sample_rate_hz / 2000)
    with rc_context(RC):
        panels = figure.subplots(
            len(heights), 1, sharex=True, height_ratios=heights, squeeze=False
        )[:, 0]
        for panel, side in zip(panels, sides):
            image = panel.imshow(
                spectra[side],
                origin="lower",
                aspect="auto",
                extent=extent,
                vmin=top - RANGE_DB,
                vmax=top,
                cmap="cividis",
            )
            panel.set_ylabel(f"{side}\nkHz")
        figure.colorbar(image, ax=panels[: len(sides)], label="dB", pad=0.01)
        for panel, task in zip(panels[len(sides) :], tasks):
            _draw_experts(panel, routing.experts[task], task)
        panels[-1].set_xlabel("time (s)")
        panels[-1].set_xlim(0, duration_s)
    return figure


def _spectrum_db(wav, sample_rate_hz):
    _, _, spectrum = stft(wav, sample_rate_hz, nperseg=400, noverlap=240)
    return 20 * np.log10(np.abs(spectrum) + 1e-8)


def _draw_experts(panel, experts, task, frame_s=0.02):
    """Draw runs of frames as boxes: colour and height tell the expert."""
    edges = np.flatnonzero(np.diff(experts)) + 1
    starts = np.r_[0, edges]
    lengths = np.diff(np.r_[starts, len(experts)])
    n_experts = max(int(experts.max()) + 1, 2)
    for expert in range(n_experts):
        mine = experts[starts] == expert
        panel.broken_barh(
            list(zip(starts[mine] * frame_s, lengths[mine] * frame_s)),
            (expert, 1),
            color=COLOURS[expert % len(COLOURS)],
            linewidth=0,
        )
    panel.set_ylim(0, n_experts)
    panel.set_yticks(np.arange(n_experts) + 0.5, range(n_experts), fontsize=6)
    panel.set_ylabel(
        f"{task.upper()} expert",
        rotation=0,
        ha="right",
        va="center",
        fontsize=7,
    )

"""An utterance: spectrograms side by side, over the choices of experts."""

import numpy as np
from matplotlib import rc_context
from scipy.signal import stft

from merit_modules.report.figures.style import COLOURS, RC, new_figure

RANGE_DB = 70.0


def draw_example(wavs, sample_rate_hz, routings):
    """Draw one utterance.

    Arguments
    ---------
    wavs : dict
        Heading (noisy, a system, clean) to waveform (N,): a column each.
    sample_rate_hz : int
        Sample rate of all.
    routings : dict
        Some of the headings to a Routing: which expert served which frame.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    tasks = list(dict.fromkeys(t for r in routings.values() for t in r.experts))
    figure = new_figure(min(2.6 * len(wavs) + 1.2, 13), 2.3 + 0.5 * len(tasks))
    spectra = {side: spectrum_db(w, sample_rate_hz) for side, w in wavs.items()}
    top = max(spectrum.max() for spectrum in spectra.values())
    duration_s = max(map(len, wavs.values())) / sample_rate_hz
    with rc_context(RC):
        panels = figure.subplots(
            1 + len(tasks),
            len(wavs),
            sharex=True,
            sharey="row",
            height_ratios=[3] + [0.5] * len(tasks),
            squeeze=False,
        )
        for column, (side, spectrum) in zip(panels.T, spectra.items()):
            image = column[0].imshow(
                spectrum,
                origin="lower",
                aspect="auto",
                extent=(0, duration_s, 0, sample_rate_hz / 2000),
                vmin=top - RANGE_DB,
                vmax=top,
                cmap="cividis",
            )
            column[0].set_title(side, fontsize=8)
            for panel, task in zip(column[1:], tasks):
                experts = getattr(routings.get(side), "experts", {})
                if task in experts:
                    draw_experts(panel, experts[task])
                else:
                    panel.axis("off")
            column[-1].set_xlabel("time (s)")
        panels[0, 0].set_ylabel("kHz")
        for row, task in zip(panels[1:], tasks):
            first = next(panel for panel in row if panel.axison)
            first.tick_params(labelleft=True)
            first.set_ylabel(
                f"{task.upper()} expert",
                rotation=0,
                ha="right",
                va="center",
                fontsize=7,
            )
        figure.colorbar(image, ax=panels[0], label="dB", pad=0.01)
        panels[0, 0].set_xlim(0, duration_s)
    return figure


def spectrum_db(wav, sample_rate_hz):
    """Compute a magnitude spectrogram in dB: 25 ms windows at 16 kHz.

    Arguments
    ---------
    wav : np.ndarray
        Samples (N,).
    sample_rate_hz : int
        Their sample rate.

    Returns
    -------
    np.ndarray
        Levels (F, T).

    Example
    -------
    >>> spectrum_db(np.zeros(1600), 16000).shape
    (201, 11)
    """
    _, _, spectrum = stft(wav, sample_rate_hz, nperseg=400, noverlap=240)
    return 20 * np.log10(np.abs(spectrum) + 1e-8)


def draw_experts(panel, experts, frame_s=0.02):
    """Draw runs of frames as boxes: colour and height tell the expert.

    Arguments
    ---------
    panel : matplotlib.axes.Axes
        Where.
    experts : np.ndarray
        Expert of each frame (T,).
    frame_s : float
        Seconds from one frame to the next.
    """
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

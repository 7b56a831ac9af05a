"""Pictures of an analysis, all with the same time axis."""

import io
import threading
from typing import NamedTuple

import numpy as np
import soundfile
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from merit_modules.report.figures.examples import RANGE_DB
from merit_modules.report.figures.loads import HATCHES
from merit_modules.report.figures.style import (
    COLOURS,
    PNG_DPI,
    RC,
    line_style,
    new_figure,
)

TASK_NAMES = {"se": "enhancement", "ser": "emotion"}
#: Columns of a strip; of more frames, a column holds the shares.
MAX_COLUMNS = 1000
#: Segments whose edges are drawn, at the most.
MAX_MARKS = 80
_TOP, _GAP, _TIME_AXIS = 0.1, 0.14, 0.46
# matplotlib's settings are the process's own: one picture at a time.
_DRAWING = threading.Lock()


class _Layout(NamedTuple):
    """Where a picture has its panels, in inches.

    Arguments
    ---------
    width : float
        Of the whole picture.
    left : float
        Before the time axis.
    right : float
        After it.
    beside : bool
        Whether legends stand at the right; below else.
    """

    width: float
    left: float
    right: float
    beside: bool


WIDE = _Layout(9.2, 0.8, 1.25, beside=True)
NARROW = _Layout(3.9, 0.62, 0.14, beside=False)


def draw_spectrograms(spectra, sample_rate_hz, duration_s, layout=WIDE):
    """Draw spectrograms in one colour scale.

    Arguments
    ---------
    spectra : dict
        Side (noisy, enhanced) to decibels (F, columns).
    sample_rate_hz : int
        Sample rate of the audio.
    duration_s : float
        Its length.
    layout : _Layout
        Where the panels lie.

    Returns
    -------
    bytes
        PNG.

    Example
    -------
    >>> spectra = {"noisy": np.random.randn(9, 20)}
    >>> draw_spectrograms(spectra, 16000, 0.2)[1:4]
    b'PNG'
    """
    top = max(float(spectrum.max()) for spectrum in spectra.values())
    with _DRAWING, rc_context(RC):
        figure, panels, rest = _panels(layout, [1.35] * len(spectra), 0.62)
        for panel, (side, spectrum) in zip(panels, spectra.items()):
            image = panel.imshow(
                spectrum - top,
                origin="lower",
                aspect="auto",
                extent=(0, duration_s, 0, sample_rate_hz / 2000),
                vmin=-RANGE_DB,
                vmax=0,
                cmap="cividis",
            )
            panel.set_ylabel(f"{side}\nkHz")
        _name_time(panels, duration_s)
        bar = figure.add_axes(rest)
        figure.colorbar(
            image,
            cax=bar,
            label="dB",
            orientation="vertical" if layout.beside else "horizontal",
        )
        return _png(figure)


def draw_timeline(timeline, labels, duration_s, scale=None, layout=WIDE):
    """Draw the emotion over time.

    Arguments
    ---------
    timeline : list
        Segments of the recording, in order.
    labels : sequence of str
        Classes, drawn as stacked probabilities; or attributes, drawn as
        lines.
    duration_s : float
        Length of the recording.
    scale : sequence of float, optional
        Lowest and highest value of an attribute; without it, classes.
    layout : _Layout
        Where the panel lies.

    Returns
    -------
    bytes
        PNG.

    Example
    -------
    >>> from merit_modules.inference.emotion import Emotion, Segment
    >>> found = Emotion("sad", 0.8, {"sad": 0.8, "happy": 0.2})
    >>> draw_timeline([Segment(0.0, 2.0, found)], ["sad", "happy"], 2.0)[1:4]
    b'PNG'
    """
    edges = [segment.start_s for segment in timeline] + [duration_s]
    with _DRAWING, rc_context(RC):
        rows = -(-len(labels) // 3)
        figure, (panel,), _ = _panels(layout, [1.5], 0.1 + 0.2 * rows)
        if scale is None:
            handles = _stack(panel, timeline, labels, edges)
            panel.set_ylim(0, 1)
            panel.set_ylabel("probability")
        else:
            handles = _lines(panel, timeline, labels, edges)
            panel.set_ylim(*scale)
            panel.set_ylabel("value")
        _name_time([panel], duration_s)
        _legend(figure, layout, handles, labels)
        return _png(figure)


def _stack(panel, timeline, labels, edges):
    bottom, handles = np.zeros(len(timeline)), []
    for number, label in enumerate(labels):
        heights = [s.emotion.probabilities[label] for s in timeline]
        look = {
            "facecolor": COLOURS[number % len(COLOURS)],
            "hatch": HATCHES[number // len(COLOURS) % len(HATCHES)],
            "edgecolor": "white",
            "linewidth": 0,
        }
        top = bottom + heights
        panel.stairs(top, edges, baseline=bottom, fill=True, **look)
        handles.append(Patch(**look))
        bottom = top
    _mark(panel, edges, "white")
    return handles


def _lines(panel, timeline, labels, edges):
    handles = []
    for number, label in enumerate(labels):
        values = [s.emotion.attributes[label] for s in timeline]
        style = line_style(number)
        middles = (np.array(edges[:-1]) + edges[1:]) / 2
        panel.stairs(values, edges, baseline=None, color=style["color"])
        handles += panel.plot(middles, values, **style)
    _mark(panel, edges, "0.85")
    return handles


def _mark(panel, edges, colour):
    """Draw where segments meet, unless there are too many to see."""
    if len(edges) <= MAX_MARKS:
        for edge in edges[1:-1]:
            panel.axvline(edge, color=colour, linewidth=0.7)


def draw_routing(routing, n_experts, frame_s, duration_s, layout=WIDE):
    """Draw which expert served which frame: a strip per task.

    An expert has a row and a colour. A column that holds several frames is
    as dark as the expert's share of them.

    Arguments
    ---------
    routing : dict
        Task name to the best expert of each frame (T,).
    n_experts : int
        Experts of the pool.
    frame_s : float
        Seconds from one frame to the next.
    duration_s : float
        Length of the recording.
    layout : _Layout
        Where the strips lie.

    Returns
    -------
    bytes
        PNG.

    Example
    -------
    >>> routing = {"se": np.array([0, 0, 1, 2]), "ser": np.array([1, 1, 0, 0])}
    >>> draw_routing(routing, 3, 0.02, 0.08)[1:4]
    b'PNG'
    """
    names = [f"expert {expert}" for expert in range(n_experts)]
    colours = [COLOURS[k % len(COLOURS)] for k in range(n_experts)]
    height = max(0.78, 0.14 * n_experts)
    with _DRAWING, rc_context(RC):
        rows = -(-n_experts // 3)
        figure, panels, _ = _panels(
            layout, [height] * len(routing), 0.1 + 0.2 * rows
        )
        for panel, (task, experts) in zip(panels, routing.items()):
            shares = expert_shares(np.asarray(experts), n_experts)
            panel.imshow(
                _tint(shares, colours),
                aspect="auto",
                interpolation="nearest",
                extent=(0, len(experts) * frame_s, n_experts, 0),
            )
            panel.set_yticks(np.arange(n_experts) + 0.5, range(n_experts))
            panel.tick_params(axis="y", labelsize=6, length=0)
            panel.set_ylabel(TASK_NAMES.get(task, task), fontsize=7)
        _name_time(panels, duration_s)
        _legend(figure, layout, [Patch(color=c) for c in colours], names)
        return _png(figure)


def expert_shares(experts, n_experts, max_columns=MAX_COLUMNS):
    """Count which share of a column's frames each expert serves.

    Arguments
    ---------
    experts : numpy.ndarray
        The expert of each frame (T,).
    n_experts : int
        Experts of the pool.
    max_columns : int
        Most columns.

    Returns
    -------
    numpy.ndarray
        Shares (n_experts, columns); each column sums to 1.

    Example
    -------
    >>> expert_shares(np.array([0, 1, 1, 1]), 2, max_columns=2).tolist()
    [[0.5, 0.0], [0.5, 1.0]]
    """
    n_columns = min(len(experts), max_columns)
    columns = np.arange(len(experts)) * n_columns // max(1, len(experts))
    counts = np.zeros((n_experts, n_columns))
    np.add.at(counts, (experts.astype(int), columns), 1)
    return counts / counts.sum(axis=0)


def _tint(shares, colours):
    """Colour shares (E, columns) from white to each expert's colour."""
    full = np.array([to_rgb(colour) for colour in colours])
    return 1 - shares[..., None] * (1 - full[:, None])


def _panels(layout, heights, legend):
    """Make axes of these heights, and the place of a legend in them."""
    bottom = _TIME_AXIS + (0 if layout.beside else legend)
    total = _TOP + sum(heights) + _GAP * (len(heights) - 1) + bottom
    figure = new_figure(layout.width, total)
    figure.set_layout_engine("none")
    size = layout.width, total, layout.width, total
    width, top, panels = layout.width - layout.left - layout.right, _TOP, []
    for height in heights:
        top += height
        place = layout.left, total - top, width, height
        panels.append(figure.add_axes(np.divide(place, size)))
        top += _GAP
    rest = layout.left, legend - 0.2, width, 0.1
    if layout.beside:
        rest = layout.left + width + 0.15, bottom, 0.12, total - _TOP - bottom
    return figure, panels, np.divide(rest, size)


def _name_time(panels, duration_s):
    for panel in panels:
        panel.set_xlim(0, duration_s)
    for panel in panels[:-1]:
        panel.tick_params(labelbottom=False)
    panels[-1].set_xlabel("time (s)")


def _legend(figure, layout, handles, labels):
    options = {"frameon": False, "fontsize": 8}
    if layout.beside:
        place = 1 - (layout.right - 0.08) / layout.width
        options |= {"loc": "center left", "bbox_to_anchor": (place, 0.55)}
    else:
        options |= {"loc": "lower center", "ncols": min(3, len(labels))}
    figure.legend(handles, labels, handlelength=1.2, **options)


def _png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DPI)
    return stream.getvalue()


WINDOW_S = 0.025
HOP_S = 0.01
MAX_COLUMNS = 1000
_BLOCK = 2**18
_FLOOR = 1e-12


def spectrogram_db(path, max_columns=MAX_COLUMNS):
    """Compute a log-magnitude spectrogram block by block.

    Frames of 25 ms, one per 10 ms; where those are more than the columns, a
    column holds the mean power of its frames.

    Arguments
    ---------
    path : str or Path
        Audio file of one channel.
    max_columns : int
        Most columns of the result.

    Returns
    -------
    numpy.ndarray
        Decibels (F, columns), from 0 Hz to half the sample rate, over the
        whole length of the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(80000) / 8000)
    >>> soundfile.write(path, tone, 8000)
    >>> levels = spectrogram_db(path, max_columns=100)
    >>> levels.shape, int(levels[:, 50].argmax() * 40)  # bins of 40 Hz
    ((101, 100), 1000)
    """
    with soundfile.SoundFile(path) as audio:
        size = max(2, round(WINDOW_S * audio.samplerate))
        hop = max(1, round(HOP_S * audio.samplerate))
        n_frames = -(-audio.frames // hop)
        n_columns = min(n_frames, max_columns)
        power = np.zeros((n_columns, size // 2 + 1))
        window = np.hanning(size + 1)[:size]
        done = 0
        for frames in _frames(audio, size, hop, n_frames):
            spectrum = np.abs(np.fft.rfft(frames * window)) ** 2
            numbers = np.arange(done, done + len(frames))
            np.add.at(power, numbers * n_columns // n_frames, spectrum)
            done += len(frames)
    columns = np.arange(n_frames) * n_columns // n_frames
    power /= np.bincount(columns, minlength=n_columns)[:, None]
    return 10 * np.log10(power.T + _FLOOR)


def _frames(audio, size, hop, n_frames):
    """Yield frames (n, size), each in the middle of its hop."""
    before = (size - hop) // 2
    kept, left = np.zeros(before, np.float32), n_frames
    for block in audio.blocks(_BLOCK, dtype="float32"):
        kept = np.concatenate([kept, block])
        n_ready = min(left, max(0, (len(kept) - size) // hop + 1))
        if n_ready:
            yield _cut(kept, size, hop, n_ready)
            kept, left = kept[n_ready * hop :], left - n_ready
    if left:
        missing = (left - 1) * hop + size - len(kept)
        yield _cut(np.pad(kept, (0, max(0, missing))), size, hop, left)


def _cut(samples, size, hop, n_frames):
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)
    return frames[: (n_frames - 1) * hop + 1 : hop]

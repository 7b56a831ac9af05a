"""How all figures look: colours, markers, files."""

import hashlib
import io
import re
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from merit_modules.data.escaping import terminal

#: Okabe and Ito's colours: told apart by colour-blind readers.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    "#000000",
)
#: With them, lines can be told apart in grey print, too.
MARKERS = "osD^vPX*<>hd"
LINES = ("-", "--", "-.", ":")
#: Fonts go into PDF files as text.
RC = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "merit",
    "text.parse_math": False,  # names from outside have no formulas
}
PNG_DPI = 130


class Picture(NamedTuple):
    """A finished figure.

    Arguments
    ---------
    name : str
        Stem of its files.
    title : str
        Heading.
    caption : str
        What it shows, and how it was made.
    alt : str
        For who cannot see it.
    png : bytes
        The picture.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def new_figure(width, height):
    """Make an empty figure that belongs to no global state.

    Arguments
    ---------
    width : float
        In inches.
    height : float
        In inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    with rc_context(RC):
        figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_style(number):
    """Give the n-th system its colour, marker and line.

    Example
    -------
    >>> line_style(0)["color"], line_style(7)["color"]
    ('#0072B2', '#0072B2')
    >>> line_style(0)["linestyle"] == line_style(7)["linestyle"]
    False
    """
    n_colours = len(COLOURS)
    return {
        "color": COLOURS[number % n_colours],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[(number + 2 * (number // n_colours)) % len(LINES)],
        "markersize": 5,
        "linewidth": 1.4,
    }


def labelled(name):
    """Keep a name in the legend, from which Matplotlib drops hidden ones."""
    return f" {name}" if name.startswith("_") else name


def add_legend(figure, handles, labels, most_columns=3, **kwargs):
    """Put a legend below, in as many columns as its names leave room for.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    handles : list of matplotlib.artist.Artist
        What is explained.
    labels : list of str
        Its names.
    most_columns : int
        How many columns there may be.
    **kwargs : dict
        Further arguments of ``matplotlib.figure.Figure.legend``.
    """
    for n_columns in range(min(most_columns, len(labels)), 0, -1):
        legend = figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=n_columns,
            frameon=False,
            **kwargs,
        )
        box = legend.get_window_extent(figure.canvas.get_renderer())
        if n_columns == 1 or box.width <= figure.bbox.width:
            return
        legend.remove()


def file_stem(name):
    """Make a name that any file may have.

    Example
    -------
    >>> file_stem("expert_load_base_line"), file_stem("load_exp/a")
    ('expert_load_base_line', 'load_exp_a_43587b03')
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return name if safe == name else f"{safe}_{digest}"


def finish(figure, folder, name, title, caption, alt):
    """Save a figure as PNG and PDF and hand it to the page.

    Arguments
    ---------
    figure : matplotlib.figure.Figure
        The figure.
    folder : Path
        Where the files go.
    name : str
        Their stem, see :func:`file_stem`.
    title, caption, alt : str
        See :class:`Picture`.

    Returns
    -------
    Picture
        The finished figure.
    """
    for text in figure.findobj(Text):
        text.set_text(terminal(text.get_text(), keep="\n"))
    folder, name = Path(folder), file_stem(name)
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    with rc_context(RC):
        figure.savefig(stream, format="png", dpi=PNG_DPI)
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    (folder / f"{name}.png").write_bytes(stream.getvalue())
    return Picture(name, title, caption, alt, stream.getvalue())

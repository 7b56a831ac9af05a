"""The tables of a report as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
from typing import NamedTuple

from merit_modules.report.compare import CCC, NOISY

#: Score to heading and number of decimals.
HEADINGS = {
    "f1_macro": ("F1-macro", 3),
    "uar": ("UAR", 3),
    "wa": ("weighted accuracy (F1-micro)", 3),
    "seg_snr_db": ("segmental SNR, dB", 2),
    "seg_snr_rescaled_db": ("segmental SNR, rescaled, dB", 2),
    "pesq_wb": ("PESQ, wide band", 2),
    "stoi": ("STOI", 3),
    "estoi": ("extended STOI", 3),
    "si_sdr_db": ("SI-SDR, dB", 2),
    "csig": ("CSIG", 2),
    "cbak": ("CBAK", 2),
    "covl": ("COVL", 2),
    "dnsmos_sig": ("DNSMOS SIG", 2),
    "dnsmos_bak": ("DNSMOS BAK", 2),
    "dnsmos_ovrl": ("DNSMOS OVRL", 2),
}
LEGEND = (
    "± standard deviation over runs, where there are several; 95 % intervals "
    "in brackets; in parentheses the change against {baseline} "
    "(of decibels, the difference); + significantly higher, - significantly "
    "lower than it; the highest value in bold."
)
_MISSING = "-"


def heading_of(name):
    """Give the heading of a score and its number of decimals.

    Example
    -------
    >>> heading_of("si_sdr_db"), heading_of("ccc_arousal")
    (('SI-SDR, dB', 2), ('CCC, arousal', 3))
    """
    if name.startswith(CCC):
        return f"CCC, {name.removeprefix(CCC)}", 3
    return HEADINGS.get(name, (name, 3))


class Grid:
    """One table, as text cells.

    Arguments
    ---------
    name : str
        Score.
    table : dict
        System to column to cell.
    columns : list of Column
        All columns.
    with_intervals : bool
        Write the intervals, too.

    Example
    -------
    >>> from merit_modules.report.compare import Column
    >>> columns = [Column("clean", "clean", None, [])]
    >>> cell = {"score": 0.5, "low": 0.4, "high": 0.6}
    >>> Grid("uar", {"a": {"clean": cell}}, columns).rows
    [['a', '0.500 [0.400, 0.600]']]
    """

    def __init__(self, name, table, columns, with_intervals=True):
        self.title, self.decimals = heading_of(name)
        self.columns = [
            c
            for c in columns
            if any(c.name in cells for cells in table.values())
        ]
        self.header = ["system", *(c.name for c in self.columns)]
        self.best = {
            c.name: max(
                (
                    (cells[c.name]["score"], system)
                    for system, cells in table.items()
                    if c.name in cells and system != NOISY
                ),
                default=(None, None),
            )[1]
            for c in self.columns
        }
        self.rows = [
            [
                system,
                *(
                    self._text(cells.get(c.name), with_intervals)
                    for c in self.columns
                ),
            ]
            for system, cells in table.items()
        ]

    def _text(self, cell, with_interval):
        if cell is None:
            return _MISSING
        text = f"{cell['score']:.{self.decimals}f}{cell.get('mark', '')}"
        if with_interval and "std" in cell:
            text += f" ± {cell['std']:.{self.decimals}f}"
        if with_interval:
            text += (
                f" [{cell['low']:.{self.decimals}f}, "
                f"{cell['high']:.{self.decimals}f}]"
            )
        if "relative_percent" in cell:
            text += f" ({cell['relative_percent']:+.1f} %)"
        elif "difference" in cell:
            text += f" ({cell['difference']:+.{self.decimals}f})"
        return text

    def is_best(self, system, number):
        """Tell whether a system has the highest score of a column."""
        return self.best[self.columns[number].name] == system


class Extra(NamedTuple):
    """A table that compares nothing, as text.

    Arguments
    ---------
    title : str
        Heading.
    legend : str
        What its cells are.
    header : list of str
        Names of the columns.
    rows : list of list of str
        Cells.
    """

    title: str
    legend: str
    header: list
    rows: list


def markdown(grids, extras, lines, baseline):
    """Write a report as Markdown.

    Arguments
    ---------
    grids : list of Grid
        The tables.
    extras : list of Extra
        Further tables.
    lines : list of str
        What was compared.
    baseline : str or None
        Named in the legend.

    Returns
    -------
    str
        The text.
    """
    text = "".join(f"{line}\n\n" for line in lines)
    for grid in grids:
        text += f"## {grid.title}\n\n"
        text += "| " + " | ".join(grid.header) + " |\n"
        text += "|---" * len(grid.header) + "|\n"
        for system, *cells in grid.rows:
            cells = [
                f"**{cell}**" if grid.is_best(system, i) else cell
                for i, cell in enumerate(cells)
            ]
            text += "| " + " | ".join([system, *cells]) + " |\n"
        text += f"\n{legend(baseline)}\n\n"
    for extra in extras:
        text += f"## {extra.title}\n\n"
        text += "| " + " | ".join(extra.header) + " |\n"
        text += "|---" * len(extra.header) + "|\n"
        for row in extra.rows:
            text += "| " + " | ".join(row) + " |\n"
        text += f"\n{extra.legend}\n\n"
    return text


def legend(baseline):
    """Explain the cells of the tables."""
    if baseline is None:
        return (
            "± standard deviation over runs, where there are several; 95 % "
            "intervals in brackets; the highest value in bold."
        )
    return LEGEND.format(baseline=baseline)


def latex(grids, baseline):
    r"""Write the tables as LaTeX, for ``\usepackage{booktabs}``.

    Arguments
    ---------
    grids : list of Grid
        The tables.
    baseline : str or None
        Named in the captions.

    Returns
    -------
    str
        One ``table`` environment each.
    """
    text = ""
    for grid in grids:
        text += "\\begin{table}\n\\centering\n"
        caption = f"{grid.title}. {legend(baseline)}"
        text += f"\\caption{{{escape_latex(caption)}}}\n"
        text += f"\\begin{{tabular}}{{l{'r' * len(grid.columns)}}}\n\\toprule\n"
        text += (
            " & ".join(map(escape_latex, grid.header)) + " \\\\\n\\midrule\n"
        )
        for system, *cells in grid.rows:
            cells = [escape_latex(cell) for cell in cells]
            cells = [
                f"\\textbf{{{cell}}}" if grid.is_best(system, i) else cell
                for i, cell in enumerate(cells)
            ]
            text += " & ".join([escape_latex(system), *cells]) + " \\\\\n"
        text += "\\bottomrule\n\\end{tabular}\n\\end{table}\n\n"
    return text


def escape_latex(text):
    r"""Escape what LaTeX takes for commands.

    Example
    -------
    >>> print(escape_latex("naive_mtl: 5 %"))
    naive\_mtl: 5 \%
    """
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{c: f"\\{c}" for c in "&%$#_{}"},
    }
    return "".join(special.get(c, c) for c in text)


def long_csv(tables):
    """Write all cells as CSV, one per line.

    Arguments
    ---------
    tables : dict
        Score to system to column to cell.

    Returns
    -------
    str
        The text; what a cell lacks is left empty.
    """
    names = {
        name: None
        for table in tables.values()
        for cells in table.values()
        for cell in cells.values()
        for name in cell
    }
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream,
        ["score_name", "system", "column", *names],
        restval="",
        lineterminator="\n",
    )
    writer.writeheader()
    for score, table in tables.items():
        for system, cells in table.items():
            for column, cell in cells.items():
                about = {"score_name": score, "system": system}
                writer.writerow({**about, "column": column, **cell})
    return stream.getvalue()


def as_json(content):
    """Write JSON that any reader takes: no NaN in it."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"

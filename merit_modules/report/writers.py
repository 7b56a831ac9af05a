"""The tables of a report as Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from typing import NamedTuple

from merit_modules.data.escaping import latex, markdown, spreadsheet
from merit_modules.evaluation.metrics.table import number
from merit_modules.report.compare import CCC, GAIN

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
    "All systems of a column are scored on the observations that all of them "
    "have. ± standard deviation over runs, where there are several; 95 % "
    "intervals in brackets; the highest value in bold, that of the noisy input "
    "too: where it is bold, no system made the speech better. "
)
CHANGES = (
    "In parentheses the change against {baseline} (in % for shares of right "
    "decisions, else the difference); + significantly higher, - significantly "
    "lower than it. "
)
GAINS = (
    "Gain: enhanced minus noisy, of the same utterances; below 0 the input was "
    "better, and no such gain is bold."
)


def heading_of(name):
    """Give the heading of a score and its number of decimals.

    Example
    -------
    >>> heading_of("si_sdr_db"), heading_of("ccc_arousal")
    (('SI-SDR, dB', 2), ('CCC, arousal', 3))
    >>> heading_of("gain_stoi")
    ('Gain in STOI', 3)
    """
    if name.startswith(GAIN):
        title, decimals = heading_of(name.removeprefix(GAIN))
        return f"Gain in {title}", decimals
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

    Example
    -------
    >>> from merit_modules.report.compare import Column
    >>> columns = [Column("clean", "clean", None, [])]
    >>> cell = {"score": 0.5, "low": 0.4, "high": 0.6}
    >>> Grid("uar", {"a": {"clean": cell}}, columns).rows
    [['a', '0.500 [0.400, 0.600]']]
    """

    def __init__(self, name, table, columns):
        self.title, self.decimals = heading_of(name)
        self.columns = [
            c
            for c in columns
            if any(c.name in cells for cells in table.values())
        ]
        self.header = ["system", *(c.name for c in self.columns)]
        self.rows, self._best = [], set()
        for system, cells in table.items():
            found = [cells.get(c.name) for c in self.columns]
            self.rows.append([system, *map(self._text, found)])
            self._best |= {
                (system, i) for i, c in enumerate(found) if c and c.get("best")
            }

    def _text(self, cell):
        if cell is None:
            return number(None, 0)

        def show(name, sign=""):
            return number(cell[name], self.decimals, sign)

        text = f"{show('score')}{cell.get('mark', '')}"
        if "std" in cell:
            text += f" ± {show('std')}"
        text += f" [{show('low')}, {show('high')}]"
        if "relative_percent" in cell:
            text += f" ({number(cell['relative_percent'], 1, '+')} %)"
        elif "difference" in cell:
            text += f" ({show('difference', '+')})"
        return text

    def is_best(self, system, number):
        """Tell whether a system has the highest score of a column."""
        return (system, number) in self._best


class Extra(NamedTuple):
    """A table that compares nothing, as text.

    Arguments
    ---------
    title : str
        Heading of its section.
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


def as_markdown(title, sections, grids, extras, baseline):
    """Write a report as Markdown.

    Arguments
    ---------
    title : str
        Title.
    sections : dict
        Heading to sentences: what is found, what was compared.
    grids : list of Grid
        The tables.
    extras : list of Extra
        Further tables.
    baseline : str or None
        Named in the legend.

    Returns
    -------
    str
        The text.
    """
    text = "".join(
        f"## {heading}\n\n" + "".join(f"{markdown(s)}\n\n" for s in sentences)
        for heading, sentences in sections.items()
    )
    text += f"## Scores\n\n{markdown(legend(baseline))}\n\n"
    for grid in grids:
        rows = [
            [
                markdown(system),
                *(
                    f"**{cell}**" if grid.is_best(system, i) else cell
                    for i, cell in enumerate(cells)
                ),
            ]
            for system, *cells in grid.rows
        ]
        text += f"### {markdown(grid.title)}\n\n{_table(grid.header, rows)}\n"
    for extra in extras:
        rows = [map(markdown, row) for row in extra.rows]
        text += f"## {extra.title}\n\n{_table(extra.header, rows)}\n"
        text += f"{markdown(extra.legend)}\n\n"
    contents = "".join(
        f"{'  ' * (len(level) - 2)}- [{heading}](#{_anchor(heading)})\n"
        for level, heading in re.findall(r"^(##+) (.*)$", text, re.M)
    )
    first, rest = text.split("## What was compared", 1)
    contents = f"## Contents\n\n{contents}\n## What was compared"
    return f"# {markdown(title)}\n\n{first}{contents}{rest}"


def _table(header, rows):
    lines = [map(markdown, header), ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _anchor(heading):
    """Name a heading as GitHub and most others do."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def legend(baseline):
    """Explain the cells of the tables."""
    changes = CHANGES.format(baseline=baseline) if baseline else ""
    return LEGEND + changes + GAINS


def as_latex(grids, baseline):
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
        text += f"\\caption{{{latex(caption)}}}\n"
        text += f"\\begin{{tabular}}{{l{'r' * len(grid.columns)}}}\n\\toprule\n"
        text += " & ".join(map(latex, grid.header)) + " \\\\\n\\midrule\n"
        for system, *cells in grid.rows:
            cells = [
                f"\\textbf{{{cell}}}" if grid.is_best(system, i) else cell
                for i, cell in enumerate(map(latex, cells))
            ]
            text += " & ".join([latex(system), *cells]) + " \\\\\n"
        text += "\\bottomrule\n\\end{tabular}\n\\end{table}\n\n"
    return text


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
                about = {
                    "score_name": score,
                    "system": system,
                    "column": column,
                }
                about = {k: spreadsheet(v) for k, v in about.items()}
                writer.writerow({**about, **cell})
    return stream.getvalue()


def as_json(content):
    """Write JSON that any reader takes: no NaN in it."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"

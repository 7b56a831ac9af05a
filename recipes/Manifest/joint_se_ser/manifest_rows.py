"""Read the CSV file that lists a corpus, and say where it is wrong.

The first line names the columns, in any order: ``wav`` and ``emo``, and where
they are known ``spk_id``, ``split`` and ``duration`` (seconds). Whatever is
wrong is told with file, line and column, all of it at once.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import math
import os
from typing import NamedTuple

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.table import at, read_table
from merit_modules.data.text import (
    clean,
    is_missing,
    key,
    look_alikes,
    speaker_of,
    spellings,
)
from merit_modules.errors import InputError

NEEDED = ("wav", "emo")
COLUMNS = (*NEEDED, "spk_id", "split", "duration")
#: What stands in the column split, in any case, and what it means.
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "development": "valid",
    "test": "test",
}

_MAX_DURATION_S = 1e6
N_NAMED = 5  # of many speakers, so many are named in a note


class Row(NamedTuple):
    """One utterance, as the CSV file has it.

    Arguments
    ---------
    line : int
        Where it stands in the file, from 1.
    wav : str
        The cell, as it is.
    path : str
        The absolute path that the cell means.
    emo : str
        Label.
    spk_id : str or None
        Speaker, where known.
    split : str or None
        ``train``, ``valid`` or ``test``, where given.
    duration_s : float or None
        Length in seconds, where given.
    """

    line: int
    wav: str
    path: str
    emo: str
    spk_id: str | None
    split: str | None
    duration_s: float | None


class Table(NamedTuple):
    """A CSV file.

    Arguments
    ---------
    rows : list of Row
        Its utterances.
    extra_columns : list of str
        Columns that mean nothing here.
    notes : list of str
        What was taken for one speaker, and what for two.
    """

    rows: list
    extra_columns: list
    notes: list


def read_rows(manifest_csv):
    """Read and check a CSV file; no audio is looked for.

    Separators and encodings are recognised, see
    :mod:`merit_modules.data.table`. Relative paths start from the file's
    folder. A speaker has one spelling in all rows.

    Arguments
    ---------
    manifest_csv : str or Path
        The file.

    Returns
    -------
    Table
        Rows in the file's order.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column or holds no row; and for
        missing values of ``wav`` and ``emo`` (``nan`` is one), a file that
        comes twice, labels that differ in case only, and splits and durations
        that are none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("wav;emo;split\\na.wav;calm;Dev\\nb.wav;tense;\\n")
    >>> [(row.line, row.wav, row.split) for row in read_rows(path).rows]
    [(2, 'a.wav', 'valid'), (3, 'b.wav', None)]
    """
    table = read_table(manifest_csv, NEEDED, COLUMNS[2:], ["duration"])
    folder = os.path.dirname(os.path.abspath(manifest_csv))
    reader = _RowReader(manifest_csv, folder)
    rows = [reader.row(*row) for row in table.rows]
    problems = {(line, ""): text for line, text in table.problems.items()}
    problems = dict(sorted((problems | reader.problems).items()))
    raise_if_broken(problems, f"cells of {manifest_csv}")
    if not rows:
        raise InputError(f"{manifest_csv}: no row below the first line")
    extra = [name for name in table.columns if name not in ("", *COLUMNS)]
    return Table(*_one_spelling(manifest_csv, rows, extra))


def _one_spelling(manifest_csv, rows, extra):
    """Give each speaker one spelling; tell of it, and of what looks alike."""
    speakers = [row.spk_id for row in rows if row.spk_id is not None]
    spelt = spellings(speakers)
    rows = [
        row
        if row.spk_id is None
        else row._replace(spk_id=spelt[key(row.spk_id)][0])
        for row in rows
    ]
    place = f"{manifest_csv}, column spk_id"
    several = [names for names in spelt.values() if len(names) > 1]
    alike = look_alikes(speakers)
    notes = []
    if several:
        notes.append(f"{place}: taken for one speaker: {_listed(several)}")
    if alike:
        notes.append(
            f"{place}: not taken for one speaker: {_listed(alike)}; where "
            "they are one, write it in one way"
        )
    return rows, extra, notes


def _listed(groups):
    shown = [" = ".join(map(repr, names)) for names in groups[:N_NAMED]]
    more = f" ({len(groups)} in all)" if len(groups) > N_NAMED else ""
    return ", ".join(shown) + more


class _RowReader:
    """Checks cells, and remembers what must not come twice."""

    def __init__(self, manifest_csv, folder):
        self.manifest_csv = manifest_csv
        self.folder = folder
        self.problems = {}
        self._line_of_path = {}
        self._first_label = {}

    def row(self, line, cells):
        """Turn cells into a row, noting what is wrong with them."""
        return Row(
            line=line,
            wav=cells["wav"],
            path=self._path(line, cells["wav"]),
            emo=self._label(line, cells["emo"]),
            spk_id=speaker_of(cells.get("spk_id")),
            split=self._split(line, cells.get("split", "")),
            duration_s=self._duration_s(line, cells.get("duration", "")),
        )

    def _wrong(self, line, column, message):
        place = at(self.manifest_csv, line, column)
        self.problems[line, column] = f"{place}: {message}"

    def _is_missing(self, line, column, cell, expected):
        if is_missing(cell):
            found = f"{cell!r} stands for no value" if cell else "empty"
            self._wrong(line, column, f"{found}, expected {expected}")
            return True
        return False

    def _path(self, line, cell):
        if self._is_missing(line, "wav", cell, "the path of a file"):
            return cell
        path = os.path.normpath(os.path.join(self.folder, cell))
        before = self._line_of_path.setdefault(path, line)
        if before != line:
            self._wrong(line, "wav", f"{cell} came before, in line {before}")
        return path

    def _label(self, line, cell):
        if self._is_missing(line, "emo", cell, "a label"):
            return cell
        cell = clean(cell)
        label, before = self._first_label.setdefault(key(cell), (cell, line))
        if cell != label:
            self._wrong(line, "emo", f"{cell!r} was {label!r} in line {before}")
        return cell

    def _split(self, line, cell):
        if is_missing(cell):
            return None
        if key(cell) not in SPLIT_NAMES:
            self._wrong(
                line,
                "split",
                f"expected one of {', '.join(SPLIT_NAMES)}, got {cell!r}",
            )
        return SPLIT_NAMES.get(key(cell))

    def _duration_s(self, line, cell):
        if is_missing(cell):
            return None
        try:
            duration_s = float(cell)
        except ValueError:
            duration_s = math.nan
        if not 0 < duration_s < _MAX_DURATION_S:
            self._wrong(
                line, "duration", f"expected seconds above 0, got {cell!r}"
            )
        return duration_s

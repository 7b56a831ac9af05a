"""Read the CSV file that lists a corpus, and say where it is wrong.

The first line names the columns, in any order: ``wav`` and ``emo``, and where
they are known ``spk_id``, ``split`` and ``duration`` (seconds). Whatever is
wrong is told with file, line and column, all of it at once.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import csv
import io
import math
import os
from pathlib import Path
from typing import NamedTuple

from merit_modules.data.audio import raise_if_broken
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

_DELIMITERS = ",;\t"
_NO_SPEAKER = ("", "unknown")
_MAX_DURATION_S = 1e6


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
    """

    rows: list
    extra_columns: list


def at(manifest_csv, line, column):
    """Name a place in a CSV file, for messages.

    Arguments
    ---------
    manifest_csv : str or Path
        The file.
    line : int
        From 1.
    column : str
        Name of the column.

    Returns
    -------
    str

    Example
    -------
    >>> at("list.csv", 7, "emo")
    'list.csv, line 7, column emo'
    """
    return f"{manifest_csv}, line {line}, column {column}"


def read_rows(manifest_csv):
    """Read and check a CSV file; no audio is looked for.

    Commas, semicolons and tabs separate cells, whichever the first line
    shows; UTF-8 with or without a mark at its beginning, or UTF-16. Blank
    lines do not count. Relative paths start from the file's folder.

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
        empty cells of ``wav`` and ``emo``, a file that comes twice, labels
        that differ in case only, and splits and durations that are none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("wav;emo;split\\na.wav;calm;Dev\\nb.wav;tense;\\n")
    >>> [(row.line, row.wav, row.split) for row in read_rows(path).rows]
    [(2, 'a.wav', 'valid'), (3, 'b.wav', None)]
    """
    text = _read_text(Path(manifest_csv))
    delimiter = _delimiter(text)
    lines = _cells(manifest_csv, text, delimiter)
    header_line, header = next(lines, (1, []))
    names = [name.casefold() for name in header]
    _check_header(manifest_csv, header_line, header, names)
    folder = os.path.dirname(os.path.abspath(manifest_csv))
    reader = _RowReader(manifest_csv, folder, delimiter)
    rows = []
    for line, cells in lines:
        if len(cells) > len(header):
            reader.problems[line, ""] = (
                f"{manifest_csv}, line {line}: expected {len(header)} cells, "
                f"as in the first line, got {len(cells)}"
            )
            continue
        cells += [""] * (len(header) - len(cells))
        rows.append(reader.row(line, dict(zip(names, cells))))
    raise_if_broken(reader.problems, f"cells of {manifest_csv}")
    if not rows:
        raise InputError(f"{manifest_csv}: no row below the first line")
    extra = [name for name in header if name.casefold() not in COLUMNS]
    return Table(rows, list(filter(None, extra)))


def _read_text(path):
    """Return the file's text, whichever Unicode it is in."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such CSV file") from None
    except OSError as error:
        raise InputError(
            f"{path}: expected a CSV file: {error.strerror}"
        ) from None
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: expected UTF-8 text, got the byte "
            f"0x{data[error.start]:02x}; save the file as CSV UTF-8"
        ) from None


def _delimiter(text):
    """Return the delimiter by which the first line names most columns."""
    header = text.lstrip().partition("\n")[0]

    def n_known(delimiter):
        names = {name.strip().strip('"') for name in header.split(delimiter)}
        return len({name.strip().casefold() for name in names} & set(COLUMNS))

    return max(_DELIMITERS, key=n_known)


def _cells(manifest_csv, text, delimiter):
    """Yield line number and cells of every line that is not blank."""
    # Strict: an open quote would otherwise swallow the rest of the file.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True
    )
    line = 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{manifest_csv}, line {line}: cannot be read as CSV: {error}"
        ) from None


def _check_header(manifest_csv, line, header, names):
    for column in COLUMNS:
        if names.count(column) > 1:
            raise InputError(
                f"{at(manifest_csv, line, column)}: expected one such column, "
                f"got {names.count(column)}"
            )
    for column in NEEDED:
        if column not in names:
            raise InputError(
                f"{at(manifest_csv, line, column)}: there is no such column; "
                f"expected {', '.join(NEEDED)} and, where known, "
                f"{', '.join(COLUMNS[len(NEEDED) :])} in the first line, got "
                f"{', '.join(filter(None, header)) or 'nothing'}"
            )


class _RowReader:
    """Checks cells, and remembers what must not come twice."""

    def __init__(self, manifest_csv, folder, delimiter):
        self.manifest_csv = manifest_csv
        self.folder = folder
        self.decimal_comma = delimiter != ","
        self.problems = {}
        self._line_of_path = {}
        self._first_label = {}

    def row(self, line, cells):
        """Turn cells into a row, noting what is wrong with them."""
        speaker = cells.get("spk_id", "")
        return Row(
            line=line,
            wav=cells["wav"],
            path=self._path(line, cells["wav"]),
            emo=self._label(line, cells["emo"]),
            spk_id=None if speaker.casefold() in _NO_SPEAKER else speaker,
            split=self._split(line, cells.get("split", "")),
            duration_s=self._duration_s(line, cells.get("duration", "")),
        )

    def _wrong(self, line, column, message):
        place = at(self.manifest_csv, line, column)
        self.problems[line, column] = f"{place}: {message}"

    def _path(self, line, cell):
        if not cell:
            self._wrong(line, "wav", "empty, expected the path of a file")
            return cell
        path = os.path.normpath(os.path.join(self.folder, cell))
        before = self._line_of_path.setdefault(path, line)
        if before != line:
            self._wrong(line, "wav", f"{cell} came before, in line {before}")
        return path

    def _label(self, line, cell):
        if not cell:
            self._wrong(line, "emo", "empty, expected a label")
            return cell
        label, before = self._first_label.setdefault(
            cell.casefold(), (cell, line)
        )
        if cell != label:
            self._wrong(line, "emo", f"{cell!r} was {label!r} in line {before}")
        return cell

    def _split(self, line, cell):
        if cell and cell.casefold() not in SPLIT_NAMES:
            self._wrong(
                line,
                "split",
                f"expected one of {', '.join(SPLIT_NAMES)}, got {cell!r}",
            )
        return SPLIT_NAMES.get(cell.casefold())

    def _duration_s(self, line, cell):
        if not cell:
            return None
        text = cell.replace(",", ".") if self.decimal_comma else cell
        try:
            duration_s = float(text)
        except ValueError:
            duration_s = math.nan
        if not 0 < duration_s < _MAX_DURATION_S:
            self._wrong(
                line, "duration", f"expected seconds above 0, got {cell!r}"
            )
        return duration_s

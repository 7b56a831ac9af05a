"""Read tables that people and programs write: one reader for all of them.

Commas, semicolons and tabs; UTF-8 with or without a mark at its beginning,
UTF-16, and, with a warning, what older spreadsheets write. Header names are
found whatever their case. What is wrong is told with file and line.
"""

import codecs
import csv
import io
import logging
import re
from pathlib import Path
from typing import NamedTuple

from merit_modules.data import text as texts
from merit_modules.errors import InputError

logger = logging.getLogger(__name__)

_DELIMITERS = ",;\t"
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LINE_END = re.compile(r"\r\n|\r|\n")
# A character of several bytes: hardly anybody writes one by chance.
_UTF8_CHARACTER = re.compile(rb"[\xc3-\xf4][\x80-\xbf]")


class Row(NamedTuple):
    """A row of a table.

    Arguments
    ---------
    line : int
        Where it begins in the file, from 1.
    cells : dict
        Column to text; trimmed, and empty where the row ends before.
    """

    line: int
    cells: dict


class Table(NamedTuple):
    """A table.

    Arguments
    ---------
    columns : list of str
        Their names, trimmed; those that were asked for as they were.
    rows : list of Row
        What stands below, but for blank lines.
    problems : dict
        Line to what is wrong with it, of rows that do not fit the columns.
    """

    columns: list
    rows: list
    problems: dict


def at(path, line, column):
    """Name a place in a table, for messages.

    Arguments
    ---------
    path : str or Path
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
    return f"{path}, line {line}, column {column}"


def read_text(path, what="text file"):
    """Read a text file in whichever encoding it is.

    Arguments
    ---------
    path : str or Path
        The file.
    what : str
        What it should be, for messages.

    Returns
    -------
    str
        Its text, with the line ends that it has.

    Raises
    ------
    InputError
        If it cannot be read or is no text.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes("gelöst".encode("utf-16"))
    >>> read_text(path)
    'gelöst'
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {what}") from None
    except OSError as error:
        raise InputError(
            f"{path}: expected a {what}: {error.strerror}"
        ) from None
    encoding = next(
        (name for mark, name in _MARKS.items() if data.startswith(mark)),
        "utf-8",
    )
    try:
        found = data.decode(encoding)
    except UnicodeDecodeError as error:
        found = _older(path, data, error)
    if "\0" in found:
        line = len(_LINE_END.split(found[: found.index("\0")]))
        raise InputError(
            f"{path}, line {line}: expected a {what}, got bytes that are no "
            "text; save it as CSV UTF-8"
        )
    return found


def _older(path, data, error):
    """Decode what is not Unicode, or say where it goes wrong."""
    before = data[: error.start].decode("latin-1")
    line = len(_LINE_END.split(before))
    place = f"{path}, line {line}"
    if error.encoding != "utf-8" or b"\0" in data:
        raise InputError(
            f"{place}: cannot be read as {error.encoding}: {error.reason}"
        )
    byte = f"the byte 0x{data[error.start]:02x}"
    if _UTF8_CHARACTER.search(data):
        raise InputError(
            f"{place}: expected UTF-8 text as in other lines, got {byte}"
        )
    try:
        name, found = "cp1252", data.decode("cp1252")
    except UnicodeDecodeError:
        name, found = "latin-1", data.decode("latin-1")
    told = texts.trim(_LINE_END.split(found)[line - 1])[:60]
    logger.warning(
        f"{place}: {byte} is not UTF-8: read as {name}, {told!r}; is that "
        "right? Save the file as CSV UTF-8"
    )
    return found


def read_table(path, needed, known=(), numbers=(), what="CSV file"):
    """Read a table whose first line names its columns.

    Arguments
    ---------
    path : str or Path
        The file.
    needed : list of str
        Columns that must be there.
    known : list of str
        Others that mean something.
    numbers : list of str
        Columns whose commas are points, where commas do not separate cells.
    what : str
        What the file should be, for messages.

    Returns
    -------
    Table
        Columns in the file's order, rows likewise.

    Raises
    ------
    InputError
        If the file cannot be read, or lacks a column or has it twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "list.csv"
    >>> _ = path.write_text("WAV ;emo\\n\\na.wav; calm\\n")
    >>> table = read_table(path, ["wav", "emo"])
    >>> table.columns, table.rows
    (['wav', 'emo'], [Row(line=3, cells={'wav': 'a.wav', 'emo': 'calm'})])
    """
    text, first = read_text(path, what), 1
    line, *below = _LINE_END.split(text, maxsplit=1)
    if stated := re.fullmatch(r"sep=(.) *", line):
        # Excel's own way to say what separates cells.
        delimiter, first, text = stated[1], 2, "".join(below)
    else:
        delimiter = _delimiter(text, {texts.key(c) for c in (*needed, *known)})
    lines = _lines(path, text, delimiter, first)
    header_line, header = next(lines, (1, []))
    columns = _columns(path, header_line, header, needed, known)
    n_needed = max((columns.index(name) + 1 for name in needed), default=0)
    rows, problems = [], {}
    for line, cells in lines:
        full = [texts.trim(cell) for cell in cells[: len(columns)]]
        if any(map(texts.trim, cells[len(columns) :])) or len(cells) < n_needed:
            problems[line] = (
                f"{path}, line {line}: expected {len(columns)} cells, as in "
                f"the first line, got {len(cells)}"
            )
            continue
        full += [""] * (len(columns) - len(full))
        row = Row(line, dict(zip(columns, full)))
        if delimiter != ",":
            for name in {*numbers} & {*columns}:
                row.cells[name] = row.cells[name].replace(",", ".")
        rows.append(row)
    return Table(columns, rows, problems)


def _delimiter(text, known):
    """Return the delimiter by which the first line names most columns."""
    header = _LINE_END.split(text.lstrip(), maxsplit=1)[0]

    def fit(delimiter):
        names = {texts.key(n).strip('" ') for n in header.split(delimiter)}
        return len(names & known), len(names)

    return max(_DELIMITERS, key=fit)


def _lines(path, text, delimiter, first):
    """Yield line number and cells of every line that is not blank."""
    # Strict: an open quote would otherwise swallow the rest of the file.
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        skipinitialspace=True,
    )
    line = first
    try:
        for cells in reader:
            if any(map(texts.trim, cells)):
                yield line, cells
            line = reader.line_num + first
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: cannot be read as CSV: {error}"
        ) from None


def _columns(path, line, header, needed, known):
    """Name the columns, those that are asked for as they are asked for."""
    asked = {texts.key(name): name for name in (*needed, *known)}
    columns = [asked.get(texts.key(n), texts.clean(n)) for n in header]
    while columns and not columns[-1]:
        columns.pop()
    for column in (*needed, *known):
        if columns.count(column) > 1:
            raise InputError(
                f"{at(path, line, column)}: expected one such column, got "
                f"{columns.count(column)}"
            )
    for column in needed:
        if column not in columns:
            others = f" and, where known, {', '.join(known)}" if known else ""
            raise InputError(
                f"{at(path, line, column)}: there is no such column; expected "
                f"{', '.join(needed)}{others} in the first line, got "
                f"{', '.join(filter(None, columns)) or 'nothing'}"
            )
    return columns

"""Read CSV and JSON label files as rows, and say where each one stands.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import csv
import json
from pathlib import Path

from merit_modules.errors import InputError


def read_rows(path):
    """Read a label file as named fields.

    Arguments
    ---------
    path : str or Path
        ``*.json``: one object, ``{file name: fields}``. Any other name: CSV
        with a header.

    Returns
    -------
    fields : list of str
        The names in the header; of JSON all names of any entry, sorted.
    rows : list of tuple
        ``(place, {field: value})``; a place is a line or an entry's number.
        File names that come twice are two rows, in JSON, too.

    Raises
    ------
    InputError
        If the file cannot be read or parsed, names a field twice, or has a
        row that does not fit its header.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "labels.json")
    >>> _ = path.write_text('{"a.wav": {"EmoClass": "S"}}')
    >>> read_rows(path)
    (['EmoClass', 'FileName'],
     [('entry 1', {'EmoClass': 'S', 'FileName': 'a.wav'})])
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":
            return _read_json(path)
        return _read_csv(path)
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"not UTF-8 text: {error.reason}") from None


def _read_csv(path):
    rows = []
    # utf-8-sig: spreadsheets put a byte order mark before the first name.
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            for cells in reader:
                if cells:
                    place = f"line {reader.line_num}"
                    rows.append((place, _named(path, place, header, cells)))
        except csv.Error as error:
            raise _unreadable(
                path, f"not CSV: line {reader.line_num}: {error}"
            ) from None
    repeated = [name for name in header if header.count(name) > 1]
    if repeated:
        raise InputError(f"{path}: the header names {repeated[0]!r} twice")
    return header, rows


def _named(path, place, header, cells):
    if len(cells) != len(header):
        raise InputError(
            f"{path}, {place}: expected {len(header)} cells as in the "
            f"header, got {len(cells)}"
        )
    return dict(zip(header, cells))


def _read_json(path):
    text = path.read_text(encoding="utf-8-sig")
    try:
        # Pairs, not a dict, which would hide a name that comes twice.
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise _unreadable(path, f"not JSON: {error}") from None
    expected = f"{path}: expected one JSON object {{file name: fields}}"
    if not isinstance(pairs, _Pairs):
        raise InputError(f"{expected}, got a {type(pairs).__name__}")
    rows, fields = [], {"FileName"}
    for name, entry in pairs:
        if not isinstance(entry, _Pairs):
            raise InputError(f"{expected}, got {entry!r} for {name!r}")
        row = {**dict(entry), "FileName": name}
        fields.update(row)
        rows.append((f"entry {len(rows) + 1}", row))
    return sorted(fields), rows


class _Pairs(list):
    """The pairs of a JSON object."""


def _unreadable(path, reason):
    return InputError(f"{path}: cannot be read as a label file: {reason}")

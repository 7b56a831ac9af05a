"""Read CSV and JSON label files as rows, and say where each one stands.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import json
from pathlib import Path

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.table import read_table, read_text
from merit_modules.errors import InputError

WHAT = "label file"


def read_rows(path, needed, known, numbers):
    """Read a label file as named fields.

    Arguments
    ---------
    path : str or Path
        ``*.json``: one object, ``{file name: fields}``. Any other name: CSV
        with a header.
    needed : list of str
        Fields of every form.
    known : list of str
        Fields of any form.
    numbers : list of str
        Fields that may have a decimal comma.

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
    >>> read_rows(path, ["FileName"], ["EmoClass"], [])
    (['EmoClass', 'FileName'],
     [('entry 1', {'EmoClass': 'S', 'FileName': 'a.wav'})])
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        return _read_json(path)
    table = read_table(path, needed, known, numbers, WHAT)
    raise_if_broken(table.problems, f"rows of {path}")
    rows = [(f"line {line}", cells) for line, cells in table.rows]
    return table.columns, rows


def _read_json(path):
    text = read_text(path, WHAT)
    try:
        # Pairs, not a dict, which would hide a name that comes twice.
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read as a label file: not JSON: {error}"
        ) from None
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

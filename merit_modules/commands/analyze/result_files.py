"""Results as files: JSON Lines, or tables of comma-separated values.

Rows are appended as recordings finish. A process that is killed leaves at
most the beginning of a row behind, which reading passes over.
"""

import csv
import io
import json
from pathlib import Path

from merit_modules.data.escaping import spreadsheet, terminal
from merit_modules.files import write_atomically

JSON_LINES, TABLE, TIMELINE = "results.jsonl", "results.csv", "timeline.csv"


class JsonLines:
    """A file with a JSON object on each line.

    Arguments
    ---------
    path : str or Path
        The file.

    Example
    -------
    >>> rows = JsonLines(getfixture("tmp_path") / "rows.jsonl")
    >>> for name in ("a.wav", "b.wav"):
    ...     rows.append([{"file": name}])
    >>> with open(rows.path, "a") as stream:
    ...     _ = stream.write('{"file": "c.w')
    >>> [row["file"] for row in rows.read()]
    ['a.wav', 'b.wav']
    >>> rows.keep(lambda row: row["file"] > "a.wav")
    >>> rows.path.read_text()
    '{"file": "b.wav"}\\n'
    """

    def __init__(self, path):
        self.path = Path(path)

    def read(self):
        """Give the rows that were written whole, as a list of dict."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")[:-1]  # what has no newline is not whole
        return [row for line in lines if (row := _parse(line)) is not None]

    def keep(self, wanted):
        """Rewrite the file without some rows and without a broken end.

        Arguments
        ---------
        wanted : callable
            Tells of a row whether it stays.
        """
        if self.path.exists():
            kept = [row for row in self.read() if wanted(row)]
            _rewrite(self.path, _as_lines(kept))

    def write(self, rows):
        """Replace all rows, at once or not at all."""
        write_atomically(self.path, _as_lines(rows))

    def append(self, rows):
        """Write rows, and have the system keep them."""
        _append(self.path, _as_lines(rows))


class _CsvTable:
    """A table whose columns are those of its first row.

    Arguments
    ---------
    path : str or Path
        The file.

    Example
    -------
    >>> table = _CsvTable(getfixture("tmp_path") / "table.csv")
    >>> table.append([{"file": "a.wav", "score": 0.5}])
    >>> with open(table.path, "a") as stream:
    ...     _ = stream.write("b.wa")
    >>> table.read()
    [{'file': 'a.wav', 'score': '0.5'}]
    """

    def __init__(self, path):
        self.path = Path(path)

    def read(self):
        """Give the rows that were written whole, as a list of dict."""
        rows = self._rows()
        columns = rows[0] if rows else []
        return [dict(zip(columns, row, strict=True)) for row in rows[1:]]

    def _rows(self):
        """Return the header and the whole rows."""
        if not self.path.exists():
            return []
        with open(
            self.path, encoding="utf-8", errors="replace", newline=""
        ) as stream:
            text = stream.read()
        rows = list(csv.reader(io.StringIO(text, newline="")))
        if rows and not text.endswith("\n"):
            rows.pop()
        return [row for row in rows if len(row) == len(rows[0])]

    def keep(self, wanted):
        """Rewrite the file without some rows and without a broken end.

        Arguments
        ---------
        wanted : callable
            Tells of a row whether it stays.
        """
        rows = self._rows()
        kept = [x for x in rows[1:] if wanted(dict(zip(rows[0], x)))]
        if self.path.exists():
            _rewrite(self.path, _as_csv(rows[:1] + kept))

    def append(self, rows):
        """Write rows, and have the system keep them."""
        if not rows:
            return
        is_new = not self.path.exists() or not self.path.stat().st_size
        lines = [list(rows[0])] if is_new else []
        lines += [list(row.values()) for row in rows]
        cells = [[spreadsheet(cell) for cell in line] for line in lines]
        _append(self.path, _as_csv(cells))


def _parse(line):
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _as_lines(rows):
    lines = [terminal(json.dumps(row, ensure_ascii=False)) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _as_csv(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _rewrite(path, text):
    """Replace a file, or take it away if nothing is left of it."""
    if not text:
        path.unlink()
    elif text != path.read_text(encoding="utf-8", errors="replace"):
        write_atomically(path, text)


def _append(path, text):
    with open(path, "a", encoding="utf-8", newline="") as stream:
        stream.write(text)


class _JsonResults:
    """Results as ``results.jsonl``: all of a recording in one object.

    Arguments
    ---------
    out : str or Path
        Folder of the results.
    """

    names = (JSON_LINES,)
    written = staticmethod(str)  # how a row has the name of a file

    def __init__(self, out):
        self._rows = JsonLines(Path(out) / JSON_LINES)

    def count_segments(self):
        """Tell of each recording how many segments its timeline has."""
        return {r["file"]: count_segments(r) for r in self._rows.read()}

    def keep(self, files):
        """Drop what is of none of these files."""
        self._rows.keep(lambda row: row["file"] in files)

    def append(self, told):
        """Write what is told of a recording (``Analysis.as_dict()``)."""
        self._rows.append([told])


class CsvResults:
    """Results as ``results.csv``, and their timeline as ``timeline.csv``.

    Arguments
    ---------
    out : str or Path
        Folder of the results.

    Example
    -------
    >>> results = CsvResults(getfixture("tmp_path"))
    >>> segment = {"start_s": 0.0, "end_s": 2.5, "attributes": {"valence": 3}}
    >>> told = {"file": "a.wav", "attributes": {"valence": 4}}
    >>> results.append({**told, "timeline": [segment]})
    >>> print((getfixture("tmp_path") / "timeline.csv").read_text())
    file,start_s,end_s,valence
    a.wav,0.0,2.5,3
    >>> results.count_segments()
    {'a.wav': 1}
    """

    names = (TABLE, TIMELINE)
    written = staticmethod(spreadsheet)

    def __init__(self, out):
        self._table = _CsvTable(Path(out) / TABLE)
        self._timeline = _CsvTable(Path(out) / TIMELINE)

    def count_segments(self):
        """Tell of each recording how many segments its timeline has."""
        counts = {row["file"]: 0 for row in self._table.read()}
        for row in self._timeline.read():
            if row["file"] in counts:
                counts[row["file"]] += 1
        return counts

    def keep(self, files):
        """Drop what is of none of these files."""
        files = set(map(spreadsheet, files))
        self._table.keep(lambda row: row["file"] in files)
        self._timeline.keep(lambda row: row["file"] in files)

    def append(self, told):
        """Write what is told of a recording (``Analysis.as_dict()``)."""
        file = {"file": told["file"]}
        segments = told.get("timeline", [])
        self._timeline.append([file | _in_one_level(s) for s in segments])
        self._table.append([_in_one_level(told)])


#: Format to what writes it.
FORMATS = {"jsonl": _JsonResults, "csv": CsvResults}


def count_segments(told):
    """Count the segments of what is told of a recording.

    Arguments
    ---------
    told : dict
        From ``Analysis.as_dict()``.

    Returns
    -------
    int
        0 if its emotion was not asked for.

    Example
    -------
    >>> count_segments({"file": "a.wav"})
    0
    """
    return len(told.get("timeline", ()))


def _in_one_level(told):
    """Turn nested values into columns."""
    row = {}
    for key, value in told.items():
        if key == "probabilities":
            row |= {f"prob_{name}": p for name, p in value.items()}
        elif key == "attributes":
            row |= value
        elif key != "timeline":
            row[key] = value
    return row


def as_line(told):
    """Write what is told of a recording as a line for people.

    Arguments
    ---------
    told : dict
        From ``Analysis.as_dict()``.

    Returns
    -------
    str
        The line.

    Example
    -------
    >>> told = {"file": "a.wav", "duration_s": 2.5, "label": "sad"}
    >>> told |= {"score": 0.62, "probabilities": {"angry": 0.38, "sad": 0.62}}
    >>> as_line(told)
    'a.wav (2.5 s): sad 62 %, angry 38 %'
    """
    if told.get("attributes"):
        found = [f"{k} {v:.2f}" for k, v in told["attributes"].items()]
    elif told.get("score") is None:
        found = [told.get("label") or "no emotion asked for"]
    else:
        ranked = sorted(told["probabilities"].items(), key=lambda p: -p[1])
        found = [f"{name} {100 * p:.0f} %" for name, p in ranked]
    return f"{told['file']} ({told['duration_s']:.1f} s): {', '.join(found)}"

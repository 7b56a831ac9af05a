"""The table of scores of a run: one row per test condition and utterance."""

import csv
import io

from merit_modules.errors import InputError

#: What every row says of its utterance and of the mixture, whatever the system.
ABOUT = (
    "utt_id",
    "spk_id",
    "condition",
    "test_set",
    "noise_set",
    "snr_db",
    "noise",
    "noise_type",
)


def table_as_csv(rows, columns):
    """Write rows as CSV text, by condition and utterance.

    Arguments
    ---------
    rows : list of dict
        Column to value; what is absent or None is left empty.
    columns : list of str
        Columns after ``ABOUT``.

    Returns
    -------
    str
        The text.

    Raises
    ------
    ValueError
        If a row has another column.

    Example
    -------
    >>> rows = [{"utt_id": "u1", "condition": "clean", "noisy_stoi": 0.5}]
    >>> print(table_as_csv(rows, ["noisy_stoi"]), end="")
    utt_id,spk_id,condition,test_set,noise_set,snr_db,noise,noise_type,noisy_stoi
    u1,,clean,,,,,,0.5
    """
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, [*ABOUT, *columns], restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def read_table(path):
    """Read a table of scores.

    Arguments
    ---------
    path : str or Path
        ``scores.csv`` of a run.

    Returns
    -------
    columns : list of str
        All columns.
    rows : list of dict
        Column to text; empty where there is no value.

    Raises
    ------
    InputError
        If there is no such file, or it lacks a column of ``ABOUT``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.csv"
    >>> _ = path.write_text(table_as_csv([{"utt_id": "u1"}], ["noisy_stoi"]))
    >>> columns, rows = read_table(path)
    >>> columns[-1], rows[0]["utt_id"]
    ('noisy_stoi', 'u1')
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), reader.fieldnames or []
    except OSError as error:
        raise InputError(
            f"{path}: expected the scores of a run: {error.strerror}"
        ) from None
    missing = [name for name in ABOUT if name not in columns]
    if missing:
        raise InputError(
            f"{path}: expected the column {missing[0]!r}, got "
            f"{', '.join(columns) or 'an empty file'}"
        )
    return columns, rows

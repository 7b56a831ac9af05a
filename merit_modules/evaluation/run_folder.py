"""What a tested run leaves in its folder, and how it is read again."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from merit_modules.data.state import DamagedError, digest_of, read_state
from merit_modules.errors import InputError

RESULTS = "results.json"
SCAN = "audio_scan.json"  # what was found when all audio was read
SCORES = "scores.csv"  # a row per test condition and utterance

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


def rows_digest(rows):
    """Give the rows of a condition a name of their own.

    Arguments
    ---------
    rows : list of dict
        Column to value, or to its text.

    Returns
    -------
    str
        The same whether they come from a system or from ``scores.csv``.

    Example
    -------
    >>> rows_digest([{"a": 0.5, "b": None}]) == rows_digest([{"a": "0.5"}])
    True
    """
    told = [
        sorted([k, str(v)] for k, v in row.items() if v not in (None, ""))
        for row in rows
    ]
    return digest_of(told)[:16]


def check_rows(path, entry, rows):
    """Make sure that the rows of a condition are those that were written.

    Arguments
    ---------
    path : str or Path
        ``scores.csv``.
    entry : dict
        The condition, of ``results.json``.
    rows : list of dict
        Its rows.

    Raises
    ------
    DamagedError
        If they are others.
    """
    stated = entry.get("rows_digest")  # none in earlier versions
    if stated is not None and stated != rows_digest(rows):
        raise DamagedError(
            f"{path}: damaged, or changed by hand: the rows of "
            f"{entry['name']} are not those that {RESULTS} was written with; "
            "merit evaluate RUN tests it again"
        )


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
    except (csv.Error, UnicodeDecodeError) as error:
        raise DamagedError(f"{path}: damaged: {error}") from None
    missing = [name for name in ABOUT if name not in columns]
    if missing:
        raise DamagedError(
            f"{path}: expected the column {missing[0]!r}, got "
            f"{', '.join(columns) or 'an empty file'}"
        )
    return columns, rows


class Run(NamedTuple):
    """A tested run.

    Arguments
    ---------
    folder : Path
        Its output folder.
    system : str or None
        Name of the system.
    seed : int or None
        Its seed.
    fold : int or None
        Its fold, where the corpus has folds.
    results : dict
        The content of its ``results.json``.
    rows : dict
        Condition to the rows of its ``scores.csv``, by utterance.
    """

    folder: Path
    system: str | None
    seed: int | None
    fold: int | None
    results: dict
    rows: dict


def read_results(folder):
    """Read the results of a run.

    Arguments
    ---------
    folder : str or Path
        Its output folder.

    Returns
    -------
    dict
        The content of ``results.json``.

    Raises
    ------
    InputError
        If there is no such file, or it is none.

    Example
    -------
    >>> read_results("nowhere")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere/results.json: ...
    """
    path = Path(folder) / RESULTS
    try:
        results = read_state(path)
        _ = [condition["name"] for condition in results["conditions"]]
    except OSError as error:
        raise InputError(
            f"{path}: expected the results of a run: {error.strerror}"
        ) from error
    except (KeyError, TypeError) as error:
        raise DamagedError(
            f"{path}: expected the results of a run, got no {error}"
        ) from error
    return results


def read_run(folder):
    """Read a tested run.

    Arguments
    ---------
    folder : str or Path
        Its output folder.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    InputError
        If a file of it is missing, is not as expected, or the two do not
        belong together.

    Example
    -------
    >>> read_run("nowhere")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere/results.json: ...
    """
    folder = Path(folder)
    results = read_results(folder)
    if not results["conditions"]:
        raise InputError(f"{folder / RESULTS}: no test condition in it")
    _, table = read_table(folder / SCORES)
    rows = {condition["name"]: {} for condition in results["conditions"]}
    for row in table:
        if row["condition"] in rows:
            rows[row["condition"]][row["utt_id"]] = row
    for entry in results["conditions"]:
        name = entry["name"]
        utterances = rows[name].values()
        check_rows(folder / SCORES, entry, list(utterances))
        if not utterances:
            raise InputError(
                f"{folder / SCORES}: no utterance of condition {name!r}, "
                f"which {RESULTS} lists"
            )
    about = (results.get(key) for key in ("system", "seed", "fold"))
    return Run(folder, *about, results, rows)

"""Read finished runs and make sure that they can be compared."""

import json
from pathlib import Path
from typing import NamedTuple

from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import read_table

RESULTS, SCORES = "results.json", "scores.csv"


class Run(NamedTuple):
    """A finished run.

    Arguments
    ---------
    folder : Path
        Its output folder.
    system : str
        Name of the system.
    seed : int
        Its seed.
    fold : int or None
        Its fold, where the corpus has folds.
    results : dict
        The content of its ``results.json``.
    rows : dict
        Condition to the rows of its ``scores.csv``, by utterance.
    """

    folder: Path
    system: str
    seed: int
    fold: int | None
    results: dict
    rows: dict


def find_runs(folders):
    """Find runs in folders.

    Arguments
    ---------
    folders : list of str or Path
        Output folders of runs, or folders that hold such folders.

    Returns
    -------
    list of Path
        The runs' folders, in the order given, then by name.

    Raises
    ------
    InputError
        If a folder is missing or holds no finished run.

    Example
    -------
    >>> find_runs(["nowhere"])
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: no finished run in it...
    """
    found = {}
    for folder in map(Path, folders):
        here = sorted(
            path.parent
            for path in folder.rglob(RESULTS)
            if path.with_name(SCORES).is_file()
        )
        # The front end of a cascade is a run within a run.
        here = [f for f in here if not any(p in here for p in f.parents)]
        if not here:
            raise InputError(
                f"{folder}: no finished run in it: expected {RESULTS} and "
                f"{SCORES}"
            )
        found |= dict.fromkeys(here)
    return list(found)


def read_run(folder):
    """Read a run.

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
    """
    folder = Path(folder)
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        system, seed = results["system"], results["seed"]
        names = [condition["name"] for condition in results["conditions"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the results of a run: {error}"
        ) from None
    _, table = read_table(folder / SCORES)
    rows = {name: {} for name in names}
    for row in table:
        if row["condition"] in rows:
            rows[row["condition"]][row["utt_id"]] = row
    for name, utterances in rows.items():
        if not utterances:
            raise InputError(
                f"{folder / SCORES}: no utterance of condition {name!r}, "
                f"which {RESULTS} lists"
            )
    return Run(folder, system, seed, results.get("fold"), results, rows)


def check_comparable(runs):
    """Make sure that runs are of one corpus and heard the same mixtures.

    Arguments
    ---------
    runs : list of Run
        All runs of a report.

    Raises
    ------
    InputError
        Naming the two runs that do not go together, and why.
    """
    first, seen, noises = runs[0], {}, {}
    for run in runs:
        for key in ("corpus",):
            one, other = first.results.get(key), run.results.get(key)
            if one != other:
                raise InputError(
                    f"expected runs of one {key}, got {one} ({first.folder}) "
                    f"and {other} ({run.folder})"
                )
        identity = run.system, run.fold, run.seed
        if identity in seen:
            raise InputError(
                f"{run.folder}: system {run.system}, fold {run.fold}, seed "
                f"{run.seed} is there already: {seen[identity]}"
            )
        seen[identity] = run.folder
        for name, rows in run.rows.items():
            for utt_id, row in rows.items():
                key = name, utt_id
                noise, folder = noises.setdefault(
                    key, (row["noise"], run.folder)
                )
                if noise != row["noise"]:
                    raise InputError(
                        f"{run.folder}: {name}: {utt_id} was mixed with "
                        f"{row['noise']!r}, in {folder} with {noise!r}: not "
                        "the same test"
                    )

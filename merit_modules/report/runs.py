"""Find tested runs and make sure that they can be compared."""

from pathlib import Path

from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import RESULTS, SCORES

NOISY = "noisy input"  # a row of the tables beside the systems


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
        _check_names(run)
        one, other = (r.results.get("corpus") for r in (first, run))
        if one != other:
            raise InputError(
                f"expected runs of one corpus, got {one} ({first.folder}) "
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


def _check_names(run):
    """Make sure that the results say whose they are."""
    path = run.folder / RESULTS
    expected = {"system": (str,), "seed": (int,), "fold": (int, type(None))}
    for name, kinds in expected.items():
        value = run.results.get(name)
        if not isinstance(value, kinds) or value == "":
            found = f"no {name}" if value is None else f"{name}: {value!r}"
            raise InputError(f"{path}: expected the results of a run: {found}")
    if run.system == NOISY:
        raise InputError(f"{path}: no system can be called {NOISY!r}")
    for name in run.rows:
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{path}: expected the name of a condition, got {name!r}"
            )

"""All runs of a comparison as one set of paired observations.

An observation is an utterance under a condition in a run: fold, seed, id. The
runs of a system are pooled; two systems are compared on what both have.
"""

import math
from typing import NamedTuple

import numpy as np

from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import read_run
from merit_modules.report.runs import check_comparable, find_runs
from merit_modules.report.significance.bootstrap import units_of


class Condition(NamedTuple):
    """A test condition.

    Arguments
    ---------
    name : str
        Such as ``unseen_-5dB``.
    group : str
        Conditions that differ in SNR alone have one, such as ``unseen``.
    snr_db : float or None
        None for clean speech.
    """

    name: str
    group: str
    snr_db: float | None


class Study:
    """Systems, conditions and observations of a report.

    Arguments
    ---------
    folders : list of str or Path
        Runs, or folders with runs.

    Raises
    ------
    InputError
        If the runs cannot be compared; see
        :mod:`merit_modules.report.runs`.
    """

    def __init__(self, folders):
        self.runs = [read_run(folder) for folder in find_runs(folders)]
        check_comparable(self.runs)
        self.systems = list(dict.fromkeys(run.system for run in self.runs))
        self.conditions = _conditions(self.runs)
        self.classes = _classes(self.runs)
        self.attributes = _attributes(self.runs)
        self.metrics = _metrics(self.runs)
        # A speaker of one fold is one unit, however many runs heard it.
        keys = {
            (row["spk_id"] or row["utt_id"])
            for run in self.runs
            for rows in run.rows.values()
            for row in rows.values()
        }
        self.speakers = sorted(keys)
        self._unit = dict(zip(self.speakers, units_of(self.speakers)))
        self.has_speakers = all(
            row["spk_id"]
            for run in self.runs
            for rows in run.rows.values()
            for row in rows.values()
        )

    def runs_of(self, system):
        """List the runs of a system."""
        return [run for run in self.runs if run.system == system]

    def observations(self, system, condition):
        """Collect what a system's runs made of a condition.

        Arguments
        ---------
        system : str
            Name of the system.
        condition : Condition
            The condition.

        Returns
        -------
        dict
            (fold, seed, id) to row.
        """
        return {
            (run.fold, run.seed, utt_id): row
            for run in self.runs_of(system)
            for utt_id, row in run.rows.get(condition.name, {}).items()
        }

    def units(self, rows):
        """Number the speakers of rows (N,); utterances where none is known."""
        return np.array([self._unit[r["spk_id"] or r["utt_id"]] for r in rows])

    def decisions(self, rows):
        """Read labels and predictions (N,), as indices of the classes."""
        index = {name: i for i, name in enumerate(self.classes)}
        return (
            np.array([index[row["label"]] for row in rows]),
            np.array([index[row["prediction"]] for row in rows]),
        )


def numbers(rows, column):
    """Read a column (N,); NaN where there is no value."""
    return np.array([float(row.get(column) or "nan") for row in rows])


def _conditions(runs):
    """List conditions that every run has: by group, then SNR, clean last."""
    found = {}
    for entry in runs[0].results["conditions"]:
        noise = (entry["noise"] or "clean").removeprefix("test_")
        test_set = entry.get("test_set")
        group = noise if test_set is None else f"{test_set} {noise}"
        found[entry["name"]] = Condition(entry["name"], group, entry["snr_db"])
    shared = set(found).intersection(*(run.rows for run in runs))
    if not shared:
        raise InputError("the runs have no test condition in common")
    kept = [c for c in found.values() if c.name in shared]
    groups = list(dict.fromkeys(c.group for c in kept))
    return sorted(
        kept,
        key=lambda c: (
            c.snr_db is None,
            groups.index(c.group),
            math.inf if c.snr_db is None else c.snr_db,
        ),
    )


def _classes(runs):
    """Return the classes, from the columns of probabilities."""
    found = {}
    for run in runs:
        row = next(iter(next(iter(run.rows.values())).values()))
        if not row.get("prediction"):
            continue
        names = tuple(c[5:] for c in row if c.startswith("prob_"))
        found.setdefault(names, run.folder)
    if len(found) > 1:
        raise InputError(
            "expected runs with the same classes, got "
            + " and ".join(f"{', '.join(k)} ({v})" for k, v in found.items())
        )
    return list(next(iter(found), ()))


def _attributes(runs):
    """List the attributes that some run estimated."""
    found = {}
    for run in runs:
        row = next(iter(next(iter(run.rows.values())).values()))
        for name, value in row.items():
            if name.startswith("prediction_") and value:
                found[name.removeprefix("prediction_")] = None
    return list(found)


def _metrics(runs):
    """List the enhancement metrics that some run has values of."""
    found = {}
    for run in runs:
        for rows in run.rows.values():
            for row in rows.values():
                found |= {
                    name[9:]: None
                    for name, value in row.items()
                    if name.startswith("enhanced_") and value
                }
    return list(found)

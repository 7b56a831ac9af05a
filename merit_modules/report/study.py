"""All runs of a comparison as one set of paired observations.

An observation is an utterance under a condition in a run: fold, seed, id. The
runs of a system are pooled; systems are compared on what all of them have.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import read_run
from merit_modules.report.runs import check_comparable, find_runs
from merit_modules.report.significance.bootstrap import units_of

ALL = "all scores"


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
        #: (what, of which systems, because of which runs) to scores.
        self.left_out = {}
        self.conditions = self._conditions()
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

    def shared(self, condition, column, score, with_input=None):
        """Collect the observations that all systems have.

        Systems without a value in the column have no part in this; what the
        others do not share is noted in ``left_out``.

        Arguments
        ---------
        condition : Condition
            The condition.
        column : str
            Which value a row must have.
        score : str
            Name of the score, to say what was left out of.
        with_input : str, optional
            Name and column of the noisy input, as one more system.

        Returns
        -------
        found : dict
            System to (fold, seed, id) to row.
        is_paired : bool
            False where they share nothing: each has its own observations.
        """
        found = {system: {} for system in self.systems}
        for run in self.runs:
            for utt_id, row in run.rows[condition.name].items():
                if row.get(column):
                    found[run.system][run.fold, run.seed, utt_id] = row
        found = {system: rows for system, rows in found.items() if rows}
        if with_input is not None:
            name, column = with_input
            heard = {
                key: row
                for rows in found.values()
                for key, row in rows.items()
                if row.get(column)
            }
            found |= {name: heard} if heard else {}
        everything = set().union(*found.values())
        keys = everything.intersection(*found.values())
        if everything and not keys:
            about = "all comparisons", ", ".join(found), "nothing in common"
            self.leave_out(*about, score)
            return found, False
        self._note(found, everything - keys, condition.name, score)
        keys = sorted(keys, key=str)
        return {
            s: {k: rows[k] for k in keys} for s, rows in found.items()
        }, True

    def leave_out(self, what, of, why, score):
        """Note what has no part in a score, and why."""
        self.left_out.setdefault((what, of, why), {})[score] = None

    def _note(self, found, missed, condition, score):
        """Say which observations have no partner, and because of whom."""
        runs = {s: {(r.fold, r.seed) for r in self.runs_of(s)} for s in found}
        counts = Counter()
        for key in missed:
            lack = tuple(s for s in found if key not in found[s])
            no_run = tuple(
                s for s in lack if runs[s] and key[:2] not in runs[s]
            )
            counts[key[:2] if no_run else None, no_run or lack] += 1
        for (run, lack), n in sorted(counts.items(), key=str):
            of = ", ".join(s for s in self.systems if s in {*found} - {*lack})
            what, why = f"utterances: {n} of {condition}", "no value"
            if run:
                what, why = _name(*run), "no such run"
            self.leave_out(what, of, f"{', '.join(lack)}: {why}", score)

    def _conditions(self):
        """List what every run was tested under: by group, SNR, clean last."""
        found = {}
        for run in self.runs:
            for entry in run.results["conditions"]:
                name = entry["name"]
                noise = (entry["noise"] or "clean").removeprefix("test_")
                test_set = entry.get("test_set")
                group = noise if test_set is None else f"{test_set} {noise}"
                found.setdefault(name, Condition(name, group, entry["snr_db"]))
        for name in list(found):
            lacking = {}
            for run in self.runs:
                if name not in run.rows:
                    where = _name(run.fold, run.seed)
                    lacking.setdefault(run.system, []).append(where)
            if lacking:
                del found[name]
                having = {r.system: None for r in self.runs if name in r.rows}
                why = [
                    f"{s} ({'; '.join(runs)})" for s, runs in lacking.items()
                ]
                self.leave_out(
                    f"condition {name}",
                    ", ".join(having),
                    f"{', '.join(why)}: not tested",
                    ALL,
                )
        if not found:
            raise InputError("the runs have no test condition in common")
        kept = list(found.values())
        groups = list(dict.fromkeys(c.group for c in kept))
        return sorted(
            kept,
            key=lambda c: (
                c.snr_db is None,
                groups.index(c.group),
                math.inf if c.snr_db is None else c.snr_db,
            ),
        )

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


def _name(fold, seed):
    return f"seed {seed}" if fold is None else f"fold {fold}, seed {seed}"


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

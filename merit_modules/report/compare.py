"""Scores, intervals and significance of every system under every condition."""

from typing import NamedTuple

import numpy as np

from merit_modules.errors import InputError
from merit_modules.report.runs import NOISY
from merit_modules.report.significance.bootstrap import Bootstrap
from merit_modules.report.significance.comparison import holm
from merit_modules.report.significance.paired_tests import (
    mcnemar,
    random_subsets,
    subset_t_test,
    wilcoxon,
)
from merit_modules.report.significance.permutation import permute_units
from merit_modules.report.significance.scores import (
    DECISION_SCORES,
    concordance,
    confusions,
    mean,
    moments,
    sums,
)
from merit_modules.report.study import numbers

MEAN = "mean"
CCC = "ccc_"
GAIN = "gain_"
SAME = 1e-12  # differences below it come from the order of summation
#: Name of a test to what it can compare.
TESTS = {
    "bootstrap": "all scores",
    "permutation": "all scores",
    "subsets": "all scores",
    "mcnemar": "decisions (shown with every score of emotions)",
    "wilcoxon": "enhancement (shown with every metric)",
}
N_SUBSETS = 40


class Settings(NamedTuple):
    """How systems are compared.

    Arguments
    ---------
    baseline : str or None
        The system that the others are compared with; None: no comparison.
    test : str
        Key of ``TESTS``.
    alpha : float
        Level of significance, after Holm's correction.
    n_resamples : int
        Of the bootstrap.
    seed : int
        Of resamples and subsets.
    """

    baseline: str | None = None
    test: str = "bootstrap"
    alpha: float = 0.05
    n_resamples: int = 10000
    seed: int = 0


class Column(NamedTuple):
    """A column of a table: one condition, or the mean over several.

    Arguments
    ---------
    name : str
        Name of the condition, or of the group with ``mean``.
    group : str
        Group of the conditions.
    snr_db : float or None
        None for clean speech and for means.
    conditions : list of Condition
        What it averages.
    """

    name: str
    group: str
    snr_db: float | None
    conditions: list


def _columns_of(conditions):
    """List the columns: the conditions, and a mean after each group."""
    found = []
    for group in dict.fromkeys(c.group for c in conditions):
        members = [c for c in conditions if c.group == group]
        found += [Column(c.name, group, c.snr_db, [c]) for c in members]
        if len(members) > 1:
            found.append(Column(f"{group} {MEAN}", group, None, members))
    return found


class Comparer:
    """Fills the tables of a study.

    Arguments
    ---------
    study : Study
        The runs.
    settings : Settings
        How systems are compared.

    Raises
    ------
    InputError
        If the baseline is no system of the study, or there is no such test.
    """

    def __init__(self, study, settings):
        if settings.baseline not in (None, *study.systems):
            raise InputError(
                f"baseline: expected one of {', '.join(study.systems)}, got "
                f"{settings.baseline!r}"
            )
        if settings.test not in TESTS:
            raise InputError(
                f"test: expected one of {', '.join(TESTS)}, got "
                f"{settings.test!r}"
            )
        self.study = study
        self.settings = settings
        # The baseline first, the others as they were given.
        study.systems.sort(key=lambda system: system != settings.baseline)
        self.columns = _columns_of(study.conditions)
        self._shared = {}  # condition to the rows of one score
        self.boot = Bootstrap(
            len(study.speakers), settings.n_resamples, settings.seed
        )

    def tables(self):
        """Fill a table per score.

        All systems of a column are scored on the observations that all of
        them have; where they share none, each on its own, and nothing is
        compared.

        Returns
        -------
        dict
            Score to system to column to cell: ``score``, ``low``, ``high``
            (95 % interval over speakers), ``n``, ``n_runs``, ``std`` (over
            runs, from two on), ``best`` (true for the highest) and, for
            all but the baseline, ``difference``, ``tested_difference`` (what
            the test compares, where it is no difference of the scores),
            ``difference_low``, ``difference_high``, ``relative_percent``,
            ``p_value``, ``p_holm``, ``p_smallest`` (that Holm's correction of
            so many units and systems can reach) and ``mark``: ``+`` for
            significantly better or higher, ``-`` for lower, else empty. A
            cell without observations is absent. The gain over the noisy input
            is a score of its own: ``gain_`` and the name of the metric.
        """
        names = list(DECISION_SCORES) if self.study.classes else []
        names.remove("f1_micro") if names else None  # it is wa
        names += [f"{CCC}{name}" for name in self.study.attributes]
        names += self.study.metrics
        names += [f"{GAIN}{name}" for name in self.study.metrics]
        found = {name: self._table(name) for name in names}
        return {name: table for name, table in found.items() if table}

    def _table(self, name):
        self._shared = {
            c: self._observe(name, c) for c in self.study.conditions
        }
        table = {}
        for system in (NOISY, *self.study.systems):
            cells = {c.name: self._cell(name, system, c) for c in self.columns}
            cells = {column: cell for column, cell in cells.items() if cell}
            if cells:
                table[system] = cells
        if not name.startswith(GAIN):  # as that of the scores themselves
            self._compare(name, table)
        self._find_best(name, table)
        return table

    def _observe(self, name, condition):
        """Return system to rows, and whether they are the same for all."""
        metric = name.removeprefix(GAIN)
        if metric not in self.study.metrics:
            return self.study.shared(condition, _column(name), name)
        source = NOISY, f"noisy_{metric}"
        column = f"enhanced_{metric}"
        found, paired = self.study.shared(condition, column, metric, source)
        if metric != name and NOISY not in found:
            return {}, True
        if metric != name:
            del found[NOISY]
        return found, paired

    def _rows(self, system, condition):
        return list(self._shared[condition][0].get(system, {}).values())

    def _is_paired(self, column):
        return all(self._shared[c][1] for c in column.conditions)

    def _reduce(self, name, system, rows, units, n_units):
        """Turn rows into the table that scores are computed from."""
        if name in DECISION_SCORES:
            return confusions(
                *self.study.decisions(rows),
                units,
                len(self.study.classes),
                n_units,
            )
        values = _values(name, system, rows)
        if name.startswith(CCC):
            labels = numbers(rows, f"label_{name.removeprefix(CCC)}")
            return moments(values, labels, units, n_units)
        return sums(values, units, n_units)

    def _score(self, name):
        if name.startswith(CCC):
            return concordance
        return DECISION_SCORES.get(name, mean)

    def _by_speaker(self, name, system, rows):
        units = self.study.units(rows)
        return self._reduce(name, system, rows, units, len(self.study.speakers))

    def _cell(self, name, system, column):
        observed = [self._rows(system, c) for c in column.conditions]
        if not all(observed):
            return None
        tables = [self._by_speaker(name, system, rows) for rows in observed]
        interval = self.boot.interval(self._score(name), tables)
        by_run = {}
        for condition in column.conditions:
            parts = {}
            for key, row in self._shared[condition][0][system].items():
                parts.setdefault(key[:2], []).append(row)
            for run, rows in parts.items():
                table = self._by_speaker(name, system, rows).sum(axis=0)
                by_run.setdefault(run, []).append(self._score(name)(table))
        cell = {**interval._asdict(), "n": sum(map(len, observed))}
        cell["n_runs"] = len(by_run)
        if len(by_run) > 1:
            means = [np.mean(scores) for scores in by_run.values()]
            cell["std"] = float(np.std(means, ddof=1))
        return cell

    def _find_best(self, name, table):
        """Mark the highest; the noisy input, whose gain is 0, takes part."""
        for column in filter(self._is_paired, self.columns):
            cells = [t[column.name] for t in table.values() if column.name in t]
            scores = [cell["score"] for cell in cells]
            scores += [0.0] if name.startswith(GAIN) else []
            for cell in cells if len(scores) > 1 else ():
                cell["best"] = cell["score"] >= max(scores) - SAME

    def _compare(self, name, table):
        baseline = self.settings.baseline
        if baseline not in table:
            return
        others = [s for s in table if s not in (baseline, NOISY)]
        for column in filter(self._is_paired, self.columns):
            if column.name not in table[baseline]:
                continue
            family = {
                system: self._difference(name, system, column)
                for system in others
                if column.name in table[system]
            }
            reference = table[baseline][column.name]["score"]
            adjusted = holm(list(family.values()))
            for (system, raw), final in zip(family.items(), adjusted):
                cell = table[system][column.name]
                cell |= self._marks(name, raw, final, cell["score"], reference)
                smallest = raw.smallest_p * len(family)
                cell["p_smallest"] = min(1.0, smallest)

    def _marks(self, name, raw, final, score, reference):
        difference = score - reference
        difference = 0.0 if abs(difference) < SAME else difference
        # Tests of subsets or decisions may point the other way.
        agree = raw.difference * difference > 0
        significant = agree and final.p_value < self.settings.alpha
        found = {
            "difference": difference,
            "tested_difference": raw.difference,
            "p_value": raw.p_value,
            "p_holm": final.p_value,
            "mark": ("+" if difference > 0 else "-") if significant else "",
        }
        if raw.low is not None:
            found |= {"difference_low": raw.low, "difference_high": raw.high}
        # Other scores have no zero, so that a ratio says nothing.
        if reference and name in DECISION_SCORES:
            found["relative_percent"] = 100 * difference / reference
        return found

    def _difference(self, name, system, column):
        """Compare a system with the baseline."""
        sides = system, self.settings.baseline
        rows = [[self._rows(s, c) for c in column.conditions] for s in sides]
        n = sum(map(len, rows[0]))
        test, score = self.settings.test, self._score(name)
        if test == "mcnemar" and name in DECISION_SCORES:
            ours, theirs = (sum(side, []) for side in rows)
            labels, predictions = self.study.decisions(ours)
            return mcnemar(labels, predictions, self.study.decisions(theirs)[1])
        if test == "wilcoxon" and name in self.study.metrics:
            ours, theirs = (sum(side, []) for side in rows)
            column = _column(name)
            return wilcoxon(numbers(ours, column), numbers(theirs, column))
        if test == "subsets" and min(map(len, rows[0])) >= N_SUBSETS:
            seed = self.settings.seed
            tables = [
                [
                    self._reduce(
                        name,
                        system,
                        part,
                        random_subsets(len(part), N_SUBSETS, seed),
                        N_SUBSETS,
                    )
                    for part in side
                ]
                for side in rows
            ]
            return subset_t_test(
                lambda stack: np.mean([score(t) for t in stack], axis=0),
                *tables,
                n,
            )
        tables = [
            [self._by_speaker(name, s, part) for part in side]
            for s, side in zip(sides, rows)
        ]
        if test == "permutation":
            return permute_units(
                score,
                *tables,
                n,
                self.settings.n_resamples,
                self.settings.seed,
            )
        return self.boot.compare(score, *tables, n)


def _column(name):
    """Name the column that a score of a system is computed from."""
    if name in DECISION_SCORES:
        return "prediction"
    if name.startswith(CCC):
        return f"prediction_{name.removeprefix(CCC)}"
    return f"enhanced_{name.removeprefix(GAIN)}"


def _values(name, system, rows):
    """Read the numbers (N,) that a score is computed from."""
    metric = name.removeprefix(GAIN)
    if system == NOISY:
        return numbers(rows, f"noisy_{metric}")
    values = numbers(rows, _column(name))
    return (
        values - numbers(rows, f"noisy_{metric}") if metric != name else values
    )

"""Scores, intervals and significance of every system under every condition."""

from typing import NamedTuple

import numpy as np

from merit_modules.errors import InputError
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

NOISY = "noisy input"
MEAN = "mean"
CCC = "ccc_"
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
        self._cached_for, self._cache = None, {}  # rows of one score
        self.boot = Bootstrap(
            len(study.speakers), settings.n_resamples, settings.seed
        )

    def tables(self):
        """Fill a table per score.

        Returns
        -------
        dict
            Score to system to column to cell: ``score``, ``low``, ``high``
            (95 % interval over speakers), ``n``, ``n_runs``, ``std`` (over
            runs, from two on), of enhancement ``gain_over_input`` and, for
            all but the baseline, ``difference``, ``difference_low``,
            ``difference_high``, ``relative_percent``,
            ``p_value``, ``p_holm`` and ``mark``: ``+`` for significantly
            better or higher, ``-`` for lower, else empty. A cell without
            observations is absent.
        """
        names = list(DECISION_SCORES) if self.study.classes else []
        names.remove("f1_micro") if names else None  # it is wa
        names += [f"{CCC}{name}" for name in self.study.attributes]
        found = {name: self._table(name) for name in names}
        found |= {m: self._table(m) for m in self.study.metrics}
        return {name: table for name, table in found.items() if table}

    def _table(self, name):
        table = {}
        for system in self._rows(name):
            cells = {}
            for column in self.columns:
                cell = self._cell(name, system, column)
                if cell:
                    cells[column.name] = cell
            if cells:
                table[system] = cells
        self._compare(name, table)
        return table

    def _rows(self, name):
        systems = list(self.study.systems)
        if name in self.study.metrics:
            systems.insert(0, NOISY)
        return systems

    def _observations(self, name, system, condition):
        """Return key to row, without rows that lack the score."""
        asked = name, system, condition
        if self._cached_for != name:
            self._cached_for, self._cache = name, {}
        if asked not in self._cache:
            self._cache[asked] = self._read(*asked)
        return self._cache[asked]

    def _read(self, name, system, condition):
        source, side = system, "enhanced"
        if system == NOISY:
            source, side = self._with_metric(name), "noisy"
        found = self.study.observations(source, condition) if source else {}
        column = f"{side}_{name}"
        if name in DECISION_SCORES:
            column = "prediction"
        elif name.startswith(CCC):
            column = f"prediction_{name.removeprefix(CCC)}"
        return {
            key: {**row, "value": row[column]}
            for key, row in found.items()
            if row.get(column)
        }

    def _with_metric(self, name):
        """The system with the most observations says what the input was."""
        first = self.study.conditions[0]
        counts = {
            system: sum(
                bool(row.get(f"noisy_{name}"))
                for row in self.study.observations(system, first).values()
            )
            for system in self.study.systems
        }
        return max(counts, key=counts.get)

    def _reduce(self, name, rows, units, n_units):
        """Turn rows into the table that scores are computed from."""
        if name in DECISION_SCORES:
            return confusions(
                *self.study.decisions(rows),
                units,
                len(self.study.classes),
                n_units,
            )
        values = numbers(rows, "value")
        if name.startswith(CCC):
            labels = numbers(rows, f"label_{name.removeprefix(CCC)}")
            return moments(values, labels, units, n_units)
        return sums(values, units, n_units)

    def _score(self, name):
        if name.startswith(CCC):
            return concordance
        return DECISION_SCORES.get(name, mean)

    def _by_speaker(self, name, rows):
        return self._reduce(
            name, rows, self.study.units(rows), len(self.study.speakers)
        )

    def _cell(self, name, system, column):
        observed = [
            self._observations(name, system, condition)
            for condition in column.conditions
        ]
        if not all(observed):
            return None
        tables = [self._by_speaker(name, list(o.values())) for o in observed]
        interval = self.boot.interval(self._score(name), tables)
        runs = sorted({key[:2] for key in observed[0]}, key=str)
        by_run = [
            np.mean(
                [
                    self._score(name)(
                        self._by_speaker(
                            name,
                            [row for key, row in o.items() if key[:2] == run],
                        ).sum(axis=0)
                    )
                    for o in observed
                ]
            )
            for run in runs
        ]
        cell = {**interval._asdict(), "n": sum(map(len, observed))}
        if name in self.study.metrics and system != NOISY:
            gain = _gain(name, observed)
            if gain is not None:
                cell["gain_over_input"] = gain
        cell["n_runs"] = len(runs)
        if len(runs) > 1:
            cell["std"] = float(np.std(by_run, ddof=1))
        return cell

    def _compare(self, name, table):
        baseline = self.settings.baseline
        if baseline not in table:
            return
        others = [s for s in table if s not in (baseline, NOISY)]
        for column in self.columns:
            family = {}
            for system in others:
                if (
                    column.name in table[system]
                    and column.name in (table[baseline])
                ):
                    found = self._difference(name, system, column)
                    if found is not None:
                        family[system] = found
            adjusted = holm(list(family.values()))
            for (system, raw), final in zip(family.items(), adjusted):
                reference = table[baseline][column.name]["score"]
                table[system][column.name] |= self._marks(
                    name, raw, final, reference
                )

    def _marks(self, name, raw, final, reference):
        significant = final.p_value < self.settings.alpha
        found = {
            "difference": raw.difference,
            "p_value": raw.p_value,
            "p_holm": final.p_value,
            "n_paired": raw.n,
            "mark": ("+" if raw.difference > 0 else "-") if significant else "",
        }
        if raw.low is not None:
            found |= {"difference_low": raw.low, "difference_high": raw.high}
        # Of decibels, which have no zero, a ratio says nothing.
        if reference and not name.endswith("_db"):
            found["relative_percent"] = 100 * raw.difference / abs(reference)
        return found

    def _difference(self, name, system, column):
        """Compare a system with the baseline on what both have."""
        pairs = [
            self._pair(name, system, condition)
            for condition in column.conditions
        ]
        if not all(ours for ours, _ in pairs):
            return None
        n = sum(len(ours) for ours, _ in pairs)
        test, score = self.settings.test, self._score(name)
        is_decision = name in DECISION_SCORES
        if test == "mcnemar" and is_decision:
            ours, theirs = (sum(side, []) for side in zip(*pairs))
            labels, predictions = self.study.decisions(ours)
            return mcnemar(labels, predictions, self.study.decisions(theirs)[1])
        if test == "wilcoxon" and name in self.study.metrics:
            ours, theirs = (sum(side, []) for side in zip(*pairs))
            return wilcoxon(numbers(ours, "value"), numbers(theirs, "value"))
        if test == "subsets" and min(len(o) for o, _ in pairs) >= N_SUBSETS:
            tables = [
                [
                    self._reduce(
                        name,
                        side,
                        random_subsets(
                            len(side), N_SUBSETS, self.settings.seed
                        ),
                        N_SUBSETS,
                    )
                    for side in pair
                ]
                for pair in pairs
            ]
            return subset_t_test(
                lambda stack: np.mean([score(t) for t in stack], axis=0),
                *([t[side] for t in tables] for side in (0, 1)),
                n,
            )
        tables = [
            [self._by_speaker(name, pair[side]) for pair in pairs]
            for side in (0, 1)
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

    def _pair(self, name, system, condition):
        ours = self._observations(name, system, condition)
        theirs = self._observations(name, self.settings.baseline, condition)
        shared = sorted(set(ours) & set(theirs), key=str)
        return [ours[k] for k in shared], [theirs[k] for k in shared]


def _gain(name, observed):
    """Mean over conditions of enhanced minus noisy, where both are known."""
    gains = []
    for rows in observed:
        noisy = numbers(rows.values(), f"noisy_{name}")
        gain = numbers(rows.values(), "value") - noisy
        gain = gain[np.isfinite(gain)]
        if not len(gain):
            return None
        gains.append(gain.mean())
    return float(np.mean(gains))

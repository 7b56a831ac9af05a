"""Paired bootstrap over speakers: intervals of scores and of differences.

Utterances of one speaker are alike, so speakers are drawn, with all their
utterances, under all conditions and for all systems at once. B. Efron and R.
Tibshirani, "An introduction to the bootstrap", 1993; for speech: M. Bisani and
H. Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation", ICASSP 2004.
"""

from typing import NamedTuple

import numpy as np

from merit_modules.report.significance.comparison import Comparison
from merit_modules.report.significance.scores import occupied

#: Below so many speakers, intervals are known to be too narrow.
FEW_UNITS = 10


class Interval(NamedTuple):
    """A score with its confidence interval.

    Arguments
    ---------
    score : float
        On all observations.
    low : float
        Lower end.
    high : float
        Upper end.
    """

    score: float
    low: float
    high: float


class Bootstrap:
    """Resamples of the same units, for any number of scores and systems.

    Arguments
    ---------
    n_units : int
        Speakers G, or whatever is drawn.
    n_resamples : int
        Number of resamples R.
    seed : int
        Seed of the draws.
    level : float
        Confidence level of intervals.

    Example
    -------
    >>> from merit_modules.report.significance.scores import mean, sums
    >>> boot = Bootstrap(n_units=4, n_resamples=1000, seed=0)
    >>> low_high = boot.interval(mean, [sums([1, 2, 3, 4], [0, 1, 2, 3])])
    >>> low_high.score, low_high.low < 2.5 < low_high.high
    (2.5, True)
    """

    def __init__(self, n_units, n_resamples=10000, seed=0, level=0.95):
        if n_units < 1 or n_resamples < 1:
            raise ValueError(
                "expected at least one unit and one resample, got "
                f"{n_units} and {n_resamples}"
            )
        self.n_units = n_units
        self.level = level
        draws = np.random.default_rng(seed).multinomial(
            n_units, np.full(n_units, 1 / n_units), size=n_resamples
        )
        # Row 0 is the test set itself: every unit once.
        self.counts = np.vstack([np.ones(n_units), draws])

    def scores(self, score, tables):
        """Score the test set and all its resamples.

        Arguments
        ---------
        score : callable
            Of :mod:`merit_modules.report.significance.scores`.
        tables : list of np.ndarray
            Tables (G, ...), one per condition: the result is the mean of
            their scores.

        Returns
        -------
        np.ndarray
            Scores (R + 1,), that of the test set itself first. NaN for a
            resample in which a condition has no observation.
        """
        with np.errstate(invalid="ignore"):
            found = [
                score(np.tensordot(self.counts, table, axes=1))
                for table in tables
            ]
        return np.mean(found, axis=0)

    def interval(self, score, tables):
        """Give a score and its percentile interval; see :meth:`scores`."""
        found = self.scores(score, tables)
        return Interval(float(found[0]), *self._ends(found[1:]))

    def compare(self, score, system, baseline, n):
        """Compare a system with a baseline on the same draws.

        Arguments
        ---------
        score : callable
            Of :mod:`merit_modules.report.significance.scores`.
        system : list of np.ndarray
            The system's tables (G, ...), one per condition.
        baseline : list of np.ndarray
            Those of the baseline on the same observations.
        n : int
            Number of observations, for the report.

        Returns
        -------
        Comparison
            The two-sided p value is twice the share of resamples in which
            the difference has the other sign or is 0, counting the test set
            itself as one more: it is never 0. Nor is it less than what a
            permutation of the G units that have observations can reach,
            2 / 2 ** G: three speakers who agree are no proof.
        """
        found = self.scores(score, system) - self.scores(score, baseline)
        difference, resampled = found[0], found[1:][np.isfinite(found[1:])]
        n_other = min((resampled <= 0).sum(), (resampled >= 0).sum())
        p_value = min(1.0, 2 * (n_other + 1) / (len(resampled) + 1))
        n_units = len(occupied(system))
        smallest_p = max(2 / 2**n_units, 2 / (len(resampled) + 1))
        return Comparison(
            "bootstrap",
            float(difference),
            max(float(p_value), smallest_p),
            n,
            n_units,
            *self._ends(resampled),
            smallest_p,
        )

    def _ends(self, resampled):
        tail = 50 * (1 - self.level)
        low, high = np.nanpercentile(resampled, [tail, 100 - tail])
        return float(low), float(high)


def units_of(names):
    """Number groups, such as speakers, in the order of their names.

    Arguments
    ---------
    names : sequence of str
        Group of each observation (N,).

    Returns
    -------
    np.ndarray
        Numbers (N,), 0 to G - 1.

    Example
    -------
    >>> units_of(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]

"""Paired permutation of speakers: valid with few of them, too.

If two systems were the same, each speaker's results could as well be those of
the other system. E. W. Noreen, "Computer-intensive methods for testing
hypotheses", 1989.
"""

import numpy as np
from scipy import stats

from merit_modules.report.significance.comparison import Comparison
from merit_modules.report.significance.scores import occupied

_BATCH = 500  # permutations at once


def permute_units(score, system, baseline, n, n_resamples=10000, seed=0):
    """Compare a system with a baseline by swapping their units' results.

    With G units there are 2 ** G ways to swap; all are tried where they are no
    more than ``n_resamples``. The smallest possible p value is then
    2 / 2 ** G: six speakers cannot show less than 0.03.

    Arguments
    ---------
    score : callable
        Of :mod:`merit_modules.report.significance.scores`.
    system : list of np.ndarray
        The system's tables (G, ...), one per condition: the score is the mean
        over conditions.
    baseline : list of np.ndarray
        Those of the baseline on the same observations.
    n : int
        Number of observations, for the report.
    n_resamples : int
        Most swaps to try.
    seed : int
        Of the draws, where not all are tried.

    Returns
    -------
    Comparison
        With a two-sided p value and no interval.

    Example
    -------
    >>> from merit_modules.report.significance.scores import mean, sums
    >>> ours = sums([3.0, 4.0, 5.0, 6.0], range(4))
    >>> theirs = sums([1.0, 2.0, 3.0, 4.0], range(4))
    >>> permute_units(mean, [ours], [theirs], 4).p_value
    0.125
    """
    n_units = len(system[0])
    # Units that have no observation here have nothing to swap.
    there = occupied(system)
    pooled = [np.concatenate(pair) for pair in zip(system, baseline)]

    def difference(ours, theirs, axis):
        return _mean_score(score, pooled, ours, axis) - _mean_score(
            score, pooled, theirs, axis
        )

    result = stats.permutation_test(
        (there, there + n_units),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return Comparison(
        "permutation",
        float(result.statistic),
        float(result.pvalue),
        n,
        len(there),
        smallest_p=2 / min(2 ** len(there), n_resamples + 1),
    )


def _mean_score(score, tables, units, axis):
    units = np.moveaxis(units.astype(int), axis, -1)
    with np.errstate(invalid="ignore"):
        found = [
            score(table[units].sum(axis=units.ndim - 1)) for table in tables
        ]
    return np.mean(found, axis=0)

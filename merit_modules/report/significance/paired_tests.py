"""Tests of a difference beside the bootstrap: subsets, McNemar, Wilcoxon."""

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from merit_modules.report.significance.comparison import Comparison, paired

EXACT_BELOW = 25  # discordant decisions: too few for chi-square


def random_subsets(n, n_subsets=40, seed=0):
    """Cut observations into random subsets of equal size (one more at most).

    Arguments
    ---------
    n : int
        Number of observations N.
    n_subsets : int
        Number of subsets G.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    np.ndarray
        Subset of each observation (N,), 0 to G - 1.

    Raises
    ------
    ValueError
        If there are fewer observations than subsets.

    Example
    -------
    >>> np.bincount(random_subsets(10, n_subsets=4)).tolist()
    [3, 3, 2, 2]
    """
    if n < n_subsets:
        raise ValueError(
            f"expected at least {n_subsets} observations for {n_subsets} "
            f"subsets, got {n}"
        )
    return np.random.default_rng(seed).permutation(np.arange(n) % n_subsets)


def subset_t_test(score, system, baseline, n, is_paired=True):
    """Compare over random subsets, as the MSP lab does.

    The test set is cut into 40 random subsets; the score of each gives a
    value per system; a two-tailed t-test compares them.

    Arguments
    ---------
    score : callable
        Of :mod:`merit_modules.report.significance.scores`.
    system : np.ndarray
        Tables of the system (G, ...), a subset being a unit.
    baseline : np.ndarray
        Tables of the baseline on the same subsets.
    n : int
        Number of observations, for the report.
    is_paired : bool
        Whether the subsets are the same for both, as here; False: the test
        for independent samples.

    Returns
    -------
    Comparison
        With the interval of the mean difference over subsets.

    Example
    -------
    >>> from merit_modules.report.significance.scores import mean, sums
    >>> units = random_subsets(400)
    >>> noise = np.random.default_rng(0).normal(size=400)
    >>> found = subset_t_test(
    ...     mean, sums(noise + 1, units), sums(noise, units), 400)
    >>> found.p_value < 0.001, found.n_units
    (True, 40)
    """
    ours, theirs = score(system), score(baseline)
    if np.allclose(ours, theirs, rtol=0, atol=1e-12):
        return Comparison("subsets", 0.0, 1.0, n, len(ours), 0.0, 0.0)
    if is_paired and np.ptp(ours - theirs) < 1e-12:
        # The same gain everywhere: no t value, and no doubt either.
        gain = float((ours - theirs).mean())
        return Comparison("subsets", gain, 0.0, n, len(ours), gain, gain)
    test = stats.ttest_rel if is_paired else stats.ttest_ind
    result = test(ours, theirs)
    interval = result.confidence_interval()
    return Comparison(
        "subsets",
        float((ours - theirs).mean()),
        float(result.pvalue),
        n,
        len(ours),
        float(interval.low),
        float(interval.high),
    )


def mcnemar(labels, system, baseline):
    """Compare decisions (McNemar, 1947).

    Exact below 25 decisions that only one of the two got right, chi-square
    with continuity correction from there on. Decisions are taken for
    independent: with few speakers the bootstrap is the safer choice.

    Arguments
    ---------
    labels : sequence of int
        True classes (N,).
    system : sequence of int
        Predictions of the system (N,).
    baseline : sequence of int
        Predictions of the baseline (N,).

    Returns
    -------
    Comparison
        The difference is that of accuracies; ``n_units`` counts the
        decisions that only one got right.

    Example
    -------
    >>> found = mcnemar([1] * 20, [1] * 20, [0] * 12 + [1] * 8)
    >>> found.difference, round(found.p_value, 5)
    (0.6, 0.00049)
    """
    labels, system, baseline = paired(
        labels=labels, system=system, baseline=baseline
    )
    ours, theirs = system == labels, baseline == labels
    only_ours = int((ours & ~theirs).sum())
    only_theirs = int((theirs & ~ours).sum())
    n_discordant = only_ours + only_theirs
    p_value = 1.0
    if n_discordant:
        table = [
            [int((ours & theirs).sum()), only_ours],
            [only_theirs, int((~ours & ~theirs).sum())],
        ]
        exact = n_discordant < EXACT_BELOW
        p_value = float(statsmodels_mcnemar(table, exact=exact).pvalue)
    difference = (only_ours - only_theirs) / len(labels)
    return Comparison("mcnemar", difference, p_value, len(labels), n_discordant)


def wilcoxon(system, baseline):
    """Compare scores of utterances (Wilcoxon's signed-rank test, 1945).

    Arguments
    ---------
    system : sequence of float
        Scores of the system (N,).
    baseline : sequence of float
        Scores of the baseline (N,).

    Returns
    -------
    Comparison
        The difference is that of means; ``n_units`` counts the utterances
        whose scores differ.

    Raises
    ------
    ValueError
        If a score is missing: leave such utterances out, and say so.

    Example
    -------
    >>> wilcoxon([2.0, 3.1, 4.3, 5.2, 6.5], [1.0, 2.0, 3.0, 4.0, 5.0]).p_value
    0.0625
    """
    system, baseline = paired(system=system, baseline=baseline)
    differences = system - baseline
    n_different = int((differences != 0).sum())
    p_value = 1.0
    if n_different:
        p_value = float(stats.wilcoxon(differences).pvalue)
    return Comparison(
        "wilcoxon",
        float(differences.mean()),
        p_value,
        len(differences),
        n_different,
    )

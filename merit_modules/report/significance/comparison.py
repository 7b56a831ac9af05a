"""What every test of a difference says."""

from typing import NamedTuple

import numpy as np


class Comparison(NamedTuple):
    """A system against a baseline on the same observations.

    Arguments
    ---------
    test : str
        Name of the test.
    difference : float
        Score of the system minus that of the baseline.
    p_value : float
        Two-sided.
    n : int
        Paired observations.
    n_units : int
        What was resampled or compared: speakers, subsets, decisions that
        differ, or non-zero differences.
    low : float or None
        Lower end of the 95 % confidence interval of the difference, where
        the test has one.
    high : float or None
        Its upper end.
    smallest_p : float
        What p value so many units can reach at all.
    """

    test: str
    difference: float
    p_value: float
    n: int
    n_units: int
    low: float | None = None
    high: float | None = None
    smallest_p: float = 0.0


def holm(comparisons):
    """Adjust the p values of several comparisons (Holm, 1979).

    The chance that any true null hypothesis among them is rejected then stays
    below the level.

    Arguments
    ---------
    comparisons : list of Comparison
        One family, such as all systems against one baseline.

    Returns
    -------
    list of Comparison
        The same, in the same order, with adjusted p values.

    Example
    -------
    >>> family = [Comparison("t", 0.0, p, 9, 9) for p in (0.01, 0.04, 0.03)]
    >>> [round(c.p_value, 2) for c in holm(family)]
    [0.03, 0.06, 0.06]
    """
    # statsmodels has it, too, and collects garbage for 0.1 s each time.
    p_values = np.array([comparison.p_value for comparison in comparisons])
    order = np.argsort(p_values)
    weighted = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(weighted), 1.0)
    return [
        comparison._replace(p_value=float(p))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def paired(**arrays):
    """Check arrays that have an entry per observation.

    Arguments
    ---------
    **arrays : sequence
        Name to values (N,).

    Returns
    -------
    list of np.ndarray
        The arrays.

    Raises
    ------
    ValueError
        If one is empty, not of shape (N,), of another length, or not finite;
        it is named.

    Example
    -------
    >>> paired(system=[1, 2], baseline=[1])
    Traceback (most recent call last):
    ValueError: baseline: expected 2 values, got shape (1,)
    """
    found = []
    for name, values in arrays.items():
        values = np.asarray(values)
        if values.ndim != 1 or not values.size:
            raise ValueError(
                f"{name}: expected shape (N,), N > 0, got {values.shape}"
            )
        if found and len(values) != len(found[0]):
            raise ValueError(
                f"{name}: expected {len(found[0])} values, "
                f"got shape {values.shape}"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name}: expected finite values only")
        found.append(values)
    return found

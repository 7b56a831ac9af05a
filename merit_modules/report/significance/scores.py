"""Scores from sums: computed for many resamples of a test set at once.

A test set is reduced to a table per unit (speaker, subset): a confusion matrix
for decisions, sum and count for numbers. A resample is a sum of such tables.
"""

import numpy as np

from merit_modules.report.significance.comparison import paired


def confusions(labels, predictions, units, n_classes, n_units=None):
    """Count decisions per unit.

    Arguments
    ---------
    labels : sequence of int
        True classes (N,).
    predictions : sequence of int
        Predicted classes (N,).
    units : sequence of int
        Unit of each observation (N,), 0 to G - 1.
    n_classes : int
        Number of classes C.
    n_units : int, optional
        Number of units G, where some have no observation.

    Returns
    -------
    np.ndarray
        Counts (G, C, C), a row per label.

    Raises
    ------
    ValueError
        If the lengths differ or a class is none of the C.

    Example
    -------
    >>> confusions([0, 1], [0, 0], [0, 0], 2).tolist()
    [[[1.0, 0.0], [1.0, 0.0]]]
    """
    labels, predictions, units = paired(
        labels=labels, predictions=predictions, units=units
    )
    for name, values in (("labels", labels), ("predictions", predictions)):
        if values.min() < 0 or values.max() >= n_classes:
            raise ValueError(
                f"{name}: expected classes from 0 to {n_classes - 1}, got "
                f"{values.min()} to {values.max()}"
            )
    n_units = n_units or units.max() + 1
    found = np.zeros((n_units, n_classes, n_classes))
    np.add.at(found, (units, labels, predictions), 1)
    return found


def sums(values, units, n_units=0):
    """Add up numbers per unit.

    Arguments
    ---------
    values : sequence of float
        One per observation (N,).
    units : sequence of int
        Unit of each observation (N,), 0 to G - 1.
    n_units : int
        Number of units G, where some have no observation.

    Returns
    -------
    np.ndarray
        Sum and count (G, 2).

    Example
    -------
    >>> sums([1.0, 3.0], [0, 0]).tolist()
    [[4.0, 2.0]]
    """
    values, units = paired(values=values, units=units)
    totals = np.bincount(units, values, minlength=n_units)
    counts = np.bincount(units, minlength=n_units)
    return np.stack([totals, counts], axis=-1)


def moments(estimates, references, units, n_units=0):
    """Add up what the concordance correlation is made of, per unit.

    Arguments
    ---------
    estimates : sequence of float
        One per observation (N,).
    references : sequence of float
        Likewise (N,).
    units : sequence of int
        Unit of each observation (N,), 0 to G - 1.
    n_units : int
        Number of units G, where some have no observation.

    Returns
    -------
    np.ndarray
        Count, sums, sums of squares and of products (G, 6).

    Example
    -------
    >>> moments([1.0, 3.0], [2.0, 2.0], [0, 0]).tolist()
    [[2.0, 4.0, 4.0, 10.0, 8.0, 8.0]]
    """
    x, y, units = paired(
        estimates=estimates, references=references, units=units
    )
    parts = (np.ones(len(x)), x, y, x * x, y * y, x * y)
    return np.stack(
        [np.bincount(units, part, minlength=n_units) for part in parts],
        axis=-1,
    )


def occupied(tables):
    """Number the units that have an observation in any table (G, ...)."""
    sizes = [
        np.abs(table).reshape(len(table), -1).sum(axis=1) for table in tables
    ]
    return np.flatnonzero(np.any(sizes, axis=0))


def concordance(table):
    """Concordance correlation of moments (..., 6); 0 where nothing varies."""
    n = table[..., 0]
    x, y, xx, yy, xy = np.moveaxis(table[..., 1:], -1, 0) / n
    spread = (xx - x * x) + (yy - y * y) + (x - y) ** 2
    return np.divide(
        2 * (xy - x * y),
        spread,
        out=np.zeros_like(spread),
        where=spread > 0,
    )


def f1_macro(confusion):
    """Macro F1 of confusion matrices (..., C, C).

    Classes that are neither labelled nor predicted are left out, as in
    ``classification_scores``.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    return _mean_where(2 * hits, total, total > 0)


def uar(confusion):
    """Mean recall of the labelled classes of confusion matrices (..., C, C)."""
    labelled = confusion.sum(axis=-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _mean_where(hits, labelled, labelled > 0)


def accuracy(confusion):
    """Share of correct decisions of confusion matrices (..., C, C)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1)
    return hits / confusion.sum(axis=(-2, -1))


def mean(table):
    """Mean of sums and counts (..., 2)."""
    return table[..., 0] / table[..., 1]


def _mean_where(numerator, denominator, counts):
    ratio = np.divide(
        numerator,
        denominator,
        out=np.zeros(denominator.shape),
        where=counts,
    )
    return ratio.sum(axis=-1) / counts.sum(axis=-1)


#: Name to score of a table: of decisions, and of numbers.
DECISION_SCORES = {
    "f1_macro": f1_macro,
    "f1_micro": accuracy,
    "wa": accuracy,
    "uar": uar,
}

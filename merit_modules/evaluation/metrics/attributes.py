"""Scores of emotional attributes over a whole set."""

import numpy as np


def attribute_scores(predictions, labels, names):
    """Score the predicted attributes of a set of utterances.

    Arguments
    ---------
    predictions : sequence of sequence of float
        Estimates (N, A).
    labels : sequence of sequence of float
        References (N, A), in the same unit.
    names : sequence of str
        Names of the A attributes.

    Returns
    -------
    dict
        ``n``, the number of utterances; ``ccc_<name>``, the concordance
        correlation of each attribute (0 where neither side varies);
        ``ccc_mean``; ``rmse_<name>``.

    Raises
    ------
    ValueError
        If there is no utterance, or the shapes are not (N, A).

    Example
    -------
    >>> scores = attribute_scores([[2.0], [3.0], [4.0]], [[1], [2], [3]], "v")
    >>> round(scores["ccc_v"], 4), scores["rmse_v"]
    (0.5714, 1.0)
    """
    x = np.asarray(predictions, dtype=float)
    y = np.asarray(labels, dtype=float)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != len(names):
        raise ValueError(
            f"expected predictions and labels (N, {len(names)}), got "
            f"{x.shape} and {y.shape}"
        )
    if not len(x):
        raise ValueError("expected at least one utterance")
    covariance = ((x - x.mean(0)) * (y - y.mean(0))).mean(0)
    spread = x.var(0) + y.var(0) + (x.mean(0) - y.mean(0)) ** 2
    ccc = np.divide(
        2 * covariance, spread, out=np.zeros_like(spread), where=spread > 0
    )
    rmse = np.sqrt(((x - y) ** 2).mean(0))
    return {
        "n": len(x),
        **{f"ccc_{name}": float(v) for name, v in zip(names, ccc)},
        "ccc_mean": float(ccc.mean()),
        **{f"rmse_{name}": float(v) for name, v in zip(names, rmse)},
    }

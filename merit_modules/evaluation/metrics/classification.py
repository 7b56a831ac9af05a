"""Scores of emotion classification over a whole set."""

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
)


def classification_scores(predictions, labels, class_names, probs=None):
    """Score the predicted classes of a set of utterances.

    A class that is neither in the labels nor predicted has no F1: it is
    left out of ``f1_per_class`` and of the macro average, so that a perfect
    prediction scores 1. A class that is only predicted has F1 = 0.

    Arguments
    ---------
    predictions : sequence of int
        Predicted classes (N,), 0 to C - 1.
    labels : sequence of int
        True classes (N,), 0 to C - 1.
    class_names : sequence of str
        Names of the C classes.
    probs : sequence of sequence of float, optional
        Probabilities (N, C), for the calibration error.

    Returns
    -------
    dict
        ``n``, the number of utterances; ``f1_macro``; ``f1_micro``; ``uar``,
        the mean recall of the classes among the labels; ``accuracy`` and,
        under its name in the field, ``wa`` (weighted accuracy);
        ``precision_macro`` and ``recall_macro`` over the classes that F1 is
        averaged over; ``ece`` if there are probabilities;
        ``f1_per_class``, ``precision_per_class`` and ``recall_per_class``,
        name to score; ``classes``, the names;
        ``absent_classes``, those without a label; ``confusion``, a nested
        list with a row per label and a column per prediction.

    Raises
    ------
    ValueError
        If there is no utterance, if the lengths differ, or if a class is no
        integer from 0 to C - 1.

    Example
    -------
    >>> scores = classification_scores([0, 1, 1], [0, 1, 0], ["anger", "joy"])
    >>> scores["confusion"], round(scores["f1_macro"], 4), scores["uar"]
    ([[1, 1], [0, 1]], 0.6667, 0.75)
    """
    n_classes = len(class_names)
    predictions = _checked(predictions, "predictions", n_classes)
    labels = _checked(labels, "labels", n_classes)
    if predictions.shape != labels.shape:
        raise ValueError(
            "expected a prediction for every label, got "
            f"{len(predictions)} predictions and {len(labels)} labels"
        )
    classes = np.arange(n_classes)
    labelled = np.unique(labels)
    seen = np.union1d(labels, predictions)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=seen, average=None, zero_division=0
    )
    found = {} if probs is None else {"ece": calibration_error(probs, labels)}

    def by_name(values):
        return {class_names[k]: float(v) for k, v in zip(seen, values)}

    return {
        "n": len(labels),
        "f1_macro": float(f1.mean()),
        "f1_micro": float(
            f1_score(labels, predictions, labels=classes, average="micro")
        ),
        "uar": float(
            recall_score(labels, predictions, labels=labelled, average="macro")
        ),
        "accuracy": float((predictions == labels).mean()),
        "wa": float((predictions == labels).mean()),
        "precision_macro": float(precision.mean()),
        "recall_macro": float(recall.mean()),
        **found,
        "f1_per_class": by_name(f1),
        "precision_per_class": by_name(precision),
        "recall_per_class": by_name(recall),
        "classes": list(class_names),
        "absent_classes": [
            class_names[k] for k in np.setdiff1d(classes, labelled)
        ],
        "confusion": confusion_matrix(
            labels, predictions, labels=classes
        ).tolist(),
    }


def calibration_error(probs, labels, n_bins=15):
    """Compute the expected calibration error (Guo et al., ICML 2017).

    Utterances are put into bins of equal width by the probability of the
    predicted class; the error is the mean distance, weighted by the bins'
    sizes, between that probability and the share of correct predictions.

    Arguments
    ---------
    probs : sequence of sequence of float
        Probabilities (N, C).
    labels : sequence of int
        True classes (N,), 0 to C - 1.
    n_bins : int
        Number of bins.

    Returns
    -------
    float
        0 (calibrated) to 1.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Example
    -------
    >>> calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1])
    0.25
    """
    probs, labels = np.asarray(probs, dtype=np.float64), np.asarray(labels)
    if probs.ndim != 2 or len(probs) != len(labels) or not len(labels):
        raise ValueError(
            f"probs: expected shape ({len(labels)}, C), got {probs.shape}"
        )
    confidence = probs.max(axis=1)
    correct = probs.argmax(axis=1) == labels
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.digitize(confidence, edges, right=True)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(labels))


def tempered(probs, temperature):
    """Make probabilities less sure of themselves, or more.

    Arguments
    ---------
    probs : sequence of sequence of float
        Probabilities (N, C).
    temperature : float
        What the logits are divided by; above 1: less sure.

    Returns
    -------
    numpy.ndarray
        Probabilities (N, C).

    Example
    -------
    >>> tempered([[0.8, 0.2]], 2.0).round(3).tolist()
    [[0.667, 0.333]]
    """
    powers = np.asarray(probs, dtype=np.float64) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probs, labels):
    """Find the temperature that makes probabilities honest.

    The one with the highest likelihood of the labels (Guo et al., ICML 2017)
    where there are many; few are weighed against its being 1 (a normal
    distribution of its logarithm, of width 1).

    Arguments
    ---------
    probs : sequence of sequence of float
        Probabilities (N, C) of a set that was not trained on.
    labels : sequence of int
        True classes (N,).

    Returns
    -------
    float
        The temperature, 0.05 to 20.

    Example
    -------
    >>> sure, right = [[0.99, 0.01]] * 100, [0] * 75 + [1] * 25
    >>> round(fit_temperature(sure, right))
    4
    """
    labels = np.asarray(labels)
    logits = np.log(np.clip(np.asarray(probs, dtype=np.float64), 1e-12, None))

    def loss(log_temperature):
        scaled = logits / np.exp(log_temperature)
        norm = np.logaddexp.reduce(scaled, axis=1)
        right = scaled[np.arange(len(labels)), labels]
        return (norm - right).sum() + log_temperature**2 / 2

    bounds = np.log(0.05), np.log(20)
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(np.exp(found.x))


def _checked(values, name, n_classes):
    values = np.asarray(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"{name}: expected classes of shape (N,), N > 0, got {values.shape}"
        )
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected integers, got {values.dtype}")
    wrong = values[(values < 0) | (values >= n_classes)]
    if wrong.size:
        raise ValueError(
            f"{name}: expected classes from 0 to {n_classes - 1}, "
            f"got {wrong[0]}"
        )
    return values

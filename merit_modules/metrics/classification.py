"""Scores of emotion classification over a whole set."""

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, recall_score


def classification_scores(predictions, labels, class_names):
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

    Returns
    -------
    dict
        ``n``, the number of utterances; ``f1_macro``; ``f1_micro``; ``uar``,
        the mean recall of the classes among the labels; ``accuracy``;
        ``f1_per_class``, name to F1; ``classes``, the names;
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
    f1 = f1_score(
        labels, predictions, labels=seen, average=None, zero_division=0
    )
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
        "f1_per_class": {
            class_names[k]: float(value) for k, value in zip(seen, f1)
        },
        "classes": list(class_names),
        "absent_classes": [
            class_names[k] for k in np.setdiff1d(classes, labelled)
        ],
        "confusion": confusion_matrix(
            labels, predictions, labels=classes
        ).tolist(),
    }


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

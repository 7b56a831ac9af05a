"""How every system does on each emotion, and how sure it rightly is."""

import numpy as np

from merit_modules.evaluation.metrics.classification import (
    classification_scores,
)
from merit_modules.evaluation.metrics.table import number

#: Score to heading, of what is not told by class.
_WHOLE = {
    "precision_macro": "precision",
    "recall_macro": "recall",
    "ece": "calibration error",
}


def score_emotions(study):
    """Score the pooled decisions of every system under every condition.

    Arguments
    ---------
    study : Study
        The runs.

    Returns
    -------
    dict
        System to condition to what
        :func:`~merit_modules.evaluation.metrics.classification.classification_scores`
        returns: precision, recall, F1 per class, confusion counts,
        calibration error and more. Systems without decisions are absent.
    """
    found = {}
    for condition in study.conditions:
        shared, _ = study.shared(condition, "prediction", "f1_macro")
        for system, observed in shared.items() if study.classes else ():
            rows = list(observed.values())
            labels, predictions = study.decisions(rows)
            probs = [
                [float(row[f"prob_{name}"]) for name in study.classes]
                for row in rows
            ]
            found.setdefault(system, {})[condition.name] = (
                classification_scores(predictions, labels, study.classes, probs)
            )
    return found


def summarise_emotions(scores, columns):
    """Average over the conditions of each group, as rows of text.

    Arguments
    ---------
    scores : dict
        From :func:`score_emotions`.
    columns : list of Column
        Columns of the report: the means over groups, and single conditions
        that belong to none.

    Returns
    -------
    header : list of str
        Names of the columns.
    rows : list of list of str
        One per system and group.
    """
    averaged = {c.group for c in columns if len(c.conditions) > 1}
    groups = [
        c for c in columns if len(c.conditions) > 1 or c.group not in averaged
    ]
    classes = next(
        (
            entry["classes"]
            for by_condition in scores.values()
            for entry in by_condition.values()
        ),
        [],
    )
    header = ["system", "conditions", *(f"F1 {name}" for name in classes)]
    header += list(_WHOLE.values())
    rows = []
    for system, by_condition in scores.items():
        for group in groups:
            members = [by_condition[c.name] for c in group.conditions]
            per_class = [
                [m["f1_per_class"].get(name) for m in members]
                for name in classes
            ]
            whole = [[m[name] for m in members] for name in _WHOLE]
            rows.append([system, group.name, *map(_mean, [*per_class, *whole])])
    return header, rows


def _mean(values):
    values = [value for value in values if value is not None]
    return number(np.mean(values) if values else None, 3)

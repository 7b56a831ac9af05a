"""The table of a summary of several runs."""

from merit_modules.metrics.scoring import SIDES

_MISSING = "-"


def summary_table(summary):
    """Write a summary as Markdown that reads well as plain text, too.

    Arguments
    ---------
    summary : dict
        What ``summarise_runs`` returned.

    Returns
    -------
    str
        Mean ± standard deviation per condition, over runs and, with several
        folds, pooled; then what is missing.

    Example
    -------
    >>> uar = {"mean": 0.6, "std": 0.1, "n": 2}
    >>> clean = {"name": "clean", "n_runs": 2, "ser": {"uar": uar}, "se": {}}
    >>> print(summary_table({
    ...     "corpus": "C", "system": "S", "missing": ["fold 2, seed 3: killed"],
    ...     "runs": [{"fold": 1, "seed": 2}, {"fold": 1, "seed": 1}],
    ...     "conditions": [{**clean, "n_failed": {}}]}))
    # S on C
    <BLANKLINE>
    Mean ± standard deviation over 2 runs (fold 1; seeds 1, 2).
    <BLANKLINE>
    | condition | runs | uar           |
    | --------- | ---- | ------------- |
    | clean     | 2    | 0.600 ± 0.100 |
    <BLANKLINE>
    - Not finished: fold 2, seed 3: killed
    """
    runs, conditions = summary["runs"], summary["conditions"]
    folds = {run["fold"] for run in runs} - {None}
    of = [_numbers("fold", folds)] if folds else []
    of.append(_numbers("seed", {run["seed"] for run in runs}))
    many = f"{len(runs)} runs" if len(runs) > 1 else "1 run"
    lines = [f"# {summary['system']} on {summary['corpus']}", ""]
    lines += [f"Mean ± standard deviation over {many} ({'; '.join(of)}).", ""]
    lines += _table(conditions, "runs", [c["n_runs"] for c in conditions])
    if len(folds) > 1:
        pooled = [{"name": c["name"], **c["pooled"]} for c in conditions]
        sizes = ["/".join(map(str, condition["n"])) for condition in pooled]
        lines += ["", "Folds pooled: the test utterances of a seed as one set."]
        lines += ["", *_table(pooled, "utterances", sizes)]
    notes = [f"- Not finished: {text}" for text in summary["missing"]]
    notes += [
        f"- {condition['name']}: {n} utterances without {key}"
        for condition in conditions
        for key, n in condition["n_failed"].items()
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _numbers(what, numbers):
    plural = "s" if len(numbers) > 1 else ""
    return f"{what}{plural} {', '.join(map(str, sorted(numbers)))}"


def _table(conditions, heading, firsts):
    """Lay out the scores that any of the conditions has."""
    columns = _columns(conditions)
    rows = [["condition", heading, *columns]]
    for condition, first in zip(conditions, firsts, strict=True):
        cells = [_cell(condition, path) for path in columns.values()]
        rows.append([condition["name"], str(first), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return [
        f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths))} |"
        for row in rows
    ]


def _columns(conditions):
    """Return ``{heading: keys that lead to the score}``."""
    scores = dict.fromkeys(k for c in conditions for k in c["ser"])
    metrics = dict.fromkeys(
        metric
        for condition in conditions
        for side in SIDES
        for metric in condition["se"].get(side, {})
    )
    return {name: ("ser", name) for name in scores} | {
        f"{metric} {side}": ("se", side, metric)
        for metric in metrics
        for side in SIDES
    }


def _cell(condition, path):
    entry = condition
    for key in path:
        entry = entry.get(key, {})
    if "mean" not in entry:
        return _MISSING
    std = f" ± {entry['std']:.3f}" if "std" in entry else ""
    return f"{entry['mean']:.3f}{std}"

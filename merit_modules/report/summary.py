"""From the results of several runs (folds, seeds) to one summary.

Two ways to average, which differ where folds do. *Over runs*: each run's score
counts once, with the standard deviation over all runs. *Pooled*: the test
utterances of a seed's folds are scored as one set, as is usual for
cross-validation, with the standard deviation over seeds.
"""

import statistics

from merit_modules.data.escaping import markdown
from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.attributes import attribute_scores
from merit_modules.evaluation.metrics.classification import (
    classification_scores,
)
from merit_modules.evaluation.metrics.scoring import SIDES, summarise
from merit_modules.evaluation.metrics.table import number

_GAIN = "gain"
_NOT_SCORES = ("n", "accuracy", "wa")  # these are F1-micro


def spread(values):
    """Average some scores.

    Arguments
    ---------
    values : sequence of float
        One per run; at least one.

    Returns
    -------
    dict
        ``mean``; ``std``, the sample standard deviation (over n - 1), absent
        for a single value; ``n``.

    Example
    -------
    >>> spread([1.0, 2.0, 3.0])
    {'mean': 2.0, 'std': 1.0, 'n': 3}
    >>> spread([1.0])
    {'mean': 1.0, 'n': 1}
    """
    found = {"mean": statistics.fmean(values)}
    if len(values) > 1:
        found["std"] = statistics.stdev(values)
    return {**found, "n": len(values)}


def summarise_runs(runs, missing=()):
    """Summarise runs that differ in fold and seed alone.

    Arguments
    ---------
    runs : list of Run
        What finished.
    missing : sequence of str
        What did not, for the table.

    Returns
    -------
    dict
        ``corpus``, ``system``, ``runs`` (fold, seed, folder), ``missing`` and
        ``conditions``: each with ``name``, ``ser`` and ``se`` (what
        :func:`spread` returns, per score) and, under ``pooled``, the same
        over seeds, with ``n`` utterances and the ``confusion`` of all seeds.

    Raises
    ------
    InputError
        If there is no run, corpus or system differ, or scores are missing.
    """
    if not runs:
        raise InputError("no finished run to summarise")
    about = {}
    for key in ("corpus", "system"):
        values = {run.results.get(key): run.folder for run in runs}
        if len(values) > 1:
            raise InputError(
                f"expected runs of one {key}, got "
                + ", ".join(f"{v} ({folder})" for v, folder in values.items())
            )
        about[key] = next(iter(values))
    names = dict.fromkeys(
        condition["name"]
        for run in runs
        for condition in run.results["conditions"]
    )
    return {
        **about,
        "runs": [
            {"fold": run.fold, "seed": run.seed, "folder": str(run.folder)}
            for run in runs
        ],
        "missing": list(missing),
        "conditions": [_condition(name, runs) for name in names],
    }


def _condition(name, runs):
    """Summarise one test condition of all runs that have it."""
    found, rows_of_seed = [], {}
    for run in runs:
        for condition in run.results["conditions"]:
            if condition["name"] == name:
                found.append(condition)
                rows = run.rows[name].values()
                rows_of_seed.setdefault(run.seed, []).extend(rows)
    pooled = [pooled_scores(rows) for rows in rows_of_seed.values()]
    return {
        "name": name,
        "n_runs": len(found),
        **_spreads([_scores(condition) for condition in found]),
        "n_failed": _n_failed(found),
        "pooled": {
            "n": [one["n"] for one in pooled],
            **_spreads(pooled),
            **_confusion(pooled),
        },
    }


def _scores(condition):
    """Reduce a condition of ``results.json`` to numbers."""
    se = condition.get("se", {})
    return {
        "ser": _floats(condition.get("ser", {})),
        "se": {
            side: {
                metric: entry["mean"]
                for metric, entry in se.get(side, {}).items()
                if "mean" in entry
            }
            for side in (*SIDES, _GAIN)
        },
    }


def _floats(scores):
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, float) and name not in _NOT_SCORES
    }


def _spreads(found):
    """Average each score over all that have it."""

    def average(tables):
        names = dict.fromkeys(name for table in tables for name in table)
        return {
            name: spread([table[name] for table in tables if name in table])
            for name in names
        }

    return {
        "ser": average([one["ser"] for one in found]),
        "se": {
            side: average([one["se"][side] for one in found])
            for side in (*SIDES, _GAIN)
        },
    }


def _n_failed(conditions):
    """Count, per side and metric, the utterances without a value."""
    counts = {}
    for condition in conditions:
        for failure in condition.get("failures", []):
            key = f"{failure['side']} {failure['metric']}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def _confusion(pooled):
    matrices = [one["confusion"] for one in pooled if "confusion" in one]
    if not matrices:
        return {}
    total = [
        [sum(cells) for cells in zip(*rows, strict=True)]
        for rows in zip(*matrices, strict=True)
    ]
    return {"classes": pooled[0]["classes"], "confusion": total}


def pooled_scores(rows):
    """Score the test utterances of several runs as one set.

    Arguments
    ---------
    rows : list of dict
        Rows of ``scores.csv``, all of one condition; an utterance that comes
        twice counts twice.

    Returns
    -------
    dict
        ``n``; ``ser`` and ``se``, name to score; with emotion classes also
        ``classes`` and ``confusion``.

    Raises
    ------
    InputError
        If the rows' columns differ.

    Example
    -------
    >>> about = {"prob_calm": "0.9", "prob_tense": "0.1", "label": "calm"}
    >>> rows = [{**about, "prediction": "calm", "noisy_stoi": "0.5"},
    ...         {**about, "prediction": "tense", "noisy_stoi": "0.7"}]
    >>> scores = pooled_scores(rows)
    >>> scores["ser"]["uar"], scores["se"]["noisy"], scores["confusion"]
    (0.5, {'stoi': 0.6}, [[1, 1], [0, 0]])
    """
    header = list(rows[0])
    for row in rows:
        if list(row) != header:
            raise InputError(
                f"expected runs with the same columns of scores: {header} "
                f"against {list(row)}"
            )
    found = {"n": len(rows), "ser": {}, "se": _pooled_se(header, rows)}
    names = [c.removeprefix("prob_") for c in header if c.startswith("prob_")]
    attributes = [c[11:] for c in header if c.startswith("prediction_")]
    if "prediction" in header and rows[0]["prediction"]:
        scores = classification_scores(
            [names.index(row["prediction"]) for row in rows],
            [names.index(row["label"]) for row in rows],
            names,
            _probs(rows, names),
        )
        found |= {k: scores[k] for k in ("classes", "confusion")}
        found["ser"] = _floats(scores)
    elif attributes and rows[0][f"prediction_{attributes[0]}"]:
        sides = (
            [[float(row[f"{side}_{a}"]) for a in attributes] for row in rows]
            for side in ("prediction", "label")
        )
        found["ser"] = _floats(attribute_scores(*sides, attributes))
    return found


def _probs(rows, names):
    """Return the probabilities (N, C); None if some are missing."""
    probs = [[row[f"prob_{name}"] for name in names] for row in rows]
    if not all(value for values in probs for value in values):
        return None
    return [[float(value) for value in values] for values in probs]


def _pooled_se(header, rows):
    metrics = [c[6:] for c in header if c.startswith("noisy_")]
    scores = {
        number: {
            side: {
                metric: float(row[f"{side}_{metric}"])
                for metric in metrics
                if row.get(f"{side}_{metric}")
            }
            for side in SIDES
        }
        for number, row in enumerate(rows)
    }
    summary = summarise(scores, [], metrics)
    return _scores({"se": summary})["se"]


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
    lines = [markdown(f"# {summary['system']} on {summary['corpus']}"), ""]
    lines += [f"Mean ± standard deviation over {many} ({'; '.join(of)}).", ""]
    lines += _table(conditions, "runs", [c["n_runs"] for c in conditions])
    if len(folds) > 1:
        pooled = [{"name": c["name"], **c["pooled"]} for c in conditions]
        sizes = ["/".join(map(str, condition["n"])) for condition in pooled]
        lines += ["", "Folds pooled: the test utterances of a seed as one set."]
        lines += ["", *_table(pooled, "utterances", sizes)]
    notes = [f"Not finished: {text}" for text in summary["missing"]]
    notes += [
        f"{condition['name']}: {n} utterances without {key}"
        for condition in conditions
        for key, n in condition["n_failed"].items()
    ]
    notes = [f"- {markdown(note)}" for note in notes]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _numbers(what, numbers):
    plural = "s" if len(numbers) > 1 else ""
    return f"{what}{plural} {', '.join(map(str, sorted(numbers)))}"


def _table(conditions, heading, firsts):
    """Lay out the scores that any of the conditions has."""
    columns = _columns(conditions)
    rows = [["condition", heading, *map(markdown, columns)]]
    for condition, first in zip(conditions, firsts, strict=True):
        cells = [_cell(condition, path) for path in columns.values()]
        rows.append([markdown(condition["name"]), str(first), *cells])
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
    std = f" ± {entry['std']:.3f}" if "std" in entry else ""
    return number(entry.get("mean"), 3) + std

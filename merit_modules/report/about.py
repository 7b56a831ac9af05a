"""What a report compares, in words and numbers."""

from collections import Counter

from merit_modules.report.significance.bootstrap import FEW_UNITS
from merit_modules.report.writers import Extra

_HOW = {
    "bootstrap": "paired bootstrap over speakers ({n} resamples)",
    "permutation": "paired permutation of speakers (at most {n} of them)",
    "subsets": "two-tailed paired t-test over 40 random subsets, taken for "
    "independent (where a condition has fewer than 40 utterances: paired "
    "bootstrap over speakers)",
    "mcnemar": "McNemar's test on the decisions, taken for independent (all "
    "else: paired bootstrap over speakers, {n} resamples)",
    "wilcoxon": "Wilcoxon's signed-rank test on the scores of utterances, "
    "taken for independent (emotions: paired bootstrap over speakers, {n} "
    "resamples)",
}

_NOT_STATED = "not stated"
#: Heading to key and unit.
_COSTS = {
    "parameters, M": ("parameters", 1e6),
    "active per frame, M": ("active_parameters", 1e6),
    "GMAC per s of audio": ("macs_per_s", 1e9),
    "s per s of audio": ("rtf",),
    "peak memory, MiB": ("peak_memory_bytes", 2**20),
}


def about(study, settings, tables):
    """Say what was compared.

    Arguments
    ---------
    study : Study
        The runs.
    settings : Settings
        How systems were compared.
    tables : dict
        Score to system to column to cell.

    Returns
    -------
    list of str
        Sentences.
    """
    runs = study.runs
    folds = sorted({r.fold for r in runs if r.fold is not None})
    utterances = {
        (run.fold, utt_id)
        for run in runs
        for rows in run.rows.values()
        for utt_id in rows
    }
    lines = [
        f"Corpus: {runs[0].results.get('corpus')}. {len(study.systems)} "
        f"systems, {len(runs)} runs; "
        + "; ".join(
            f"{', '.join(systems)}: {who}"
            for who, systems in _by_runs(study).items()
        )
        + ".",
        f"{len(utterances)} test utterances"
        + (
            f" of {len(study.speakers)} speakers"
            if study.has_speakers
            else " (speakers unknown: each counts as one)"
        )
        + (f" in folds {', '.join(map(str, folds))}" if folds else "")
        + f", under {len(study.conditions)} conditions: "
        + ", ".join(c.name for c in study.conditions)
        + ". The mixtures are the same for all systems.",
        "A system's runs are pooled; an observation is an utterance under a "
        "condition in a run, and a column takes those that all its systems "
        "have. A mean over conditions is the mean of their "
        "scores. Intervals: 95 %, percentile bootstrap over speakers "
        f"({settings.n_resamples} resamples).",
    ]
    if settings.baseline:
        how = _HOW[settings.test].format(n=settings.n_resamples)
        lines.append(
            f"Compared with {settings.baseline}: {how}; p values after Holm's "
            "correction over the systems of a column, significant below "
            f"{settings.alpha:g}."
        )
    if study.has_speakers and len(study.speakers) < FEW_UNITS:
        lines.append(
            f"Caution: with {len(study.speakers)} speakers, bootstrap "
            "intervals are too narrow and bootstrap p values too small; a "
            "permutation of speakers stays valid."
        )
    return lines + _out_of_reach(tables, settings.alpha) + _versions(runs)


def _out_of_reach(tables, alpha):
    """Name the columns in which no difference could be significant."""
    found = {}
    for table in tables.values():
        for cells in table.values():
            for column, cell in cells.items():
                if cell.get("p_smallest", 0) >= alpha:
                    found.setdefault(cell["p_smallest"], {})[column] = None
    return [
        f"No p below {p:.2g} is possible with so few speakers and so many "
        f"systems ({', '.join(columns)}): no difference can be significant "
        f"at {alpha:g} there, and none is marked."
        for p, columns in sorted(found.items())
    ]


def _by_runs(study):
    """Group systems that have runs of the same folds and seeds."""
    found = {}
    for system in study.systems:
        who = _who(study.runs_of(system))
        found.setdefault(who, []).append(system)
    return found


def _who(runs):
    if all(run.fold is None for run in runs):
        return "seeds " + ", ".join(str(run.seed) for run in runs)
    return "folds and seeds " + ", ".join(f"{r.fold}/{r.seed}" for r in runs)


def _versions(runs):
    found = {}
    for run in runs:
        text = ", ".join(
            f"{k} {v}" for k, v in run.results.get("versions", {}).items()
        )
        found.setdefault(text, []).append(str(run.folder))
    if len(found) == 1:
        return [f"Versions: {next(iter(found))}."]
    return [
        "Caution: the runs were tested with different versions: "
        + "; ".join(f"{text} ({len(v)} runs)" for text, v in found.items())
        + "."
    ]


def costs(study):
    """List what each system costs, as its first run measured it.

    Arguments
    ---------
    study : Study
        The runs.

    Returns
    -------
    dict
        System to the ``cost`` of ``results.json``; systems whose runs did
        not measure it are absent.
    """
    found = {}
    for run in study.runs:
        if "cost" in run.results:
            found.setdefault(run.system, run.results["cost"])
    return found


def summarise_costs(costs):
    """Make a table (Extra) of what :func:`costs` found."""

    def told(cost, name, unit=1):
        # Memory and time measured beside other work, as once, say nothing.
        needs_own = name in ("rtf", "peak_memory_bytes")
        if needs_own and not cost.get("own_process"):
            return _NOT_STATED
        return f"{cost[name] / unit:.3g}" if name in cost else "-"

    rows = [
        [
            system,
            *(told(cost, *column) for column in _COSTS.values()),
            *(str(cost.get(k, _NOT_STATED)) for k in ("device", "threads")),
        ]
        for system, cost in costs.items()
    ]
    legend = (
        "Inference of all tasks, as the first run of each system measured it; "
        "time and memory (above weights and input) in a process of its own."
    )
    if len({tuple(row[-2:]) for row in rows}) > 1:
        legend += (
            " Devices or threads differ or were not stated by an earlier "
            "version: times cannot be compared."
        )
    header = ["system", *_COSTS, "device", "threads"]
    return Extra("Cost", legend, header, rows)


def failures(study):
    """Count what could not be computed.

    Arguments
    ---------
    study : Study
        The runs.

    Returns
    -------
    list of tuple
        Condition, side, metric, reason and count over all runs.
    """
    counts = Counter(
        (entry["name"], f["side"], f["metric"], f["reason"])
        for run in study.runs
        for entry in run.results["conditions"]
        for f in entry.get("failures", [])
    )
    return [(*key, count) for key, count in sorted(counts.items())]

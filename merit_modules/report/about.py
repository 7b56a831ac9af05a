"""What a report compares, in words and numbers."""

from collections import Counter

from merit_modules.report.significance.bootstrap import FEW_UNITS

_HOW = {
    "bootstrap": "paired bootstrap over speakers ({n} resamples)",
    "permutation": "paired permutation of speakers (at most {n} of them)",
    "subsets": "two-tailed paired t-test over 40 random subsets (where a "
    "condition has fewer than 40 utterances: paired bootstrap over speakers)",
    "mcnemar": "McNemar's test on the decisions (all else: paired "
    "bootstrap over speakers, {n} resamples)",
    "wilcoxon": "Wilcoxon's signed-rank test on the scores of utterances "
    "(emotions: paired bootstrap over speakers, {n} resamples)",
}


def about(study, settings):
    """Say what was compared.

    Arguments
    ---------
    study : Study
        The runs.
    settings : Settings
        How systems were compared.

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
        "condition in a run. A mean over conditions is the mean of their "
        "scores. Intervals: 95 %, percentile bootstrap over speakers "
        f"({settings.n_resamples} resamples).",
    ]
    if settings.baseline:
        how = _HOW[settings.test].format(n=settings.n_resamples)
        lines.append(
            f"Compared with {settings.baseline}, on the observations that "
            f"both have: {how}; p values after Holm's correction over the "
            f"systems of a column, significant below {settings.alpha:g}."
        )
    if study.has_speakers and len(study.speakers) < FEW_UNITS:
        lines.append(
            f"Caution: with {len(study.speakers)} speakers, bootstrap "
            "intervals are too narrow and bootstrap p values too small; a "
            "permutation of speakers stays valid, and cannot show less than p "
            f"= {2 / 2 ** len(study.speakers):.2g}."
        )
    return lines + _versions(runs)


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

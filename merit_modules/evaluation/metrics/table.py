"""The table of results, one row per test condition."""

from merit_modules.data import escaping
from merit_modules.evaluation.metrics.scoring import SIDES

#: Metric to heading and number of decimals.
_HEADINGS = {
    "seg_snr_db": ("segSNR/dB", 2),
    "seg_snr_rescaled_db": ("segSNR'/dB", 2),
    "pesq_wb": ("PESQ", 2),
    "stoi": ("STOI", 3),
    "estoi": ("ESTOI", 3),
    "si_sdr_db": ("SI-SDR/dB", 2),
    "csig": ("CSIG", 2),
    "cbak": ("CBAK", 2),
    "covl": ("COVL", 2),
    "dnsmos_sig": ("DNSMOS SIG", 2),
    "dnsmos_bak": ("DNSMOS BAK", 2),
    "dnsmos_ovrl": ("DNSMOS OVRL", 2),
}
_SER_HEADINGS = {"f1_macro": "F1-macro", "f1_micro": "F1-micro", "uar": "UAR"}
_CCC = "ccc_"  # of attributes, whatever their names
_MISSING = "-"
_MARK = "*"  # a mean that lacks utterances


def results_table(results, markdown=False):
    """Write the results of all test conditions as a table.

    Enhancement metrics read ``noisy -> enhanced``, what was not computed
    ``-``. A mean that lacks utterances is marked, and lines below the table
    say why. Columns that no condition has are left out.

    Arguments
    ---------
    results : dict
        The content of ``results.json``: ``conditions`` is a list of dicts
        with ``name`` and, where measured, ``ser`` (classification scores),
        ``se`` (what ``summarise`` returns) and ``failures``.
    markdown : bool
        Whether to write Markdown instead of plain text.

    Returns
    -------
    str
        The table, without a line break at its end.

    Example
    -------
    >>> ser = {"n": 8, "f1_macro": 0.5, "f1_micro": 0.625, "uar": 0.55}
    >>> pesq = {"noisy": {"mean": 1.05, "n": 8, "n_failed": 0},
    ...         "enhanced": {"mean": 1.5, "n": 8, "n_failed": 0}}
    >>> se = {"n": 8, **{side: {"pesq_wb": pesq[side]} for side in pesq}}
    >>> print(results_table({"conditions": [
    ...     {"name": "unseen_0dB", "ser": ser, "se": se}, {"name": "clean"}]}))
    condition   n  F1-macro  F1-micro    UAR          PESQ
    unseen_0dB  8     0.500     0.625  0.550  1.05 -> 1.50
    clean       -         -         -      -             -
    """
    conditions = results["conditions"]
    if not conditions:
        return "No test condition was evaluated."
    scores = _ser_scores(conditions)
    metrics = _metrics(conditions)
    header = ["condition", "n", *scores.values()]
    header += [_heading(metric)[0] for metric in metrics]
    rows = [header] + [_row(c, scores, metrics) for c in conditions]
    lines = _as_markdown(rows) if markdown else _as_text(rows)
    notes = _notes(conditions, metrics)
    if notes:
        mark, bullet = (rf"\{_MARK}", "- ") if markdown else (_MARK, "")
        if markdown:
            notes = map(escaping.markdown, notes)
        lines += ["", f"{mark} mean of fewer utterances:"]
        lines += [bullet + note for note in notes]
    return "\n".join(lines)


def _ser_scores(conditions):
    """Name the scores of emotion recognition that any condition has."""
    found = dict.fromkeys(k for c in conditions for k in c.get("ser", {}))
    headings = {k: v for k, v in _SER_HEADINGS.items() if k in found}
    attributes = (name for name in found if name.startswith(_CCC))
    return headings | {k: f"CCC {k.removeprefix(_CCC)}" for k in attributes}


def _metrics(conditions):
    """List the enhancement metrics in the order in which they come."""
    return list(
        dict.fromkeys(
            metric
            for condition in conditions
            for side in SIDES
            for metric in condition.get("se", {}).get(side, {})
        )
    )


def _heading(metric):
    return _HEADINGS.get(metric, (metric, 3))


def _row(condition, scores, metrics):
    ser, se = condition.get("ser", {}), condition.get("se", {})
    row = [condition["name"], str(ser.get("n", se.get("n", _MISSING)))]
    row += [number(ser.get(score), 3) for score in scores]
    return row + [_cell(se, metric) for metric in metrics]


def _cell(se, metric):
    entries = [se.get(side, {}).get(metric, {}) for side in SIDES]
    decimals = _heading(metric)[1]
    means = [number(entry.get("mean"), decimals) for entry in entries]
    mark = _MARK if any(e.get("n_failed", 0) for e in entries) else ""
    if means == [_MISSING, _MISSING]:
        return _MISSING + mark
    return " -> ".join(means) + mark


def number(value, decimals, sign=""):
    """Write a number: ``-`` for none, and no minus before a zero.

    Arguments
    ---------
    value : float or None
        The number.
    decimals : int
        How many.
    sign : str
        ``+`` for a sign before whatever is not 0.

    Returns
    -------
    str
        The text.

    Example
    -------
    >>> number(-0.001, 2, "+"), number(0.126, 2, "+"), number(None, 2)
    ('0.00', '+0.13', '-')
    """
    if value is None:
        return _MISSING
    rounded = round(float(value), decimals) + 0.0
    return f"{rounded:{sign if rounded else ''}.{decimals}f}"


def _notes(conditions, metrics):
    """Say what failed: one line per metric and side, over all conditions."""
    total = sum(c.get("se", {}).get("n", 0) for c in conditions)
    failures = [
        (condition["name"], failure)
        for condition in conditions
        for failure in condition.get("failures", [])
    ]
    notes = []
    for metric in metrics:
        for side in SIDES:
            found = [
                (name, failure)
                for name, failure in failures
                if (failure["metric"], failure["side"]) == (metric, side)
            ]
            if not found:
                continue
            name, first = found[0]
            notes.append(
                f"{_heading(metric)[0].partition('/')[0]} not computed for "
                f"{len(found)} of {total} {side} files: first "
                f"{first['utt_id']!r} of {name} ({first['reason']})"
            )
    return notes


def _as_text(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        )
        for row in rows
    ]


def _as_markdown(rows):
    header, *body = [[escaping.markdown(c) for c in row] for row in rows]
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return [f"| {' | '.join(row)} |" for row in (header, rule, *body)]

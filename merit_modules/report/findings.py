"""What a report found, in a few sentences that come from its numbers."""

from merit_modules.evaluation.metrics.table import number
from merit_modules.report.compare import GAIN
from merit_modules.report.runs import NOISY
from merit_modules.report.writers import heading_of

_SCORE = ("score", "low", "high")
_NOT_TOLD = ("wa", "uar")  # as F1-macro, in most cases


def find(tables, columns, settings):
    """Say which system is best where, and how sure that is.

    Arguments
    ---------
    tables : dict
        Score to system to column to cell.
    columns : list of Column
        All columns.
    settings : Settings
        How systems were compared.

    Returns
    -------
    list of str
        Sentences: one per score, and one where enhancement does harm.
    """
    averaged = {c.group for c in columns if len(c.conditions) > 1}
    main = [
        c.name
        for c in columns
        if len(c.conditions) > 1 or c.group not in averaged
    ]
    found = []
    for name, table in tables.items():
        if name not in _NOT_TOLD and not name.startswith(GAIN):
            told = [
                f"{column}: {_best(name, table, column, settings)}"
                for column in main
                if any(column in cells for cells in table.values())
            ]
            found.append(f"{heading_of(name)[0]}, highest: {'; '.join(told)}.")
        harmed = [
            c.name
            for c in columns
            if len(c.conditions) == 1
            and table.get(NOISY, {}).get(c.name, {}).get("best")
        ]
        if harmed:
            found.append(
                f"By {heading_of(name)[0]} no system made the speech better "
                f"under {', '.join(harmed)}: the noisy input is best there."
            )
    return found


def _best(name, table, column, settings):
    """Say who is best in a column, and how sure that is."""
    cells = {s: cells[column] for s, cells in table.items() if column in cells}
    best = [s for s, c in cells.items() if c.get("best") or len(cells) == 1]
    if not best:
        return "not compared, as the systems have nothing in common"
    cell, decimals = cells[best[0]], heading_of(name)[1]
    score, low, high = (number(cell[k], decimals) for k in _SCORE)
    text = f"{' and '.join(best)} at {score} ({low} to {high})"
    rivals = {s: c for s, c in cells.items() if s not in best}
    tested = [c for c in rivals.values() if "p_holm" in c]
    if "p_holm" in cell:
        change = number(cell["difference"], decimals, "+")
        text += f", {change} against {settings.baseline}, "
        if cell["p_smallest"] >= settings.alpha:
            text += "too few speakers to be sure"
        else:
            sure = "" if cell["mark"] else "not "
            text += f"{sure}significant (p = {cell['p_holm']:.2g})"
    elif settings.baseline in best and tested:
        n_lower = sum(c["mark"] == "-" for c in tested)
        text += f", {n_lower} of {len(tested)} others significantly lower"
    elif rivals and cell["low"] <= max(c["high"] for c in rivals.values()):
        text += ", within the intervals of others"
    second = max(rivals, key=lambda s: rivals[s]["score"], default=None)
    if second not in (None, settings.baseline):
        text += (
            f", next {second} at {number(rivals[second]['score'], decimals)}"
        )
    return text

"""What the routers of the compared systems learned."""

import numpy as np

from merit_modules.evaluation.metrics.table import number
from merit_modules.evaluation.routing_log import read_routing
from merit_modules.report.routing_analysis import FACTORS, analyse_routing

ALPHA = 0.05


def _spoken(factor):
    return {"snr_db": "SNR", "noise_type": "noise type"}.get(factor, factor)


ROUTING_LEGEND = (
    "Means over runs, ± standard deviation, all conditions of the report. "
    "Largest load / even: 1 where all experts serve as many frames, the "
    "number of experts where one serves all. Knows: mutual information "
    "between the choice of the expert and the factor, in % of the entropy of "
    "the choice; * p < 0.05 in every run; in parentheses what chance gives, by "
    "permuting ("
    + "; ".join(
        f"{_spoken(factor)}: {what}" for factor, what in FACTORS.items()
    )
    + "; task: the two tasks of an utterance). Kappa: agreement of the tasks "
    "on the expert, beyond chance."
)


def analyse_runs(study, seed=0):
    """Analyse the routing of every run that kept it.

    Arguments
    ---------
    study : Study
        The runs.
    seed : int
        Of the permutations.

    Returns
    -------
    dict
        System to a list of analyses, one per run: what
        ``routing_analysis.analyse_routing`` found over
        all conditions, with ``fold``, ``seed`` and ``expert_removal`` of the
        run (empty where it was not asked for). Systems without routers are
        absent.
    """
    found = {}
    for run in study.runs:
        routings = {
            name: read_routing(path)
            for name in (c.name for c in study.conditions)
            if (path := run.folder / "routing" / f"{name}.npz").is_file()
        }
        if routings:
            found.setdefault(run.system, []).append(
                {
                    "fold": run.fold,
                    "seed": run.seed,
                    **analyse_routing(routings, run.rows, seed=seed),
                    "expert_removal": run.results.get("expert_removal", []),
                }
            )
    return found


def summarise_routing(analyses):
    """Average over the runs of each system, as rows of text.

    Arguments
    ---------
    analyses : dict
        From :func:`analyse_runs`.

    Returns
    -------
    header : list of str
        Names of the columns.
    rows : list of list of str
        One per system and task.
    """
    header = [
        *("system", "task", "runs", "largest load / even"),
        *("router entropy, bits", "switches per s", "tasks agree", "kappa"),
        *(f"knows {_spoken(factor)}, %" for factor in FACTORS),
        "knows task, %",
    ]
    rows = []
    for system, runs in analyses.items():
        for task in runs[0]["tasks"]:
            own = [run["tasks"][task] for run in runs]
            between = [run.get("between_tasks", {}) for run in runs]
            rows.append(
                [
                    *(system, task.upper(), str(len(runs))),
                    _spread([t["imbalance"] for t in own]),
                    _spread([t["router_entropy_bits"] for t in own]),
                    _spread([t["switches_per_s"] for t in own], 1),
                    _spread([b.get("agreement") for b in between]),
                    _spread([b.get("kappa") for b in between]),
                    *(
                        _information([t["information"].get(f) for t in own])
                        for f in FACTORS
                    ),
                    _information([b.get("information") for b in between]),
                ]
            )
    return header, rows


def summarise_removal(analyses):
    """List what is lost without an expert, by system and run.

    Arguments
    ---------
    analyses : dict
        From :func:`analyse_runs`.

    Returns
    -------
    header : list of str
        Names of the columns.
    rows : list of list of str
        One per run, condition and expert; none where nothing was removed.
    """
    header = ["system", "fold", "seed", "condition", "without"]
    header += ["F1-macro", "change", "SI-SDR, dB", "change"]
    rows = []
    for system, runs in analyses.items():
        for run in runs:
            whole = {
                r["condition"]: r
                for r in run["expert_removal"]
                if r["expert"] is None
            }
            for entry in run["expert_removal"]:
                fold = "-" if run["fold"] is None else str(run["fold"])
                one = entry["expert"]
                cells = [system, fold, str(run["seed"]), entry["condition"]]
                cells.append("-" if one is None else f"expert {one}")
                for name, decimals in (("f1_macro", 3), ("si_sdr_db", 2)):
                    value = entry[name]
                    before = whole[entry["condition"]][name]
                    cells.append(number(value, decimals))
                    lost = None if None in (value, before) else value - before
                    cells.append(
                        "" if one is None else number(lost, decimals, "+")
                    )
                rows.append(cells)
    return header, rows


def _spread(values, decimals=2):
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    text = number(np.mean(values), decimals)
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{decimals}f}"
    return text


def _information(found):
    found = [values for values in found if values]
    if not found:
        return "-"
    percent = np.mean([f["percent"] for f in found])
    chance = np.mean([f["chance_percent"] for f in found])
    mark = "*" if all(f["p_value"] < ALPHA for f in found) else ""
    return f"{number(percent, 1)}{mark} ({number(chance, 1)})"

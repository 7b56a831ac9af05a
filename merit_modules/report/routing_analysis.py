"""What routers learned, in numbers: which expert, when, and why.

The expert of a frame is the one that its router scores highest. Whether the
choice knows of something (the task, the emotion, the SNR, the kind of noise,
voicing) is told by their mutual information, beside the value that chance
gives: frames of an utterance are alike, so what is permuted are utterances,
conditions within an utterance, or the alignment of frames, never single
frames.
"""

import numpy as np
from scipy.stats import entropy
from sklearn.metrics import cohen_kappa_score, mutual_info_score

from merit_modules.errors import InputError
from merit_modules.evaluation.routing_log import FRAMES_PER_S
from merit_modules.evaluation.routing_log import NAMES as VOICING_NAMES

CLEAN = "clean"
#: What is asked of the choice of experts, and what is permuted for chance.
FACTORS = {
    "emotion": "utterances",
    "snr_db": "conditions of an utterance",
    "noise_type": "mixtures",
    "voicing": "frames, shifted within their utterance",
}


def mutual_information(counts, groups, blocks=None, n_permutations=200, seed=0):
    """Measure what the choice of experts tells about a group, and by chance.

    Arguments
    ---------
    counts : np.ndarray
        Frames by observation and expert (N, E).
    groups : sequence
        Group of each observation (N,).
    blocks : sequence, optional
        Groups are permuted within blocks (N,); among all by default.
    n_permutations : int
        Permutations for the level of chance.
    seed : int
        Of the permutations.

    Returns
    -------
    dict
        ``bits``; ``chance_bits``, the mean over permutations; ``p_value``,
        the share of permutations (and of the data itself) with as much;
        ``percent`` and ``chance_percent``: both as shares of the entropy of
        the choice. Empty with fewer than two groups.

    Example
    -------
    >>> counts = np.array([[9, 0], [9, 0], [0, 9], [0, 9]] * 4)
    >>> found = mutual_information(counts, [0, 0, 1, 1] * 4)
    >>> round(found["bits"], 6), found["chance_bits"] < 0.2
    (1.0, True)
    """
    counts = np.asarray(counts, dtype=float)
    names, groups = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return {}
    blocks = np.zeros(len(groups), dtype=int) if blocks is None else blocks
    _, blocks = np.unique(np.asarray(blocks), return_inverse=True)
    ordered = np.argsort(blocks, kind="stable")
    rng = np.random.default_rng(seed)

    def permuted():
        shuffled = np.empty_like(groups)
        # Sorting random numbers block by block shuffles within each.
        shuffled[ordered] = groups[
            np.lexsort((rng.random(len(groups)), blocks))
        ]
        return shuffled

    def bits(groups):
        return _bits(_table(counts, groups, len(names)))

    by_chance = [bits(permuted()) for _ in range(n_permutations)]
    return _found(bits(groups), by_chance, counts.sum(axis=0))


def voicing_information(experts, voicing, n_frames, n_permutations=200, seed=0):
    """Measure what the choice of experts tells about voicing, and by chance.

    By chance: voicing is shifted around within its utterance, which keeps the
    lengths of its runs.

    Arguments
    ---------
    experts : np.ndarray
        Best expert of every frame (M,).
    voicing : np.ndarray
        0 silent, 1 unvoiced, 2 voiced (M,).
    n_frames : np.ndarray
        Frames of each utterance (U,).
    n_permutations : int
        Shifts for the level of chance.
    seed : int
        Of the shifts.

    Returns
    -------
    dict
        As from :func:`mutual_information`.

    Example
    -------
    >>> voicing = np.random.default_rng(1).integers(0, 3, 900)
    >>> found = voicing_information(voicing > 1, voicing, [300] * 3)
    >>> found["bits"] > 0.8 > 0.1 > found["chance_bits"]
    True
    """
    experts, voicing = np.asarray(experts), np.asarray(voicing)
    if len(np.unique(voicing)) < 2:
        return {}
    n_frames = np.asarray(n_frames)
    n_experts = int(experts.max()) + 1
    starts = np.repeat(np.cumsum(n_frames) - n_frames, n_frames)
    places = np.arange(len(experts)) - starts
    lengths = np.repeat(n_frames, n_frames)
    rng = np.random.default_rng(seed)

    def bits(voicing):
        joint = np.bincount(
            voicing.astype(int) * n_experts + experts,
            minlength=len(VOICING_NAMES) * n_experts,
        )
        return _bits(joint.reshape(-1, n_experts))

    def shifted():
        shift = np.repeat(rng.integers(0, n_frames), n_frames)
        return voicing[starts + (places + shift) % lengths]

    by_chance = [bits(shifted()) for _ in range(n_permutations)]
    return _found(bits(voicing), by_chance, np.bincount(experts))


def switches_per_s(experts, n_frames):
    """Count changes of the expert per second, within utterances.

    Arguments
    ---------
    experts : np.ndarray
        Best expert of every frame (M,).
    n_frames : np.ndarray
        Frames of each utterance (U,).

    Returns
    -------
    float or None
        Changes per second; None if no utterance has two frames.

    Example
    -------
    >>> switches_per_s(np.array([0, 0, 1, 0, 0, 1]), np.array([3, 3]))
    25.0
    """
    experts, ends = np.asarray(experts), np.cumsum(n_frames)
    inside = np.ones(len(experts) - 1, dtype=bool)
    inside[ends[:-1] - 1] = False
    if not inside.any():
        return None
    return float(
        FRAMES_PER_S * np.mean(experts[1:] != experts[:-1], where=inside)
    )


def analyse_routing(routings, rows, n_permutations=200, seed=0):
    """Describe the routing decisions of a run.

    Arguments
    ---------
    routings : dict
        Condition to :class:`~merit_modules.evaluation.routing_log.Routing`.
    rows : dict
        Condition to the rows of ``scores.csv``, by utterance.
    n_permutations : int
        Permutations for the level of chance.
    seed : int
        Of the permutations.

    Returns
    -------
    dict
        ``n_experts``, ``n_frames``, ``n_utterances``, and per task under
        ``tasks``: ``load`` per expert, ``imbalance`` (largest load over an
        even one), ``load_entropy_bits``, ``router_entropy_bits`` (mean over
        frames), ``switches_per_s``, ``load_by`` factor and group, and
        ``information`` by factor. Where there are two tasks, under
        ``between_tasks``: ``agreement`` (share of frames with one expert for
        both), ``kappa`` (agreement beyond chance) and ``information`` (of the
        choice on the task).

    Raises
    ------
    InputError
        If no condition is given or an utterance has no row.
    """
    if not routings:
        raise InputError("routing: expected decisions of some condition")
    about = [
        _about(rows, name, utt_id)
        for name, routing in routings.items()
        for utt_id in routing.utt_ids
    ]
    first = next(iter(routings.values()))
    tasks = list(first.experts)
    n_frames = np.concatenate([r.n_frames for r in routings.values()])
    voicing = np.concatenate([r.voicing for r in routings.values()])
    n_experts = first.probs[tasks[0]].shape[1]
    options = {"n_permutations": n_permutations, "seed": seed}
    found, counts, chosen = {}, {}, {}
    for task in tasks:
        experts = np.concatenate([r.experts[task] for r in routings.values()])
        probs = np.concatenate([r.probs[task] for r in routings.values()])
        chosen[task] = experts
        counts[task] = _counts(experts, n_frames, n_experts)
        found[task] = {
            **_load(counts[task].sum(axis=0)),
            "router_entropy_bits": float(
                entropy(probs.astype(np.float32), base=2, axis=1).mean()
            ),
            "switches_per_s": switches_per_s(experts, n_frames),
            "load_by": _load_by(counts[task], about)
            | {"voicing": _load_by_voicing(experts, voicing, n_experts)},
            "information": _information(counts[task], about, options)
            | {
                "voicing": voicing_information(
                    experts, voicing, n_frames, **options
                )
            },
        }
    analysis = {
        "n_experts": n_experts,
        "n_frames": int(n_frames.sum()),
        "n_utterances": len({a["utt_id"] for a in about}),
        "tasks": found,
    }
    if len(tasks) == 2:
        one, other = (chosen[task] for task in tasks)
        pairs = np.arange(len(about))
        analysis["between_tasks"] = {
            "agreement": float(np.mean(one == other)),
            "kappa": _kappa(one, other),
            "information": mutual_information(
                np.vstack([counts[task] for task in tasks]),
                np.repeat([0, 1], len(about)),
                np.tile(pairs, 2),
                **options,
            ),
        }
    return analysis


def _about(rows, condition, utt_id):
    row = rows.get(condition, {}).get(str(utt_id))
    if row is None:
        raise InputError(
            f"routing: {utt_id} under {condition}: expected a row in the "
            "scores, there is none"
        )
    return {
        "utt_id": str(utt_id),
        "emotion": row.get("label") or None,
        "snr_db": row.get("snr_db") or CLEAN,
        "noise_type": row.get("noise_type") or None,
    }


def _table(counts, groups, n_groups):
    table = np.zeros((n_groups, counts.shape[1]))
    np.add.at(table, groups, counts)
    return table


def _bits(table):
    table = table[:, table.sum(axis=0) > 0]
    information = mutual_info_score(None, None, contingency=table)
    return float(information / np.log(2))


def _found(bits, by_chance, load):
    choice_bits = float(entropy(load, base=2))
    # Sums of floats in another order may differ in the last digit.
    as_much = np.sum(np.asarray(by_chance) >= bits - 1e-12)
    return {
        "bits": bits,
        "chance_bits": float(np.mean(by_chance)),
        "p_value": float((as_much + 1) / (len(by_chance) + 1)),
        **{
            name: 100 * value / choice_bits if choice_bits else 0.0
            for name, value in (
                ("percent", bits),
                ("chance_percent", float(np.mean(by_chance))),
            )
        },
    }


def _counts(experts, n_frames, n_experts):
    utterance = np.repeat(np.arange(len(n_frames)), n_frames)
    joint = np.bincount(
        utterance * n_experts + experts, minlength=len(n_frames) * n_experts
    )
    return joint.reshape(-1, n_experts)


def _load(total):
    load = total / total.sum()
    return {
        "load": load.tolist(),
        "imbalance": float(load.max() * len(load)),
        "load_entropy_bits": float(entropy(load, base=2)),
    }


def _known(about, factor):
    return np.array([a[factor] is not None for a in about])


def _load_by(counts, about):
    found = {}
    for factor in ("emotion", "snr_db", "noise_type"):
        known = _known(about, factor)
        groups = [a[factor] for a in about if a[factor] is not None]
        if factor == "snr_db":
            names = sorted(set(groups), key=_snr_order)
        else:
            names = sorted(set(groups))
        found[factor] = {
            name: _load(counts[known][[g == name for g in groups]].sum(axis=0))[
                "load"
            ]
            for name in names
        }
    return {factor: loads for factor, loads in found.items() if loads}


def _snr_order(name):
    return float("inf") if name == CLEAN else float(name)


def _load_by_voicing(experts, voicing, n_experts):
    return {
        name: _load(np.bincount(experts[voicing == i], minlength=n_experts))[
            "load"
        ]
        for i, name in enumerate(VOICING_NAMES)
        if (voicing == i).any()
    }


def _information(counts, about, options):
    utterances = np.array([a["utt_id"] for a in about])
    found = {}
    known = _known(about, "emotion")
    if known.any():
        # An utterance has one emotion under all conditions.
        ids, at, inverse = np.unique(
            utterances[known], return_index=True, return_inverse=True
        )
        emotions = np.array([a["emotion"] for a in about if a["emotion"]])
        found["emotion"] = mutual_information(
            _table(counts[known], inverse, len(ids)), emotions[at], **options
        )
    snrs = [a["snr_db"] for a in about]
    found["snr_db"] = mutual_information(counts, snrs, utterances, **options)
    known = _known(about, "noise_type")
    types = [a["noise_type"] for a in about if a["noise_type"]]
    found["noise_type"] = mutual_information(counts[known], types, **options)
    return {factor: values for factor, values in found.items() if values}


def _kappa(one, other):
    # One expert for all frames of both: no disagreement was possible.
    if len(np.unique(np.concatenate([one, other]))) == 1:
        return 1.0
    return float(cohen_kappa_score(one, other))

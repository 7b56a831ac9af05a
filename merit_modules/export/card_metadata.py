"""The YAML at the head of a model card, as the hub reads it."""

import io
import re
from typing import NamedTuple

import ruamel.yaml

from merit_modules.errors import InputError

_TASKS = {
    "ser": ("audio-classification", "Speech emotion recognition"),
    "se": ("audio-to-audio", "Speech enhancement"),
}
_SER_METRICS = {"f1_macro": ("f1", "F1-macro"), "uar": ("recall", "UAR")}
_CCC = "ccc_"


def front_matter(run, about, name, quoted):
    """Write the metadata of a model.

    Arguments
    ---------
    run : FinishedRun
        The run.
    about : CorpusAbout
        What is known of its corpus.
    name : str
        The model's name.
    quoted : bool
        Whether the run's results are those of these very weights.

    Returns
    -------
    str
        YAML between two lines of ``---``.
    """
    tags = ["speechbrain", "mixture-of-experts"]
    if "ser" in run.tasks:
        tags += ["speech-emotion-recognition", "audio-classification"]
    if "se" in run.tasks:
        tags += ["speech-enhancement", "audio-to-audio"]
    first = "ser" if "ser" in run.tasks else "se"
    tree = {
        "license": about.licence or "other",
        "language": about.language,
        "library_name": "speechbrain",
        "pipeline_tag": _TASKS[first][0],
        "tags": tags,
        "datasets": _datasets(run.hparams["corpus_name"]),
    }
    conditions = run.results["conditions"] if run.results and quoted else []
    results = [entry for found in conditions for entry in _entries(run, found)]
    if results:
        metrics = [m["type"] for entry in results for m in entry["metrics"]]
        tree["metrics"] = sorted(set(metrics))
        tree["model-index"] = [{"name": name, "results": results}]
    stream = io.StringIO()
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 4096
    yaml.dump({k: v for k, v in tree.items() if v is not None}, stream)
    return f"---\n{stream.getvalue()}---\n"


def _datasets(name):
    # The hub refuses a card with a name that could not be one of its own.
    return [name] if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else None


def _entries(run, condition):
    """List a condition's results, one entry per task."""
    corpus = run.hparams["corpus_name"]
    dataset = {
        "name": f"{corpus}, {condition['name']}",
        "type": corpus,
        "config": condition["name"],
        "split": condition["test_set"] or run.hparams["test_sets"][0],
    }
    metrics = {"ser": _ser(condition), "se": _se(condition)}
    return [
        {
            "task": {"type": _TASKS[task][0], "name": _TASKS[task][1]},
            "dataset": dict(dataset),
            "metrics": metrics[task],
        }
        for task in run.tasks
        if metrics[task]
    ]


def _ser(condition):
    scores = condition.get("ser", {})
    found = [
        {"type": kind, "name": name, "value": round(scores[key], 4)}
        for key, (kind, name) in _SER_METRICS.items()
        if key in scores
    ]
    return found + [
        {"type": "ccc", "name": f"CCC {key[len(_CCC) :]}", "value": round(v, 4)}
        for key, v in scores.items()
        if key.startswith(_CCC) and v is not None
    ]


def _se(condition):
    entry = condition.get("se", {}).get("enhanced", {}).get("si_sdr_db", {})
    if entry.get("mean") is None:
        return []
    value = round(entry["mean"], 2)
    return [{"type": "si_sdr", "name": "SI-SDR in dB", "value": value}]


#: How the emotions of a corpus came about.
KINDS = {
    "acted": "the emotions are acted",
    "natural": "the emotions were not acted for the corpus",
    "synthetic": "the speech is synthetic",
    None: "whether the emotions are acted is not stated",
}


class CorpusAbout(NamedTuple):
    """Facts of a corpus, for a card; None where nobody stated it.

    Arguments
    ---------
    kind : str or None
        ``acted``, ``natural`` or ``synthetic``.
    language : list of str or None
        Codes, such as ``en``.
    licence : str or None
        As the hub writes it, such as ``cc-by-4.0``.
    access : str or None
        How others get it.
    url : str or None
        Where.
    citation : str or None
        What to cite.
    """

    kind: str | None = None
    language: list | None = None
    licence: str | None = None
    access: str | None = None
    url: str | None = None
    citation: str | None = None


def corpus_about(hparams, given=None):
    """Read the facts that a corpus's YAML states.

    Arguments
    ---------
    hparams : dict
        Of a run; those of runs of earlier versions state nothing.
    given : dict, optional
        Facts that replace those of the run.

    Returns
    -------
    CorpusAbout
        The facts.

    Raises
    ------
    InputError
        If a fact is unknown, or is none of the allowed values.

    Example
    -------
    >>> corpus_about({"corpus_about": {"kind": "acted"}}).kind
    'acted'
    >>> corpus_about({}, {"license": "mit"})
    Traceback (most recent call last):
    merit_modules.errors.InputError: corpus_about: expected some of kind...
    """
    stated = {**(hparams.get("corpus_about") or {}), **(given or {})}
    fields = CorpusAbout._fields
    unknown = [key for key in stated if key not in fields]
    if unknown:
        raise InputError(
            f"corpus_about: expected some of {', '.join(fields)}, got "
            f"{unknown[0]!r}"
        )
    about = CorpusAbout(**stated)
    if about.kind not in KINDS:
        names = ", ".join(name for name in KINDS if name)
        raise InputError(
            f"corpus_about: kind: expected one of {names} or null, got "
            f"{about.kind!r}"
        )
    language = about.language
    if isinstance(language, str):
        language = [language]
    # Plain values, whatever reader of YAML they came from.
    return about._replace(language=language and [str(x) for x in language])

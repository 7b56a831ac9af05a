"""The YAML at the head of a model card, as the hub reads it."""

import re
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from merit_modules.errors import InputError

_TASKS = {
    "ser": ("audio-classification", "Speech emotion recognition"),
    "se": ("audio-to-audio", "Speech enhancement"),
}
_SER_METRICS = {"f1_macro": ("f1", "F1-macro"), "uar": ("recall", "UAR")}
_CCC = "ccc_"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
    corpus = run.hparams["corpus_name"]
    conditions = run.results["conditions"] if run.results and quoted else []
    results = [
        EvalResult(
            task_type=_TASKS[task][0],
            task_name=_TASKS[task][1],
            dataset_type=corpus,
            dataset_name=f"{corpus}, {condition['name']}",
            dataset_config=condition["name"],
            dataset_split=condition["test_set"] or run.hparams["test_sets"][0],
            metric_type=kind,
            metric_name=label,
            metric_value=value,
        )
        for condition in conditions
        for task in run.tasks
        for kind, label, value in _scores(task, condition)
    ]
    data = ModelCardData(
        license=about.licence or "other",
        language=about.language,
        library_name="speechbrain",
        pipeline_tag=_TASKS["ser" if "ser" in run.tasks else "se"][0],
        tags=tags,
        # The hub refuses a card with a name that could not be one of its own.
        datasets=[corpus] if _HUB_NAME.fullmatch(corpus) else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _scores(task, condition):
    """List a task's scores: the hub's name of the metric, ours, the value."""
    if task == "se":
        entry = condition.get("se", {}).get("enhanced", {})
        mean = entry.get("si_sdr_db", {}).get("mean")
        return (
            [] if mean is None else [("si_sdr", "SI-SDR in dB", round(mean, 2))]
        )
    scores = condition.get("ser", {})
    named = {
        key: metric for key, metric in _SER_METRICS.items() if key in scores
    }
    named |= {
        key: ("ccc", f"CCC {key.removeprefix(_CCC)}")
        for key, value in scores.items()
        if key.startswith(_CCC) and value is not None
    }
    return [(*metric, round(scores[key], 4)) for key, metric in named.items()]


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

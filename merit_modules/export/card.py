"""The model card: what a model is, what it was trained on, what it is not for.

All of it is read off the run; what nobody wrote down is said to be unknown.
"""

import json
import re
import shlex

from merit_modules.data.escaping import markdown, markdown_code, terminal
from merit_modules.evaluation.metrics.table import results_table
from merit_modules.export.card_metadata import front_matter
from merit_modules.export.card_text import (
    count_speakers,
    general_limits,
    minutes_of,
    noise_lines,
    noise_size,
    purpose,
    snr_text,
    speech_lines,
    ssl_start,
    system_lines,
    training_lines,
    weights_text,
)
from merit_modules.pretrained.weights import versions

_COMMANDS = {("se", "ser"): "analyze", ("se",): "enhance", ("ser",): "classify"}
_SHOWN = {
    "analyze": "print(found.{ser}, found.enhanced.shape)",
    "enhance": "print(found.shape)",
    "classify": "print(found.{attribute})",
}


def model_card(run, about, name, int8=False):
    """Write the card of an exported model.

    Arguments
    ---------
    run : FinishedRun
        The run.
    about : CorpusAbout
        What is known of its corpus.
    name : str
        The model's name: that of its folder.
    int8 : bool
        Whether its weights were quantised after the training.

    Returns
    -------
    str
        Markdown with the hub's YAML at its head.
    """
    notes = _result_notes(run, int8)
    title = f"{run.hparams['system_name']} on {run.hparams['corpus_name']}"
    parts = [
        front_matter(run, about, name, quoted=not notes),
        f"# {markdown(title)}\n\n{markdown(purpose(run))}\n",
        _section("The system", [*system_lines(run), *_precision(int8)]),
        _usage(run, name),
        _section(
            "Training",
            [
                *speech_lines(run, about),
                *noise_lines(run),
                *training_lines(run),
            ],
            about.url,
        ),
        _results(run, notes),
        _section("Limits", limits(run, about)),
        _section("Licences", _licences(run, about)),
        f"## Versions\n\n{_versions('Exported', versions())}\n",
    ]
    return "\n".join(parts)


def _section(title, sentences, url=None):
    lines = _list(sentences)
    if url:
        lines.append(f"- The corpus: {_link(url)}")
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _list(sentences):
    return [f"- {markdown(sentence)}" for sentence in sentences]


def _link(url):
    """Link to an address of the web; others are shown as text."""
    if re.fullmatch(r"https?://[^\s<>]+", str(url)):
        return f"<{terminal(url)}>"
    return markdown(url)


def _precision(int8):
    if not int8:
        return []
    return [
        "Precision: 8-bit integers in the linear layers, quantised after "
        "the training; for CPUs."
    ]


def _usage(run, name):
    command = _COMMANDS[tuple(run.tasks)]
    attributes = run.hparams["ser_target"] == "attributes"
    attribute = "attributes" if attributes else "label"
    shown = _SHOWN[command].format(
        ser=f"emotion.{attribute}", attribute=attribute
    )
    name = terminal(name)
    quoted, word = json.dumps(name, ensure_ascii=False), shlex.quote(name)
    text = (
        "## How to use it\n\n```python\n"
        "from merit_modules.inference import SparseMERIT\n\n"
        f"model = SparseMERIT.from_hparams(source={quoted})\n"
        f'found = model.{command}("speech.wav")\n{shown}\n```\n\n'
        f"```bash\nmerit {command} speech.wav --model {word}\n```\n"
    )
    if run.labels:
        what = "Attributes" if attributes else "Classes"
        text += f"\n{what}, in the order of the outputs: " + ", ".join(
            map(markdown_code, run.labels)
        )
        if attributes:
            low, high = run.hparams["attribute_scale"]
            text += f"; on a scale of {low:g} to {high:g}"
        text += ".\n"
    return text


def _result_notes(run, int8):
    """Say why the results are not those of these weights, if so."""
    notes = []
    if run.results is None:
        return notes
    if len(run.weights.epochs) > 1:
        notes.append(
            "measured with the best checkpoint alone, not with the mean that "
            "this folder holds"
        )
    if int8:
        notes.append("measured before the weights were quantised")
    if run.results.get("validation") != run.weights.validation:
        epoch = (run.results.get("validation") or {}).get("epoch", "unknown")
        notes.append(
            f"measured with another checkpoint (epoch {markdown(epoch)})"
        )
    return notes


def _results(run, notes):
    if run.results is None:
        return (
            "## Results\n\nThis run has not been tested: there are no results."
            "\n"
        )
    table = results_table(run.results, markdown=True)
    notes = [f"**These results were {note}.**" for note in notes]
    text = "## Results\n\n" + "".join(f"{note}\n\n" for note in notes)
    return text + f"{table}\n\n" + "\n".join(_list(_measured(run))) + "\n"


def _measured(run):
    hparams, results = run.hparams, run.results
    sets = {c["noise"] for c in results["conditions"] if c["noise"]}
    longest = hparams["max_duration_s"]
    lines = [
        f"Measured on the test set ({', '.join(hparams['test_sets'])}), "
        f"mixtures drawn by mixture_seed {hparams['mixture_seed']}, "
        + (f"utterances cut to {longest:g} s." if longest else "whole.")
    ]
    for name in sorted(sets):
        lines.append(
            f"Noise of the conditions {name.removeprefix('test_')}_...: "
            f"{noise_size(run, f'noise_{name}')}."
        )
    if "se" in run.tasks:
        lines.append(
            "Enhancement: means over utterances, input -> output, against "
            "the clean recording."
        )
    if "ser" in run.tasks and hparams["ser_target"] != "attributes":
        lines.append(
            "Recognition: one decision per utterance; F1-macro and UAR "
            f"weigh the {len(run.labels)} classes alike (UAR by chance: "
            f"{1 / len(run.labels):.2f})."
        )
        lines += _calibration(run)
    elif "ser" in run.tasks:
        lines.append(
            "Recognition: concordance correlation (CCC) over the utterances."
        )
    if hparams.get("fold") is not None:
        lines.append(
            f"Fold {hparams['fold']} of a cross-validation: one split into "
            "training and test speech among several."
        )
    return [*lines, _versions("Tested", results.get("versions", {}))]


def _calibration(run):
    """Say how far a probability is from how often it is right."""
    found = [c["ser"] for c in run.results["conditions"] if "ser" in c]
    if not found or any("ece_calibrated" not in scores for scores in found):
        return []
    mean = {
        name: sum(scores[name] for scores in found) / len(found)
        for name in ("ece", "ece_calibrated")
    }
    return [
        "Probabilities: divided by a temperature of "
        f"{run.weights.validation.get('temperature', 1.0):.2f}, fitted to the "
        "validation set; calibration error, mean over the conditions: "
        f"{mean['ece']:.2f} before, {mean['ece_calibrated']:.2f} after."
    ]


def limits(run, about):
    """Say what a model is not for, or not known to do.

    Arguments
    ---------
    run : FinishedRun
        The run.
    about : CorpusAbout
        What is known of its corpus.

    Returns
    -------
    list of str
        Sentences, in plain text.
    """
    hparams = run.hparams
    languages = ", ".join(about.language or [])
    lines = [
        "Language: trained on "
        + (
            f"{languages} alone"
            if languages
            else "a corpus of unknown language"
        )
        + "; nothing is known of others."
    ]
    if "train" in run.manifests and not hparams["train_mixtures"]:
        minutes = minutes_of(run, "train")
        n, complete = count_speakers(run.manifests["train"].values())
        voices = f"{n} speakers" if n else "an unknown number of speakers"
        voices += "" if complete or not n else " or more"
        random = ssl_start(run)[1]
        start = "trained from random weights on" if random else "trained on"
        lines.append(
            f"Little is known beyond its data: {start} {minutes:.1f} minutes "
            f"of speech by {voices}."
        )
    if about.kind in ("acted", "synthetic"):
        lines.append(
            f"The training speech is {about.kind}: how people speak who "
            "feel something is another matter."
        )
    if hparams["train_snr_db"] is None:
        lines.append("Trained without noise.")
    elif not hparams["train_mixtures"]:
        lines.append(
            f"Noise: trained at {snr_text(hparams['train_snr_db'])}; "
            "louder or other noise, reverberation and several voices at once "
            "are outside of it."
        )
    labels = None if hparams["ser_target"] == "attributes" else run.labels
    rate_hz = hparams["sample_rate_hz"]
    return lines + general_limits(run.tasks, labels, rate_hz)


def _licences(run, about):
    name = run.hparams["corpus_name"]
    data = f"licence {about.licence}" if about.licence else "licence not stated"
    lines = [
        f"Data ({name}): {data}; access: {about.access or 'not stated'}. "
        "Whether it allows a model to be passed on is to be read there."
    ]
    start, random = ssl_start(run)
    if not random:
        lines.append(
            f"SSL encoder, {start}: the licence of those weights holds."
        )
    return [*lines, "Code (merit_modules): Apache-2.0."]


def _versions(what, found):
    if not found:
        return f"{what} with versions that nobody wrote down."
    return f"{what} with " + ", ".join(f"{k} {v}" for k, v in found.items())


def about_run(run, corpus, int8=False):
    """Say where an exported model comes from, for ``about.json``.

    Arguments
    ---------
    run : FinishedRun
        The run.
    corpus : CorpusAbout
        What is known of its corpus.
    int8 : bool
        Whether its weights were quantised.

    Returns
    -------
    dict
        Plain values.
    """
    hparams, weights = run.hparams, run.weights
    fold = hparams.get("fold")
    return {
        "corpus": hparams["corpus_name"],
        "system": hparams["system_name"],
        "seed": hparams["seed"],
        **({} if fold is None else {"fold": fold}),
        "epochs": weights.epochs,
        "weights": weights_text(weights),
        "validation": weights.validation,
        **({"quantization": "int8"} if int8 else {}),
        "trained_on": speech_lines(run, corpus)[:2],
        "limits": limits(run, corpus),
    }

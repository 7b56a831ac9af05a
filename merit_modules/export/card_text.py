"""What a run was trained on, as sentences for its card."""

from pathlib import Path

from merit_modules.data.text import speaker_of, spellings
from merit_modules.evaluation.cost import count_parameters
from merit_modules.export.card_metadata import KINDS
from merit_modules.export.finished_run import tag_of
from merit_modules.system import CascadeSystem


def speech_lines(run, about):
    """Tell of the speech that a run was trained, validated and tested on.

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
    name = run.hparams["corpus_name"]
    language = ", ".join(about.language or ["not stated"])
    lines = [
        f"Corpus: {name}; {KINDS[about.kind]}; language: {language}; "
        f"access: {about.access or 'not stated'}."
        + (f" {about.citation}." if about.citation else "")
    ]
    if run.hparams["train_mixtures"]:
        lines.append(
            "Trained on mixtures that were made before the run; how many "
            "was not written down."
        )
    splits = ["valid", *run.hparams["test_sets"]]
    if not run.hparams["train_mixtures"]:
        splits.insert(0, "train")
    for split in splits:
        lines.append(f"{split}: {_size(run, split)}.")
    return lines


def _size(run, split):
    if split not in run.manifests:
        return "not known: the run holds no manifest of it"
    entries = run.manifests[split].values()
    text = f"{len(entries):,} utterances, {minutes_of(run, split):.1f} minutes"
    n_speakers, complete = count_speakers(entries)
    if not n_speakers:
        return text + ", speakers not known"
    return text + f", {n_speakers} speakers" + ("" if complete else " or more")


def minutes_of(run, split):
    """Add up the speech of a split, as far as utterances are used.

    Arguments
    ---------
    run : FinishedRun
        The run.
    split : str
        Name of the manifest.

    Returns
    -------
    float
        Minutes.
    """
    longest = run.hparams["max_duration_s"] or float("inf")
    entries = run.manifests[split].values()
    return sum(min(entry["duration"], longest) for entry in entries) / 60


def count_speakers(entries):
    """Count speakers.

    Arguments
    ---------
    entries : iterable of dict
        Entries of a speech manifest.

    Returns
    -------
    int
        Number of those that are known.
    bool
        Whether the speaker of every utterance is.

    Example
    -------
    >>> count_speakers([{"spk_id": "a"}, {"spk_id": "a"}, {"spk_id": None}])
    (1, False)
    """
    speakers = [speaker_of(entry.get("spk_id")) for entry in entries]
    known = [speaker for speaker in speakers if speaker is not None]
    return len(spellings(known)), len(known) == len(speakers)


def noise_lines(run):
    """Tell of the noise that a run was trained on.

    Arguments
    ---------
    run : FinishedRun
        The run.

    Returns
    -------
    list of str
        Sentences, in plain text.
    """
    snr = run.hparams["train_snr_db"]
    if run.hparams["train_mixtures"]:
        return []
    if snr is None:
        return ["Noise: none, trained on the recordings as they are."]
    return [
        f"Noise: {noise_size(run, 'noise_train')}; mixed in anew in every "
        f"epoch, at {snr_text(snr)}."
    ]


def noise_size(run, name):
    """Say how much noise a manifest lists, and of which types.

    Arguments
    ---------
    run : FinishedRun
        The run.
    name : str
        Name of the manifest.

    Returns
    -------
    str
        Part of a sentence.
    """
    if name not in run.manifests:
        return "not known (the run holds no manifest of it)"
    entries = run.manifests[name].values()
    minutes = sum(entry["duration"] for entry in entries) / 60
    types = sorted({str(entry["noise_type"]) for entry in entries})
    shown = ", ".join(types[:8]) + (", ..." if len(types) > 8 else "")
    return f"{len(entries):,} recordings, {minutes:.1f} minutes ({shown})"


def snr_text(snr):
    """Write a signal-to-noise ratio or a range of it.

    Example
    -------
    >>> snr_text([-5.0, 20.0]), snr_text(5)
    ('an SNR of -5 to 20 dB', 'an SNR of 5 dB')
    """
    if isinstance(snr, list | tuple):
        return f"an SNR of {snr[0]:g} to {snr[1]:g} dB"
    return f"an SNR of {snr:g} dB"


def training_lines(run):
    """Tell how a run was trained and which of its epochs this is.

    Arguments
    ---------
    run : FinishedRun
        The run.

    Returns
    -------
    list of str
        Sentences, in plain text.
    """
    hparams, weights = run.hparams, run.weights
    planned = hparams["number_of_epochs"]
    line = f"Seed {hparams['seed']}, {weights.last_epoch} epochs"
    if weights.last_epoch < planned:
        line += f" of {planned} that were planned: the training was cut short"
    return [line + ".", f"Weights: {weights_text(weights)}"]


def weights_text(weights):
    """Say which checkpoints the weights come from.

    Arguments
    ---------
    weights : ChosenWeights
        What was loaded.

    Returns
    -------
    str
        A sentence.

    Example
    -------
    >>> from merit_modules.export.averaging import ChosenWeights
    >>> weights_text(ChosenWeights("uar", [4, 2], {"uar": 0.5}, 4))
    'mean of the checkpoints of epochs 4, 2, the best by validation uar.'
    """
    picked = "the last one"
    if weights.score != "epoch":
        picked = f"the best by validation {weights.score}"
    epochs = ", ".join(map(str, weights.epochs))
    if len(weights.epochs) == 1:
        return f"checkpoint of epoch {epochs}, {picked}."
    picked = picked.replace("the last one", "the last ones")
    return f"mean of the checkpoints of epochs {epochs}, {picked}."


def ssl_start(run):
    """Say where the weights of the SSL encoder started from.

    Arguments
    ---------
    run : FinishedRun
        The run.

    Returns
    -------
    str
        Part of a sentence.
    bool
        Whether from random weights.
    """
    hparams = run.hparams
    tag = tag_of(run.described.get("ssl_encoder"))
    brought = tag.endswith(".encoder_of") or _brings_ssl(hparams["init_parts"])
    for key in ("init_from", "init_experiment"):
        if hparams[key] and brought:
            name = Path(str(hparams[key])).stem
            return f"started from those of another model ({name})", False
    is_pretrained = run.described.get("ssl_pretrained", True)
    if tag.endswith(".RandomSSLEncoder") or not is_pretrained:
        return "trained from random weights", True
    # The name on the hub, or that of a folder without its place.
    name = str(run.described.get("ssl_source", "its source is not stated"))
    if Path(name).is_absolute() or name.startswith("."):
        name = Path(name).name
    return f"pre-trained ({name})", False


def _brings_ssl(parts):
    return parts == "all" or "ssl_encoder" in parts


def general_limits(tasks, labels, sample_rate_hz):
    """Say what holds for any model of this kind.

    Arguments
    ---------
    tasks : sequence of str
        What it does: ``se``, ``ser``.
    labels : sequence of str or None
        Its classes; None if it has attributes.
    sample_rate_hz : int
        Its sample rate.

    Returns
    -------
    list of str
        Sentences, in plain text.

    Example
    -------
    >>> general_limits(["se"], None, 16000)
    ['Frequencies above 8000 Hz are not used, and enhanced speech holds none.']
    """
    lines, recognises = [], "ser" in tasks
    if recognises and labels is not None:
        lines.append(
            f"Emotion: it knows {', '.join(labels)} and nothing else, "
            "and gives one of them for any sound that is loud and long enough."
        )
    lines.append(
        f"Frequencies above {sample_rate_hz // 2} Hz are not used"
        + (", and enhanced speech holds none." if "se" in tasks else ".")
    )
    if recognises:
        lines.append(
            "What it says of an emotion is an estimate from the sound of a "
            "voice, often wrong. It is not for decisions about people: "
            "hiring, schools, police, borders, insurance, health."
        )
    return lines


_MODELS = {"wavlm": "WavLM", "hubert": "HuBERT", "wav2vec2": "wav2vec 2.0"}


def purpose(run):
    """Say in a sentence what the model does.

    Arguments
    ---------
    run : FinishedRun
        The run.

    Returns
    -------
    str
        The sentence.
    """
    does = []
    if "se" in run.tasks:
        does.append("enhances noisy speech")
    if "ser" in run.tasks:
        kind = run.hparams["ser_target"]
        what = "attributes" if kind == "attributes" else "emotions"
        does.append(f"recognises {what} ({', '.join(run.labels)})")
    return f"This model {' and '.join(does)}."


def system_lines(run):
    """Describe the parts of a system and their sizes.

    Arguments
    ---------
    run : FinishedRun
        The run.

    Returns
    -------
    list of str
        Sentences, in plain text.
    """
    system = run.system
    sizes = count_parameters(system)
    start, _ = ssl_start(run)
    lines = [
        f"System: {run.hparams['system_name']} of merit_modules.",
        f"SSL encoder: {_encoder_text(system.ssl_encoder)}; {start}.",
        _features_text(system),
        f"Parameters: {_millions(sizes['total'])}"
        + (
            f", of which a frame can touch {_millions(sizes['active'])}"
            if sizes["active"] < sizes["total"]
            else ""
        )
        + ".",
        f"Input: mono speech, {run.hparams['sample_rate_hz']} Hz (files of "
        "other rates are converted).",
    ]
    return lines


def _encoder_text(encoder):
    config = encoder.model.config
    n_parameters = sum(p.numel() for p in encoder.parameters())
    name = _MODELS.get(config.model_type, config.model_type)
    return (
        f"{name} with {config.num_hidden_layers} layers of width "
        f"{config.hidden_size} and {config.num_attention_heads} heads, "
        f"{_millions(n_parameters)} parameters"
    )


def _features_text(system):
    if isinstance(system, CascadeSystem):
        return (
            "Cascade: one system enhances, another one recognises emotions in "
            f"what it gives (and was trained on {system.ser_input} speech)."
        )
    routers = getattr(system.mixture, "routers", None)
    if not routers:
        return "Features: a weighted sum of the SSL layers for each task."
    (top_k,) = {router.top_k for router in routers.values()}
    n_experts = len(system.mixture.experts)
    return (
        f"Features: {n_experts} experts on the SSL layers, shared by the "
        f"tasks; a router for each task ({', '.join(routers)}) sends every "
        f"frame to {top_k} of them."
    )


def _millions(number):
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"

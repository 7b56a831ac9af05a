"""What a system is, as sentences for its card."""

from merit_modules.cascade import CascadeSystem
from merit_modules.cost import count_parameters
from merit_modules.export.data_text import ssl_start

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
        Lines of a Markdown list.
    """
    system = run.system
    sizes = count_parameters(system)
    start, _ = ssl_start(run)
    lines = [
        f"- System: `{run.hparams['system_name']}` of merit_modules.",
        f"- SSL encoder: {_encoder_text(system.ssl_encoder)}; {start}.",
        f"- {_features_text(system)}",
        f"- Parameters: {_millions(sizes['total'])}"
        + (
            f", of which a frame can touch {_millions(sizes['active'])}"
            if sizes["active"] < sizes["total"]
            else ""
        )
        + ".",
        f"- Input: mono speech, {run.hparams['sample_rate_hz']} Hz (files of "
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

"""Load a system's folder, whole or in parts: see the room's own text."""

from pathlib import Path

import ruamel.yaml
import torch
from ruamel.yaml.error import YAMLError

from merit_modules.data.state import read_state
from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams
from merit_modules.pretrained.save import (
    ABOUT_FILE,
    HPARAMS_FILE,
    WEIGHTS_FILE,
)
from merit_modules.pretrained.trust import check_files, read_bounded
from merit_modules.pretrained.weights import (
    check_fit,
    load_weights,
    read_weights,
)

#: Parts of a system that another one can start from. The normaliser is none
#: of them: its statistics are those of a training set.
PARTS = ("ssl_encoder", "mixture", "se_head", "ser_head")

# What decides how an SSL encoder computes and no tensor's shape tells.
_SILENT_SSL_KEYS = (
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "hidden_act",
    "layer_norm_eps",
    "max_bucket_distance",
    "num_attention_heads",
)


def read_about(folder):
    """Read what a folder says of its weights.

    Arguments
    ---------
    folder : str or Path
        What :func:`save_folder` wrote.

    Returns
    -------
    dict
        The content of ``about.json``; empty without it.

    Raises
    ------
    InputError
        If that file is damaged.

    Example
    -------
    >>> read_about(getfixture("tmp_path"))
    {}
    """
    path = Path(folder) / ABOUT_FILE
    if not path.is_file():
        return {}
    read_bounded(path)
    try:
        return read_state(path)
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from None


def load_folder(folder, trust=False, **changes):
    """Build the system of a folder and load its weights.

    Arguments
    ---------
    folder : str or Path
        What :func:`save_folder` wrote.
    trust : bool
        Whether its YAML may build and call whatever it names; see
        :mod:`merit_modules.pretrained.trust`.
    **changes : dict
        Keys of its ``hyperparams.yaml`` to replace: ``padding_rule``, say.

    Returns
    -------
    dict
        The YAML's keys; ``system`` (in evaluation mode), ``labels`` and
        ``sample_rate_hz`` among them.

    Raises
    ------
    InputError
        If a file is missing or broken, the weights do not fit, or the YAML
        names what no model does.

    Example
    -------
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder, system = getfixture("tmp_path") / "tiny", tiny_system()
    >>> save_folder(system, folder, ["angry", "sad", "happy", "calm"])
    >>> again, wavs = load_folder(folder)["system"], torch.randn(1, 8000)
    >>> torch.equal(again(wavs).logits, system(wavs).logits)
    True
    """
    path, weights = _file(folder, HPARAMS_FILE), _file(folder, WEIGHTS_FILE)
    # The weights to be replaced must not cost the caller random numbers.
    with torch.random.fork_rng(devices=[]):
        if not trust:
            check_files(path, weights)
        hparams = load_hparams(path, changes)
    if "system" not in hparams:
        raise InputError(f"{path}: expected a key 'system'")
    load_weights(hparams["system"], weights)
    hparams["system"].eval()
    return hparams


def encoder_of(
    folder, padding_rule="exact", fast=True, checkpoint_layers=False
):
    """Take the SSL encoder out of a folder, with its weights.

    Arguments
    ---------
    folder : str or Path
        What :func:`save_folder` wrote. It may lack other parts.
    padding_rule : str
        See :mod:`merit_modules.lengths`.
    fast : bool
        See :class:`~merit_modules.ssl.encoder.SSLEncoder`.
    checkpoint_layers : bool
        See :class:`~merit_modules.ssl.encoder.SSLEncoder`.

    Returns
    -------
    SSLEncoder
        In training mode, ready to be part of another system.

    Raises
    ------
    InputError
        If there is no folder, or no SSL encoder in it.

    Example
    -------
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> encoder_of(folder).n_layer_reps
    3
    """
    if folder is None:
        raise InputError("init_from: expected a folder to take the SSL from")
    system = load_folder(folder, padding_rule=padding_rule)["system"]
    if system.ssl_encoder is None:
        raise InputError(f"{folder}: has no weights of ssl_encoder")
    _check_trainable(folder, system.state_dict())
    system.ssl_encoder.arrange(fast, checkpoint_layers)
    return system.ssl_encoder.train()


def _file(folder, name):
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a folder that was written by "
            "merit_modules.pretrained.load (python -m merit_modules.released "
            "makes one of the authors' files)"
        )
    return path


def load_parts(system, folder, parts="all"):
    """Let a system start from the weights of another one.

    The normaliser keeps the statistics of its own training set.

    Arguments
    ---------
    system : JointSystem
        Takes the weights.
    folder : str or Path
        What :func:`save_folder` wrote. It may lack parts.
    parts : str or sequence of str
        ``all`` that both have, or some of ``ssl_encoder``, ``mixture``,
        ``se_head``, ``ser_head``.

    Returns
    -------
    list of str
        The parts that were loaded.

    Raises
    ------
    InputError
        If a part is unknown or not there; or listing each tensor and setting
        that does not fit.

    Example
    -------
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> load_parts(tiny_system(), folder, ["ser_head"])
    ['ser_head']
    """
    path = _file(folder, WEIGHTS_FILE)
    weights = read_weights(path)
    _check_trainable(path, weights)
    state = system.state_dict()
    parts = _choose_parts(parts, weights, state, path)
    weights = {k: v for k, v in weights.items() if k.split(".")[0] in parts}
    expected = {k: v for k, v in state.items() if k.split(".")[0] in parts}
    check_fit(path, weights, expected)
    if "ssl_encoder" in parts:
        _check_ssl(_file(folder, HPARAMS_FILE), system.ssl_encoder)
    system.load_state_dict(weights, strict=False)
    return parts


def _check_trainable(path, weights):
    if any(tensor.dtype == torch.int8 for tensor in weights.values()):
        raise InputError(
            f"{path}: its weights are 8-bit integers: training starts from a "
            "folder that was exported without --int8"
        )


def _choose_parts(parts, weights, state, path):
    there = {key.split(".")[0] for key in weights}
    wanted = {key.split(".")[0] for key in state}
    if parts == "all":
        return [part for part in PARTS if part in there & wanted]
    parts = [parts] if isinstance(parts, str) else list(parts)
    for part in parts:
        if part not in PARTS:
            raise InputError(
                f"parts: expected all or some of {', '.join(PARTS)}, "
                f"got {part!r}"
            )
        if part not in there:
            raise InputError(f"{path}: has no weights of {part}")
        if part not in wanted:
            raise InputError(f"parts: this system has no {part}")
    return parts


def _check_ssl(path, ssl_encoder):
    """Compare settings that change what the same weights compute."""
    try:
        text = path.read_text(encoding="utf-8")
        told = ruamel.yaml.YAML().load(text)["system"]["ssl_encoder"]
        model_type, changed = told["model_type"], told["config"]
    except (OSError, YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the description of an SSL encoder: {error!r}"
        ) from error
    config = ssl_encoder.model.config
    if model_type != config.model_type:
        raise InputError(
            f"{path}: its ssl_encoder is {model_type}, this system's is "
            f"{config.model_type}"
        )
    theirs = {**type(config)().to_dict(), **changed}
    wrong = [
        f"{key}: expected {ours}, got {theirs[key]}"
        for key, ours in config.to_dict().items()
        if key in _SILENT_SSL_KEYS and theirs[key] != ours
    ]
    if wrong:
        raise InputError(
            f"{path}: its ssl_encoder computes differently: " + "; ".join(wrong)
        )

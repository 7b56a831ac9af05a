"""A trained system as a folder that SpeechBrain and this package can load.

``hyperparams.yaml`` builds the system, ``model.safetensors`` holds its weights
(the statistics of the normaliser among them) and ``about.json`` says where
they come from. ``speechbrain.inference.interfaces.Pretrained.from_hparams``
reads the same folder. No pickle is involved; but the YAML names the classes to
build, so load folders of people whom you trust.
"""

import json
import os
import shutil
from pathlib import Path

import ruamel.yaml
import safetensors
import safetensors.torch
import speechbrain
import torch
import transformers
from ruamel.yaml.error import YAMLError
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.parameter_transfer import Pretrainer

import merit_modules
from merit_modules.description import (
    Description,
    Reference,
    class_path,
    describe,
    to_yaml,
)
from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams
from merit_modules.weights import check_fit, load_weights, read_weights

HPARAMS_FILE = "hyperparams.yaml"
WEIGHTS_FILE = "model.safetensors"
ABOUT_FILE = "about.json"

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


def system_yaml(system, labels, sample_rate_hz=16000):
    """Write the HyperPyYAML text that builds a system and loads its weights.

    Arguments
    ---------
    system : JointSystem
        The system.
    labels : sequence of str
        Emotions in the order of the logits.
    sample_rate_hz : int
        Sampling rate of the waveforms that it takes.

    Returns
    -------
    str
        The text.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> text = system_yaml(tiny_system(), ["sad", "happy"])
    >>> print(text.splitlines()[-1].strip())
    weight_files: {system: "model.safetensors"}
    """
    encoder = system.ssl_encoder
    tree = {
        "sample_rate_hz": sample_rate_hz,
        "labels": list(labels),
        "padding_rule": "exact" if encoder is None else encoder.padding_rule,
        "system": describe(system),
        "modules": {"system": Reference("system")},
        "pretrainer": Description(
            class_path(FolderPretrainer),
            {
                "loadables": {"system": Reference("system")},
                "weight_files": {"system": WEIGHTS_FILE},
            },
        ),
    }
    head = (
        "# Written by merit_modules.pretrained. Load it with its load_folder()"
        "\n# or with SpeechBrain's Pretrained.from_hparams().\n"
    )
    return head + to_yaml(tree)


class FolderPretrainer(Pretrainer):
    """SpeechBrain's Pretrainer for weights that lie beside the YAML file.

    The base class looks for ``<loadable>.ckpt`` there; these files keep their
    own names and hold no pickle.

    Arguments
    ---------
    loadables : dict
        Name to the module to load.
    weight_files : dict
        Name to the file's name.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 2)
    >>> folder = getfixture("tmp_path")
    >>> safetensors.torch.save_file(layer.state_dict(), folder / "w")
    >>> pretrainer = FolderPretrainer({"layer": layer}, {"layer": "w"})
    >>> _ = pretrainer.collect_files(folder)
    >>> pretrainer.load_collected()
    """

    def __init__(self, loadables, weight_files):
        super().__init__(
            loadables=loadables,
            custom_hooks=dict.fromkeys(loadables, load_weights),
        )
        self.weight_files = weight_files

    def collect_files(self, default_source=None, *args, **kwargs):
        """Find the files; see SpeechBrain's ``Pretrainer``.

        Arguments
        ---------
        default_source : str, Path or FetchSource
            Where the YAML file lies.
        *args : tuple
            As SpeechBrain takes them.
        **kwargs : dict
            As SpeechBrain takes them.

        Returns
        -------
        dict
            Name to local path.
        """
        for name, file in self.weight_files.items():
            if isinstance(default_source, FetchSource):
                kind, source = default_source
                self.paths[name] = FetchSource(kind, f"{source}/{file}")
            else:
                self.paths[name] = f"{default_source}/{file}"
        return super().collect_files(default_source, *args, **kwargs)


def save_folder(system, folder, labels, sample_rate_hz=16000, about=None):
    """Write a system as a folder, whole or not at all.

    Arguments
    ---------
    system : JointSystem
        The system.
    folder : str or Path
        Where to; an earlier folder of this kind is replaced.
    labels : sequence of str
        Emotions in the order of the logits.
    sample_rate_hz : int
        Sampling rate of the waveforms that it takes.
    about : dict, optional
        What is known of the weights; goes to ``about.json``.

    Raises
    ------
    InputError
        If the folder holds anything else, or cannot be written.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> sorted(path.name for path in folder.iterdir())
    ['hyperparams.yaml', 'model.safetensors']
    """
    folder = Path(folder)
    check_replaceable(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        text = system_yaml(system, labels, sample_rate_hz)
        (partial / HPARAMS_FILE).write_text(text, encoding="utf-8")
        safetensors.torch.save_file(
            _own_storage(system.state_dict()), partial / WEIGHTS_FILE
        )
        # safetensors makes files that their owner alone may read.
        shutil.copymode(partial / HPARAMS_FILE, partial / WEIGHTS_FILE)
        if about is not None:
            text = json.dumps(about | {"versions": _versions()}, indent=2)
            (partial / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")
        _replace(partial, folder)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_replaceable(folder):
    """Check that a folder may be written: new, empty or of this kind.

    Arguments
    ---------
    folder : str or Path
        The folder.

    Raises
    ------
    InputError
        If something else is there.

    Example
    -------
    >>> check_replaceable(getfixture("tmp_path") / "new")
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file")
    found = {path.name for path in folder.iterdir()}
    ours = {HPARAMS_FILE, WEIGHTS_FILE}
    if found and not (ours <= found <= ours | {ABOUT_FILE}):
        others = ", ".join(sorted(found - ours - {ABOUT_FILE})[:3])
        raise InputError(
            f"{folder}: expected a new or empty folder, or one that was "
            f"written here before; found {others or 'a part of one'}"
        )


def _replace(partial, folder):
    if folder.exists():
        earlier = folder.with_name(f"{folder.name}.earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        os.rename(folder, earlier)
        os.rename(partial, folder)
        shutil.rmtree(earlier)
    else:
        os.rename(partial, folder)


def _own_storage(state):
    # The weights of an LSTM on a GPU are views of one buffer, which the file
    # format refuses; elsewhere nothing is copied.
    def own(tensor):
        tensor = tensor.detach().cpu().contiguous()
        shared = tensor.untyped_storage().nbytes() != tensor.nbytes
        return tensor.clone() if shared else tensor

    return {key: own(tensor) for key, tensor in state.items()}


def _versions():
    modules = (merit_modules, torch, speechbrain, transformers)
    return {module.__name__: module.__version__ for module in modules}


def load_folder(folder, **changes):
    """Build the system of a folder and load its weights.

    Arguments
    ---------
    folder : str or Path
        What :func:`save_folder` wrote.
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
        If a file is missing or broken, or the weights do not fit.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> folder, system = getfixture("tmp_path") / "tiny", tiny_system()
    >>> save_folder(system, folder, ["angry", "sad", "happy", "calm"])
    >>> again, wavs = load_folder(folder)["system"], torch.randn(1, 8000)
    >>> torch.equal(again(wavs).logits, system(wavs).logits)
    True
    """
    path = _file(folder, HPARAMS_FILE)
    # The weights to be replaced must not cost the caller random numbers.
    with torch.random.fork_rng(devices=[]):
        hparams, _ = load_hparams(path, changes)
    if "system" not in hparams:
        raise InputError(f"{path}: expected a key 'system'")
    load_weights(hparams["system"], _file(folder, WEIGHTS_FILE))
    hparams["system"].eval()
    return hparams


def encoder_of(folder, padding_rule="exact"):
    """Take the SSL encoder out of a folder, with its weights.

    Arguments
    ---------
    folder : str or Path
        What :func:`save_folder` wrote. It may lack other parts.
    padding_rule : str
        See :mod:`merit_modules.padding`.

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
    return system.ssl_encoder.train()


def _file(folder, name):
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; expected a folder that was written by "
            "merit_modules.pretrained (python -m merit_modules.released "
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
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> load_parts(tiny_system(), folder, ["ser_head"])
    ['ser_head']
    """
    path = _file(folder, WEIGHTS_FILE)
    weights = read_weights(path)
    state = system.state_dict()
    parts = _choose_parts(parts, weights, state, path)
    weights = {k: v for k, v in weights.items() if k.split(".")[0] in parts}
    expected = {k: v for k, v in state.items() if k.split(".")[0] in parts}
    check_fit(path, weights, expected)
    if "ssl_encoder" in parts:
        _check_ssl(_file(folder, HPARAMS_FILE), system.ssl_encoder)
    system.load_state_dict(weights, strict=False)
    return parts


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

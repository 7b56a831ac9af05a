"""Write a system as a folder: whole, or not at all.

What is in it: see :mod:`merit_modules.pretrained.load`, which loads it.
"""

import os
import shutil
from pathlib import Path

import safetensors
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.parameter_transfer import Pretrainer

from merit_modules.cpu.int8 import is_quantized, quantize_
from merit_modules.data.kinds import FOLDER
from merit_modules.data.state import file_digest, hold, write_state
from merit_modules.errors import InputError
from merit_modules.files import sync
from merit_modules.pretrained.description import (
    Call,
    Description,
    Reference,
    class_path,
    describe,
    to_yaml,
)
from merit_modules.pretrained.weights import (
    load_weights,
    versions,
    write_weights,
)

HPARAMS_FILE = "hyperparams.yaml"
WEIGHTS_FILE = "model.safetensors"
ABOUT_FILE = "about.json"
CARD_FILE = "README.md"
INTERFACE_FILE = "custom.py"  # where SpeechBrain's foreign_class looks
INTERFACE = '''\
"""The class that SpeechBrain's foreign_class loads this folder with."""

from merit_modules.inference import SparseMERIT

CustomInterface = SparseMERIT  # the name that foreign_class asks for
'''
ONNX_FILES = ("model.onnx", "model.onnx.data")


def system_yaml(system, labels, sample_rate_hz=16000, facts=None):
    """Write the HyperPyYAML text that builds a system and loads its weights.

    Arguments
    ---------
    system : JointSystem
        The system.
    labels : sequence of str
        Emotions in the order of the logits.
    sample_rate_hz : int
        Sampling rate of the waveforms that it takes.
    facts : dict, optional
        More that a user of the system may ask for: ``ser_target``,
        ``attribute_scale``, ``corpus_name``, ``system_name``.

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
    facts = facts or {}
    encoder = system.ssl_encoder
    tree = {"sample_rate_hz": sample_rate_hz, "labels": list(labels)}
    if labels and facts.get("ser_target") != "attributes":
        tree["label_encoder"] = Call(
            class_path(label_encoder), {"labels": Reference("labels")}
        )
    built = describe(system)
    if is_quantized(system):
        facts = facts | {"quantization": "int8"}
        built = Call(class_path(quantize_), {"system": built})
    tree |= {
        **facts,
        "padding_rule": "exact" if encoder is None else encoder.padding_rule,
        "system": built,
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


def save_folder(
    system,
    folder,
    labels,
    sample_rate_hz=16000,
    about=None,
    facts=None,
    card=None,
):
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
    facts : dict, optional
        More for ``hyperparams.yaml``: see :func:`system_yaml`.
    card : str, optional
        Text of ``README.md``.

    Raises
    ------
    InputError
        If the folder holds anything else, cannot be written, or is held by
        another process.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> sorted(path.name for path in folder.iterdir())
    ['custom.py', 'hyperparams.yaml', 'model.safetensors']
    """
    folder = Path(folder)
    check_replaceable(folder)
    text = system_yaml(system, labels, sample_rate_hz, facts)
    hold(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / HPARAMS_FILE).write_text(text, encoding="utf-8")
        weights = _own_storage(system.state_dict())
        digest = file_digest(partial / HPARAMS_FILE)
        write_weights(partial / WEIGHTS_FILE, weights, digest)
        # safetensors makes files that their owner alone may read.
        shutil.copymode(partial / HPARAMS_FILE, partial / WEIGHTS_FILE)
        (partial / INTERFACE_FILE).write_text(INTERFACE, encoding="utf-8")
        if about is not None:
            write_state(partial / ABOUT_FILE, about | {"versions": versions()})
        if card is not None:
            (partial / CARD_FILE).write_text(card, encoding="utf-8")
        for path in partial.iterdir():
            sync(path)
        _replace(partial, folder)
        sync(folder.parent)
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
        FOLDER.check("model folder", folder)
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file")
    found = {path.name for path in folder.iterdir()}
    ours = {HPARAMS_FILE, WEIGHTS_FILE}
    may_be = ours | {ABOUT_FILE, CARD_FILE, INTERFACE_FILE, *ONNX_FILES}
    if found and not ours <= found <= may_be:
        others = ", ".join(sorted(found - may_be)[:3])
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


class FolderPretrainer(Pretrainer):
    """SpeechBrain's Pretrainer for weights that lie beside the YAML file.

    The base class looks for ``<loadable>.ckpt`` there; these files keep their
    own names and hold no pickle. A ``savedir`` that an earlier call filled can
    be a source again: there, SpeechBrain has named them ``<loadable>.ckpt``.

    Arguments
    ---------
    loadables : dict
        Name to the module to load.
    weight_files : dict
        Name to the file's name.

    Example
    -------
    >>> import safetensors.torch
    >>> import torch
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
                collected = Path(default_source, f"{name}.ckpt")
                if not Path(default_source, file).exists():
                    file = collected.name if collected.exists() else file
                self.paths[name] = f"{default_source}/{file}"
        return super().collect_files(default_source, *args, **kwargs)


def label_encoder(labels):
    """Make SpeechBrain's encoder between classes and their numbers.

    Arguments
    ---------
    labels : sequence of str
        Classes in the order of the logits.

    Returns
    -------
    speechbrain.dataio.encoder.CategoricalEncoder
        The encoder.

    Example
    -------
    >>> import torch
    >>> encoder = label_encoder(["sad", "happy"])
    >>> encoder.decode_torch(torch.tensor([1, 0]))
    ['happy', 'sad']
    """
    encoder = CategoricalEncoder()
    for number, label in enumerate(labels):
        encoder.enforce_label(label, number)
    encoder.expect_len(len(labels))
    return encoder

"""What a YAML file may build: read before anything of it is run.

HyperPyYAML builds any class and calls any function that a file names, so a
folder from a stranger could run anything. A folder of a model uses a handful
of this package's classes; a run names a few more. All else is refused by name,
unless the caller says that the folder is trusted.
"""

import contextlib
import logging
import re
import threading

import ruamel.yaml
import safetensors
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from merit_modules import heads, moe, ssl
from merit_modules.cpu.int8 import quantize_
from merit_modules.data.state import file_digest
from merit_modules.errors import InputError
from merit_modules.names import MOVED
from merit_modules.pretrained.description import NOT_ARGUMENTS, class_path
from merit_modules.pretrained.save import (
    WEIGHTS_FILE,
    FolderPretrainer,
    label_encoder,
)
from merit_modules.pretrained.weights import compare_shapes, digests_of

logger = logging.getLogger(__name__)

_PACKAGE = "merit_modules"
_WANTED = "expected the folder of a model, or of a run"
#: Of a run's file, what the recipes name beside what a model consists of.
_RUN_TAGS = {
    "!apply:builtins.len",
    "!apply:manifest_prepare.folder_of",
    "!apply:manifest_prepare.labels_of",
    "!apply:msp_podcast_classes.classes_of",
    "!apply:operator.mul",
    "!apply:speechbrain.utils.seed_everything",
    "!name:emodb_prepare.prepare_emodb",
    "!name:iemocap_prepare.prepare_iemocap",
    "!name:manifest_prepare.prepare_manifest",
    "!name:merit_modules.data.miniemo.prepare_miniemo",
    "!name:merit_modules.miniemo.prepare.prepare_miniemo",
    "!name:msp_podcast_prepare.prepare_msp_podcast",
    "!name:torch.optim.Adam",
    "!name:torch.optim.AdamW",
    "!name:torch.optim.SGD",
    "!new:merit_modules.checkpoints.AtomicCheckpointer",
    "!new:merit_modules.losses.JointLoss",
    "!new:merit_modules.training.AtomicCheckpointer",
    "!new:merit_modules.training.checkpoints.AtomicCheckpointer",
    "!new:speechbrain.augment.augmenter.Augmenter",
    "!new:speechbrain.augment.time_domain.ChannelDrop",
    "!new:speechbrain.augment.time_domain.ChannelSwap",
    "!new:speechbrain.augment.time_domain.DoClip",
    "!new:speechbrain.augment.time_domain.DropBitResolution",
    "!new:speechbrain.augment.time_domain.DropChunk",
    "!new:speechbrain.augment.time_domain.DropFreq",
    "!new:speechbrain.augment.time_domain.SignFlip",
    "!new:speechbrain.augment.time_domain.SpeedPerturb",
    "!new:speechbrain.nnet.schedulers.CyclicLRScheduler",
    "!new:speechbrain.nnet.schedulers.LinearNoamScheduler",
    "!new:speechbrain.nnet.schedulers.LinearScheduler",
    "!new:speechbrain.nnet.schedulers.LinearWarmupScheduler",
    "!new:speechbrain.nnet.schedulers.NewBobScheduler",
    "!new:speechbrain.nnet.schedulers.NoamScheduler",
    "!new:speechbrain.nnet.schedulers.ReduceLROnPlateau",
    "!new:speechbrain.nnet.schedulers.StepScheduler",
    "!new:speechbrain.nnet.schedulers.WarmAndExpDecayLRSchedule",
    "!new:speechbrain.nnet.schedulers.WarmCoolDecayLRSchedule",
    "!new:speechbrain.utils.checkpoints.Checkpointer",
    "!new:speechbrain.utils.epoch_loop.EpochCounter",
    "!new:speechbrain.utils.epoch_loop.EpochCounterWithStopper",
    "!new:speechbrain.utils.train_logger.FileTrainLogger",
    "!new:speechbrain.utils.train_logger.TensorboardLogger",
    "!PLACEHOLDER",
    "!tuple",
}
_LARGEST_FILE = 2**20  # bytes
_DEEPEST, _MOST_NODES = 40, 20_000
_LARGEST_INT = 400_000
#: How many parts there are of something.
_COUNTS = re.compile(r"n_\w+|num_\w+|top_k")
_LARGEST_COUNT = 1024
_LONGEST_SPAN_S = 3600.0
#: How much more than its weights a model may register while it is built:
#: parametrisations replace tensors by others.
_SLACK = 4
#: Types of weights, as safetensors calls them.
_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
_REFERENCE = re.compile(r"<[\w.]+>")
#: A run's references also add and join; powers and products can be endless.
_RUN_REFERENCE = re.compile(r"[^*%\n]{1,400}")


def _spellings(kind):
    """Give all names that a class or function ever had in a YAML file."""
    module = kind.__module__.removeprefix(f"{_PACKAGE}.")
    return [class_path(kind), *_spelled(module, kind.__qualname__)]


def _spelled(module, name):
    modules = [module, *(old for old in MOVED if MOVED[old] == module)]
    return [f"{_PACKAGE}.{module}.{name}" for module in modules]


def _tags():
    kinds = [
        getattr(room, name)
        for room in (heads, moe)
        for name in room.__all__
        if isinstance(getattr(room, name), type)
    ]
    kinds += [ssl.RandomSSLEncoder, FolderPretrainer]
    found = {f"!new:{name}" for kind in kinds for name in _spellings(kind)}
    for kind in ("JointSystem", "CascadeSystem", "WaveformNormalizer"):
        found |= {f"!new:{name}" for name in _spelled("system", kind)}
    for function in (label_encoder, quantize_):
        found |= {f"!apply:{name}" for name in _spellings(function)}
    return found


#: Tags of a model's file: exact, since a prefix would reach whatever a module
#: has imported.
MODEL_TAGS = frozenset({*_tags(), "!ref"})
RUN_TAGS = frozenset(
    MODEL_TAGS
    | _RUN_TAGS
    | {f"!new:{name}" for name in _spellings(ssl.PretrainedSSLEncoder)}
    | {f"!new:{name}" for name in _spelled("losses.joint", "JointLoss")}
    | {
        f"!apply:{_PACKAGE}.{module}.encoder_of"
        for module in ("pretrained", "pretrained.load", "pretrained.loading")
    }
)


def check_text(text, path, tags=MODEL_TAGS):
    """Refuse a YAML file that names what is not on a list.

    Arguments
    ---------
    text : str
        Its text.
    path : str or Path
        What to call it in messages.
    tags : frozenset of str
        ``MODEL_TAGS``, or ``RUN_TAGS`` for the file of a run.

    Raises
    ------
    InputError
        Naming the line and what is there.

    Example
    -------
    >>> check_text("len: !apply:builtins.len [[1]]", "composed.yaml", RUN_TAGS)
    >>> check_text("a: !apply:os.system [ls]", "model.yaml")
    Traceback (most recent call last):
    merit_modules.errors.InputError: model.yaml, line 1: names
    !apply:os.system, which no model of this package does...
    """
    try:
        _Reader(path, tags).read(ruamel.yaml.YAML().parse(text))
    except InputError:
        raise
    except (YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: {_WANTED}; not YAML: {told}") from None


class _Reader:
    """Goes through the events of a YAML file."""

    def __init__(self, path, tags):
        self.path, self.tags = path, tags
        self.is_model = tags is MODEL_TAGS
        self.reference = _REFERENCE if self.is_model else _RUN_REFERENCE
        self.n_nodes = self.n_documents = 0

    def read(self, events):
        path = []  # of each open node: a list's key, or a mapping's last key
        for event in events:
            if isinstance(event, DocumentStartEvent):
                self.n_documents += 1
                if event.tags or event.version or self.n_documents > 1:
                    raise self._error(event, "has directives or several parts")
            if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
                raise self._error(event, "has an anchor or alias")
            if not isinstance(event, NodeEvent):
                if path and type(event).__name__.endswith("EndEvent"):
                    path.pop()
                    self._advance(path)
                continue
            self.n_nodes += 1
            if self.n_nodes > _MOST_NODES or len(path) > _DEEPEST:
                raise self._error(event, "is too large")
            self._check_tag(event)
            is_key = bool(path) and path[-1] == [None]
            if isinstance(event, ScalarEvent):
                if is_key:
                    self._check_key(event, path)
                    path[-1][0] = event.value
                else:
                    self._check_value(event, path)
                    self._advance(path)
            elif is_key:
                raise self._error(event, "has a key that is no text")
            elif isinstance(event, MappingStartEvent):
                path.append([None])
            elif isinstance(event, SequenceStartEvent):
                key = path[-1][0] if path else ""
                path.append((key,))

    def _advance(self, path):
        """A mapping's value is there: next comes a key."""
        if path and isinstance(path[-1], list):
            path[-1][0] = None

    def _check_tag(self, event):
        tag = getattr(event, "tag", None)
        tag = None if tag is None else str(tag)
        if tag in (None, "!"):
            return
        if tag not in self.tags:
            raise self._error(
                event, f"names {tag}, which no model of this package does"
            )
        if tag == "!ref" and not (
            isinstance(event, ScalarEvent)
            and self.reference.fullmatch(event.value)
        ):
            told = str(getattr(event, "value", ""))[:60]
            raise self._error(event, f"has !ref {told}, not the name of a key")

    def _check_key(self, event, path):
        """Of a configuration, take what ``merit export`` writes alone."""
        key, parents = event.value, [node[0] for node in path[:-1]]
        if self.is_model and "config" in parents:
            if key.startswith("_") or key in NOT_ARGUMENTS:
                raise self._error(event, f"sets {key!r} of an SSL encoder")

    def _check_value(self, event, path):
        keys = [node[0] for node in path]
        if "weight_files" in keys and event.value != WEIGHTS_FILE:
            told = f"takes weights from {event.value[:60]!r}, expected "
            raise self._error(event, told + WEIGHTS_FILE)
        if self.is_model:
            self._check_number(event, keys[-1] if keys else "")

    def _check_number(self, event, key):
        if event.style or event.tag:
            return
        number = _number(event.value)
        if number is None:
            return
        largest = _LARGEST_INT
        if key == "attention_span_s":
            largest = _LONGEST_SPAN_S
        elif _COUNTS.fullmatch(str(key)):
            largest = _LARGEST_COUNT
        if not abs(number) <= largest:
            raise self._error(
                event,
                f"has {key}: {event.value[:40]}, expected {largest:g} at most",
            )

    def _error(self, event, what):
        line = event.start_mark.line + 1
        return InputError(
            f"{self.path}, line {line}: {what}. If you trust whoever wrote "
            "it, say so: trust=True, or --trust"
        )


def _number(text):
    """Read a number as YAML would, or more: None if it is none."""
    text = text.lower().replace("_", "").replace(":", "")
    for read in (float, lambda text: int(text, 0)):
        try:
            return read(text)
        except ValueError:
            continue
    return float("nan") if text.lstrip("+-") in (".inf", ".nan") else None


def check_files(path, weights):
    """Refuse a model that may do more than compute, by its two files.

    Arguments
    ---------
    path : str or Path
        Its YAML file.
    weights : str or Path
        Its weights.

    Raises
    ------
    InputError
        If the YAML names what no model does, or if what it builds is not of
        the size of the weights. Nothing of that size is made to find out.

    Example
    -------
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> check_files(folder / "hyperparams.yaml", folder / WEIGHTS_FILE)
    """
    text = read_bounded(path)
    check_text(text, path)
    try:
        with safetensors.safe_open(weights, "pt") as file:
            found = {k: _Shape(file.get_slice(k)) for k in file.keys()}
            _, stated = digests_of(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{weights}: cannot be read: {error}") from error
    n_most = _SLACK * sum(part.shape.numel() for part in found.values())
    try:
        with torch.device("meta"), _at_most(n_most + _LARGEST_INT, len(found)):
            built = load_hyperpyyaml(text)["system"]
        expected = built.state_dict()
    except InputError:
        raise
    except Exception as error:  # of arguments that nobody has tried
        raise InputError(
            f"{path}: cannot be built: {type(error).__name__}: {error}"
        ) from error
    problems = compare_shapes(found, expected)
    if problems:
        raise InputError(f"{weights}: does not fit: " + "; ".join(problems[:8]))
    if stated and stated != file_digest(path):
        logger.warning(
            f"{path}: damaged, or changed by hand: it is not what its weights "
            "were written with"
        )


@contextlib.contextmanager
def _at_most(n_values, n_tensors):
    """Stop modules of this thread that hold more than the weights do.

    Whatever is built counts, also what no system would hold: an argument
    that is passed over, say.
    """
    thread, left = threading.get_ident(), [n_values, _SLACK * n_tensors + 1000]

    def count(module, name, tensor):
        if tensor is None or threading.get_ident() != thread:
            return
        left[0] -= tensor.numel()
        left[1] -= 1
        if min(left) < 0:
            raise InputError("it is larger than its weights")

    hooks = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read_bounded(path):
    """Read a text file that is to be small.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    str
        Its text.

    Raises
    ------
    InputError
        If it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read(_LARGEST_FILE + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected text in UTF-8") from None
    if len(data) > _LARGEST_FILE:
        raise InputError(f"{path}: expected a file below 1 MiB")
    return text


class _Shape:
    """What is compared of a tensor that is not read."""

    def __init__(self, part):
        self.shape = torch.Size(part.get_shape())
        self.dtype = _DTYPES.get(part.get_dtype(), torch.uint8)

"""How to build a system, read off the system itself, as HyperPyYAML.

By convention every part keeps its constructor's arguments as attributes of
the same name; so whatever a recipe composed can be written down.
"""

import inspect
import json
import sys
from functools import singledispatch
from typing import NamedTuple

from torch import nn

from merit_modules.ssl.encoder import SSLEncoder
from merit_modules.ssl.sources import RandomSSLEncoder

# Of a transformers configuration: what describes the file it came from, and
# what follows from other entries.
NOT_ARGUMENTS = {
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "layerdrop",
    "model_type",
    "num_feat_extract_layers",
    "output_hidden_size",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
}


class Description(NamedTuple):
    """How to build a part.

    Arguments
    ---------
    class_path : str
        Module and name of its class.
    arguments : dict
        Arguments of the constructor; those that are parts are described.
    """

    class_path: str
    arguments: dict


class Call(NamedTuple):
    """What a function returns.

    Arguments
    ---------
    function_path : str
        Module and name of the function.
    arguments : dict
        Its arguments by name; those that are parts are described.
    """

    function_path: str
    arguments: dict


class Reference(NamedTuple):
    """A value that another key of the YAML holds.

    Arguments
    ---------
    key : str
        That key.
    """

    key: str


@singledispatch
def describe(part):
    """Describe a part by its constructor's arguments.

    By convention every part keeps them as attributes of the same name. An SSL
    encoder is described by its configuration, wherever its weights came from.

    Arguments
    ---------
    part : torch.nn.Module
        The part.

    Returns
    -------
    Description
        How to build it.

    Raises
    ------
    TypeError
        If the part does not keep an argument.

    Example
    -------
    >>> from merit_modules.heads.spectral import LogSpectrum
    >>> describe(LogSpectrum(n_fft=320)).arguments
    {'n_fft': 320, 'hop_length': 160}
    """
    arguments = {}
    if type(part).__init__ is not nn.Module.__init__:
        names = list(inspect.signature(type(part).__init__).parameters)[1:]
        for name in names:
            if not hasattr(part, name):
                raise TypeError(
                    f"{type(part).__name__} does not keep its constructor's "
                    f"argument {name!r} as an attribute"
                )
            arguments[name] = _describe_value(getattr(part, name))
    return Description(class_path(type(part)), arguments)


@describe.register
def _describe_ssl(part: SSLEncoder):
    config = part.model.config
    default = type(config)().to_dict()
    changed = {
        key: value
        for key, value in config.to_dict().items()
        if key in default.keys() - NOT_ARGUMENTS and value != default[key]
    }
    arguments = {
        "model_type": config.model_type,
        "config": changed,
        "train_front_end": part.train_front_end,
        "padding_rule": Reference("padding_rule"),
        "attention_span_s": part.attention_span_s,
    }
    return Description(class_path(RandomSSLEncoder), arguments)


def _describe_value(value):
    if isinstance(value, nn.ModuleDict):
        return {key: _describe_value(part) for key, part in value.items()}
    return describe(value) if isinstance(value, nn.Module) else value


def class_path(kind):
    """Give the name under which YAML finds a class or function.

    Arguments
    ---------
    kind : type or callable
        The class or function.

    Returns
    -------
    str
        Room and name where the room shows it, so that it may move to another
        file of the room; else module and name.

    Example
    -------
    >>> from merit_modules.moe.experts import ExpertPool
    >>> class_path(ExpertPool)
    'merit_modules.moe.ExpertPool'
    """
    name, module = kind.__qualname__, kind.__module__
    room = module.rpartition(".")[0]
    if name in getattr(sys.modules.get(room), "__all__", ()):
        module = room
    return f"{module}.{name}"


def to_yaml(tree, indent=""):
    """Write HyperPyYAML text.

    Arguments
    ---------
    tree : dict
        Keys to plain values, descriptions, calls, references, or dicts of
        them.
    indent : str
        Space before every line.

    Returns
    -------
    str
        The text.

    Example
    -------
    >>> part = Description("torch.nn.Linear", {"in_features": Reference("n")})
    >>> print(to_yaml({"n": 2, "names": ["no", 1e-5], "layer": part}), end="")
    n: 2
    names: ["no", 1.0e-05]
    layer: !new:torch.nn.Linear
        in_features: !ref <n>
    """
    text = ""
    for key, value in tree.items():
        below = None
        if isinstance(value, Description):
            shown, below = f" !new:{value.class_path}", value.arguments
        elif isinstance(value, Call):
            shown, below = f" !apply:{value.function_path}", value.arguments
        elif isinstance(value, Reference):
            shown = f" !ref <{value.key}>"
        elif isinstance(value, dict) and not _is_plain(value):
            shown, below = "", value
        else:
            shown = " " + _flow(value)
        text += f"{indent}{key}:{shown}\n"
        text += to_yaml(below or {}, indent + "    ")
    return text


def _is_plain(mapping):
    kinds = (Description, Call, Reference)
    return not any(isinstance(value, kinds) for value in mapping.values())


def _flow(value):
    if isinstance(value, dict):
        items = [f"{key}: {_flow(item)}" for key, item in value.items()]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and "e" in text and "." not in text:
        text = text.replace("e", ".0e")  # YAML 1.1 takes 1e-5 for text
    return text

"""Compose HyperPyYAML files and load them with every key checked.

A system is described once and a corpus is described once; an experiment names
the files that it is made of under ``include`` and states only what differs::

    include: [base.yaml, corpora/miniemo.yaml, systems/sparse_merit.yaml]
    lr: 1.0e-3

The files' top-level keys form one flat namespace in which a later file's key
replaces an earlier one's. The result is plain HyperPyYAML, so any key can be
overridden from the command line and the composed file runs on its own::

    python -m merit_modules.hparams hparams/sparse_merit.yaml
"""

import difflib
import io
import re
import sys
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from merit_modules.errors import InputError

INCLUDE = "include"


def compose(path):
    """Merge a YAML file with the files that it includes.

    Arguments
    ---------
    path : str or Path
        HyperPyYAML file; paths under its key ``include`` are relative to it.

    Returns
    -------
    str
        One HyperPyYAML text without ``include``.

    Raises
    ------
    InputError
        If a file is missing, is not YAML, or has a key that no included file
        knows and no reference uses.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("a: 1\\nb: !ref <a>\\n")
    >>> _ = (folder / "run.yaml").write_text("include: [base.yaml]\\na: 2\\n")
    >>> print(compose(folder / "run.yaml"), end="")
    a: 2
    b: !ref <a>
    """
    tree = _merge(Path(path))
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def _yaml():
    yaml = ruamel.yaml.YAML()
    yaml.width = 4096  # a folded !ref string would change its meaning
    return yaml


def _merge(path):
    tree = _read(path)
    included = tree.pop(INCLUDE, [])
    if not included:
        return tree
    merged = CommentedMap()
    for name in included:
        _update(merged, _merge(path.parent / name))
    known = set(merged)
    _update(merged, tree)
    used = known | _referenced(merged)
    for key in tree:
        if key not in used and not key.startswith("__"):
            raise InputError(
                f"{path}: key {key!r} is read by nothing" + _hint(key, known)
            )
    return merged


def _update(merged, tree):
    for key, value in tree.items():
        merged[key] = value
        merged.ca.items.pop(key, None)  # a comment on the replaced value
        if key in tree.ca.items:
            merged.ca.items[key] = tree.ca.items[key]


def _read(path):
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"hparams file {path}: {error.strerror or error}"
        ) from error
    try:
        tree = _yaml().load(text)
    except YAMLError as error:
        raise InputError(f"hparams file {path}: not YAML: {error}") from error
    if not isinstance(tree, CommentedMap):
        raise InputError(f"hparams file {path}: expected keys and values")
    return tree


def _referenced(tree):
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    names = re.findall(r"<([^<>\s]+)>", stream.getvalue())
    return {re.split(r"[.\[]", name)[0] for name in names}


def _hint(key, known):
    close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def load_hparams(path, overrides=None):
    """Compose, override and build an experiment.

    Arguments
    ---------
    path : str or Path
        HyperPyYAML file.
    overrides : str or dict, optional
        Keys to replace, as SpeechBrain's command line gives them.

    Returns
    -------
    dict
        Key to value or object.
    str
        The composed HyperPyYAML text, overrides not applied.

    Raises
    ------
    InputError
        If a file or key is unknown, a placeholder has no value, or a part
        cannot be built.

    Example
    -------
    >>> path = getfixture("tmp_path") / "run.yaml"
    >>> _ = path.write_text("n: 1\\nlayer: !new:torch.nn.Linear [!ref <n>, 2]")
    >>> load_hparams(path, {"n": 3})[0]["layer"].in_features
    3
    >>> load_hparams(path, {"m": 3})
    Traceback (most recent call last):
    merit_modules.errors.InputError: ... no key 'm'...
    """
    text = compose(path)
    known = _yaml().load(text)
    if isinstance(overrides, str):
        overrides = _yaml().load(overrides)
    for key in overrides or {}:
        if key not in known:
            raise InputError(
                f"{path} has no key {key!r} to override" + _hint(key, known)
            )
    try:
        return load_hyperpyyaml(text, overrides), text
    except InputError:
        raise
    except (ImportError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {_explain(error)}") from error


def _explain(error):
    message = ": ".join(str(part) for part in error.args) or repr(error)
    found = re.search(r"'(.+?)' is a !PLACEHOLDER", message)
    if found:
        return f"{found[1]} needs a value: add --{found[1]} VALUE"
    return message


if __name__ == "__main__":
    print(compose(sys.argv[1]), end="")

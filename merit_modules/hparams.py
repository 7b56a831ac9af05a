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
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from merit_modules.errors import InputError

INCLUDE = "include"
#: The YAML files of this package: in it where it is installed, else beside it
#: in a clone of the repository.
SHIPPED = next(
    folder
    for folder in (
        Path(__file__).parent / "shipped",
        Path(__file__).parents[1] / "hparams",
    )
    if folder.is_dir()
)


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
    stated = []
    tree = _merge(Path(path), stated)
    _check_keys(tree, stated)
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def _yaml():
    yaml = ruamel.yaml.YAML()
    yaml.width = 4096  # a folded !ref string would change its meaning
    return yaml


def _merge(path, stated):
    """Merge a file, noting which file states which keys about its includes."""
    tree = _read(path)
    merged = CommentedMap()
    included = tree.pop(INCLUDE, [])
    for name in included:
        _update(merged, _merge(path.parent / name, stated))
    stated.append((path, list(tree), bool(included)))
    _update(merged, tree)
    return merged


def _check_keys(tree, stated):
    # A file without includes describes something: its keys are its own. One
    # with includes adjusts what it includes: a misspelt key would do nothing.
    known = _referenced(tree)
    for _, keys, adjusts in stated:
        known |= set() if adjusts else set(keys)
    for path, keys, adjusts in stated:
        for key in keys if adjusts else ():
            if key not in known and not key.startswith("__"):
                raise InputError(
                    f"{path}: key {key!r} is read by nothing"
                    + _hint(key, known)
                )


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
    known = keys_of(text)
    if isinstance(overrides, str):
        overrides = parse_overrides(overrides)
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


def parse_overrides(text):
    """Read overrides as SpeechBrain's command line gives them.

    Arguments
    ---------
    text : str
        YAML.

    Returns
    -------
    dict
        Key to value.

    Raises
    ------
    InputError
        If a key is given twice, or a value is no YAML.

    Example
    -------
    >>> parse_overrides("{lr: 0.1}")["lr"]
    0.1
    """
    try:
        return _yaml().load(text) or {}
    except DuplicateKeyError as error:
        told = error.problem.partition(" (")[0]
        raise InputError(f"options: {told}") from None
    except YAMLError as error:
        raise InputError(f"options: expected YAML: {error}") from None


def format_overrides(overrides):
    """Write overrides as YAML that :func:`parse_overrides` reads again.

    Arguments
    ---------
    overrides : dict
        Key to value.

    Returns
    -------
    str
        YAML.

    Example
    -------
    >>> print(format_overrides({"lr": 0.1, "names": ["a"]}), end="")
    lr: 0.1
    names:
    - a
    """
    if not overrides:
        return "{}\n"
    stream = io.StringIO()
    _yaml().dump(overrides, stream)
    return stream.getvalue()


def keys_of(text):
    """List the top-level keys of a composed file.

    Arguments
    ---------
    text : str
        What :func:`compose` returned.

    Returns
    -------
    set of str
        The keys that can be overridden.

    Example
    -------
    >>> sorted(keys_of("b: 1\\na: 2\\n"))
    ['a', 'b']
    """
    return set(_yaml().load(text))


def _explain(error):
    message = ": ".join(str(part) for part in error.args) or repr(error)
    found = re.search(r"'(.+?)' is a !PLACEHOLDER", message)
    if found:
        return f"{found[1]} needs a value: add --{found[1]} VALUE"
    return message


if __name__ == "__main__":
    print(compose(sys.argv[1]), end="")

"""HyperPyYAML files: what SpeechBrain loads, with errors told in one line."""

import ast
import contextlib
import difflib
import io
import re
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from merit_modules.errors import InputError

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


@contextlib.contextmanager
def explained(path):
    """Turn what HyperPyYAML raises into one line that names file and key.

    Arguments
    ---------
    path : str or Path
        The HyperPyYAML file that is loaded inside.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    InputError
        If the file is missing or is not YAML, a key to override is not in it
        or is given twice, a placeholder has no value, or a part cannot be
        built.

    Example
    -------
    >>> with explained("run.yaml"):
    ...     load_hyperpyyaml("fold: 1", {"folds": 2})
    Traceback (most recent call last):
    merit_modules.errors.InputError: run.yaml has no key 'folds' to override;
    did you mean 'fold'?
    """
    try:
        yield
    except InputError:
        raise
    except (RecursionError, OSError, UnicodeDecodeError, YAMLError) as error:
        _check_file(Path(path))
        told = "not YAML: " if isinstance(error, YAMLError) else ""
        raise InputError(f"hparams file {path}: {told}{error}") from error
    except Exception as error:  # whatever a part says to its arguments
        raise InputError(_explain(path, error)) from error


def _check_file(path, above=()):
    """Raise if a file, or one that it includes, is none of YAML."""
    told = f"{above[-1]}: includes {path}" if above else f"hparams file {path}"
    if any(path.samefile(other) for other in above if path.exists()):
        raise InputError(f"{told}, which includes itself")
    try:
        text = path.read_text(encoding="utf-8")
        _yaml().load(text)
    except OSError as error:
        raise InputError(f"{told}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{told}: expected text in UTF-8") from error
    except DuplicateKeyError as error:
        problem = error.problem.partition(" (")[0]
        raise InputError(f"{told}: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{told}: not YAML: {error}") from error
    for name in re.findall(r"!include:(\S*)", text):
        _check_file(path.parent / name, (*above, path))


def _explain(path, error):
    message = ": ".join(str(part) for part in error.args) or repr(error)
    found = re.search(r"Override '(.+?)' not found in: (\[.*\])", message)
    if found:
        key, known = found[1], ast.literal_eval(found[2])
        hint = _hint(key, known) or _elsewhere(path, key)
        return f"{path} has no key {key!r} to override{hint}"
    found = re.search(r"'(.+?)' is a !PLACEHOLDER", message)
    if found:
        return f"{path}: {found[1]} needs a value: add --{found[1]} VALUE"
    return f"{path}: {message}"


def _hint(key, known):
    close = difflib.get_close_matches(str(key), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _elsewhere(path, key):
    """Name the files beside one that know a key which it lacks."""
    known = [
        other.name
        for other in sorted(Path(path).parent.glob("*.yaml"))
        if re.search(
            rf"^{re.escape(str(key))}:",
            other.read_text(encoding="utf-8", errors="replace"),
            re.M,
        )
    ]
    return f"; these files have it: {', '.join(known)}" if known else ""


def load_hparams(path, overrides=None):
    """Load a HyperPyYAML file, as :func:`explained` explains errors.

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

    Raises
    ------
    InputError
        If a file or key is unknown, a placeholder has no value, or a part
        cannot be built.

    Example
    -------
    >>> path = getfixture("tmp_path") / "run.yaml"
    >>> _ = path.write_text("n: 1\\nlayer: !new:torch.nn.Linear [!ref <n>, 2]")
    >>> load_hparams(path, {"n": 3})["layer"].in_features
    3
    >>> load_hparams(path, {"m": 3})
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...run.yaml has no key 'm' to override...
    """
    if isinstance(overrides, str):
        overrides = parse_overrides(overrides)
    with explained(path), open(path, encoding="utf-8") as stream:
        return load_hyperpyyaml(stream, overrides)


def resolved(path, overrides=None):
    """Read a HyperPyYAML file with its references, building nothing.

    Arguments
    ---------
    path : str or Path
        The file.
    overrides : dict, optional
        Keys to replace.

    Returns
    -------
    CommentedMap
        Key to node; what would be built has a tag.

    Raises
    ------
    InputError
        As :func:`load_hparams`.

    Example
    -------
    >>> path = getfixture("tmp_path") / "run.yaml"
    >>> _ = path.write_text("n: 1\\nm: !ref <n> + 2\\nlayer: !new:Layer [1]")
    >>> resolved(path, {"n": 3})["m"]
    5
    """
    with explained(path), open(path, encoding="utf-8") as stream:
        tree = _yaml().load(resolve_references(stream, overrides, True))
        if not isinstance(tree, CommentedMap):
            raise InputError(f"hparams file {path}: expected keys and values")
    return tree


def plain_values(tree):
    """Take from a tree what is there already, not what would be built.

    Arguments
    ---------
    tree : CommentedMap
        From :func:`resolved`.

    Returns
    -------
    dict
        Key to plain value.

    Example
    -------
    >>> tree = _yaml().load("a: 1\\nb: !new:Layer [1]\\nc: [!ref <b>]")
    >>> plain_values(tree)
    {'a': 1}
    """
    return {key: node for key, node in tree.items() if _is_plain(node)}


def _is_plain(node):
    if isinstance(node, dict):
        parts = node.values()
    else:
        parts = node if isinstance(node, list) else ()
    has_tag = getattr(getattr(node, "tag", None), "value", None)
    # Text in round brackets becomes a tuple.
    is_tuple = isinstance(node, str) and re.fullmatch(r"\(.*\)", node)
    return not has_tag and not is_tuple and all(map(_is_plain, parts))


def read_text(path):
    """Read a HyperPyYAML file without building anything.

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
        If it is missing, is not YAML, or holds no keys.

    Example
    -------
    >>> read_text("gone.yaml")
    Traceback (most recent call last):
    merit_modules.errors.InputError: hparams file gone.yaml: No such file ...
    """
    with explained(path):
        text = Path(path).read_text(encoding="utf-8")
        if not isinstance(_yaml().load(text), CommentedMap):
            raise InputError(f"hparams file {path}: expected keys and values")
    return text


def with_absolute_includes(text, folder):
    """Let ``!include:`` name the same files from wherever the text lies.

    Arguments
    ---------
    text : str
        HyperPyYAML.
    folder : str or Path
        Where the file lies that it comes from.

    Returns
    -------
    str
        The text with absolute paths.

    Example
    -------
    >>> with_absolute_includes("a: !include:b.yaml", "/there")
    'a: !include:/there/b.yaml'
    """
    folder = Path(folder).resolve()
    return re.sub(
        r"!include:(\S+)", lambda name: f"!include:{folder / name[1]}", text
    )


def _yaml():
    yaml = ruamel.yaml.YAML()
    yaml.width = 4096  # a folded !ref string would change its meaning
    return yaml


def parse_overrides(text, name="options"):
    """Read overrides as SpeechBrain's command line gives them.

    Arguments
    ---------
    text : str
        YAML.
    name : str
        What to call it in messages.

    Returns
    -------
    dict
        Key to value.

    Raises
    ------
    InputError
        If a key is given twice, or it is no YAML.

    Example
    -------
    >>> parse_overrides("{lr: 0.1}")["lr"]
    0.1
    """
    try:
        found = _yaml().load(text) or {}
    except DuplicateKeyError as error:
        told = error.problem.partition(" (")[0]
        raise InputError(f"{name}: {told}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"{name}: expected YAML, not {_bad_line(text)!r}: {error}"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{name}: expected keys and values, got {text!r}")
    return found


def _bad_line(text):
    """Find the option that is no YAML."""
    for line in text.splitlines():
        try:
            _yaml().load(line)
        except (YAMLError, ValueError, RecursionError):
            return line
    return text


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
    """List the top-level keys of a HyperPyYAML text.

    Arguments
    ---------
    text : str
        HyperPyYAML.

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

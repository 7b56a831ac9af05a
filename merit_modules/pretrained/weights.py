"""Weights: in files that must fit a module exactly; what identifies them."""

import hashlib
import platform

import safetensors
import safetensors.torch
import speechbrain
import torch
import torchaudio
import transformers

from merit_modules import __version__
from merit_modules.data.state import DamagedError
from merit_modules.errors import InputError

#: In a file's header: digests of the tensors and of the text that builds the
#: model. One entry, since the format writes several in any order.
_DIGESTS = "sha256"


def load_weights(module, path):
    """Load a safetensors file that must fit exactly.

    Arguments
    ---------
    module : torch.nn.Module
        Takes the weights.
    path : str or Path
        The file.

    Raises
    ------
    InputError
        If the file cannot be read; or listing each tensor that is missing,
        unknown or of another shape.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "w.safetensors"
    >>> layer = torch.nn.Linear(2, 3)
    >>> safetensors.torch.save_file(layer.state_dict(), path)
    >>> load_weights(torch.nn.Linear(2, 3), path)
    >>> load_weights(torch.nn.Linear(2, 3, bias=False), path)
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: does not fit: bias: not expected
    """
    weights = read_weights(path)
    check_fit(path, weights, module.state_dict())
    module.load_state_dict(weights)


def read_weights(path):
    """Read a safetensors file.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    dict
        Name to tensor.

    Raises
    ------
    InputError
        If it cannot be read, or is not what :func:`write_weights` wrote.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "w.safetensors"
    >>> safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    >>> read_weights(path)
    {'a': tensor([0., 0.])}
    """
    try:
        weights = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            stated, _ = digests_of(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if stated and stated != fingerprint(weights):
        raise DamagedError(f"{path}: damaged: it is not what was written")
    return weights


def digests_of(file):
    """Take the digests out of the header of an open safetensors file.

    Arguments
    ---------
    file : safetensors.safe_open
        The file.

    Returns
    -------
    tensors : str
        Of its tensors; empty if there is none.
    text : str
        Of the text that builds the model; empty if there is none.
    """
    stated = (file.metadata() or {}).get(_DIGESTS, "")
    tensors, _, text = stated.partition(" ")
    return tensors, text


def write_weights(path, weights, text_digest=""):
    """Write a safetensors file that says by a digest whether it is whole.

    Arguments
    ---------
    path : str or Path
        The file.
    weights : dict
        Name to tensor.
    text_digest : str
        Digest of the text that builds the model.

    Example
    -------
    >>> import torch
    >>> path = getfixture("tmp_path") / "w.safetensors"
    >>> write_weights(path, {"a": torch.zeros(2)})
    >>> content = path.read_bytes()
    >>> _ = path.write_bytes(content[:-1] + b"?")
    >>> read_weights(path)
    Traceback (most recent call last):
    merit_modules.data.state.DamagedError: ...w.safetensors: damaged: it is...
    """
    digests = {_DIGESTS: f"{fingerprint(weights)} {text_digest}".strip()}
    safetensors.torch.save_file(weights, path, metadata=digests)


def check_fit(path, found, expected):
    """Raise unless tensors are those of a module, and finite.

    Arguments
    ---------
    path : str or Path
        The file that the tensors came from.
    found : dict
        Name to tensor in it.
    expected : dict
        Name to tensor in the module.

    Raises
    ------
    InputError
        Listing all differences, or the tensors with NaN or infinite values.

    Example
    -------
    >>> import torch
    >>> check_fit("w.safetensors", {"a": torch.zeros(2)}, {})
    Traceback (most recent call last):
    merit_modules.errors.InputError: w.safetensors: does not fit: a: ...
    """
    problems = compare_shapes(found, expected)
    if problems:
        raise InputError(f"{path}: does not fit: " + "; ".join(problems))
    bad = [
        name
        for name, tensor in found.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise InputError(
            f"{path}: NaN or infinite weights: {', '.join(bad[:8])}"
        )


def compare_shapes(found, expected):
    """List how one set of tensors differs from another: names, shapes, kinds.

    Floats of any precision are of one kind: they are converted.

    Arguments
    ---------
    found : dict
        Name to tensor.
    expected : dict
        Name to tensor.

    Returns
    -------
    list of str
        One line per difference.

    Example
    -------
    >>> import torch
    >>> a, b = torch.zeros(2), torch.zeros(3)
    >>> compare_shapes({"v": a, "w": a}, {"v": b, "b": a})
    ['b: missing', 'v: expected (3,), got (2,)', 'w: not expected']
    """
    lines, both = [], (found, expected)
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            lines.append(f"{name}: missing")
        elif name not in expected:
            lines.append(f"{name}: not expected")
        elif found[name].shape != expected[name].shape:
            wanted, got = expected[name].shape, found[name].shape
            lines.append(f"{name}: expected {tuple(wanted)}, got {tuple(got)}")
        elif len({t[name].dtype.is_floating_point for t in both}) > 1:
            wanted, got = expected[name].dtype, found[name].dtype
            lines.append(f"{name}: expected {wanted}, got {got}")
    return lines


def fingerprint(weights):
    """Identify weights: the same for the same values, wherever they are.

    Arguments
    ---------
    weights : torch.nn.Module or dict
        A module, or its weights by name.

    Returns
    -------
    str
        SHA-256 over all parameters and buffers.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> before == fingerprint(layer)
    True
    >>> _ = layer.bias.data.add_(1)
    >>> before == fingerprint(layer)
    False
    """
    if isinstance(weights, torch.nn.Module):
        weights = weights.state_dict()
    else:  # a file has an order of its own
        weights = dict(sorted(weights.items()))
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        value = value.detach().cpu().contiguous().reshape(-1)
        digest.update(value.view(torch.uint8).numpy())
    return digest.hexdigest()


def versions():
    """Name the software that results depend on.

    Returns
    -------
    dict
        Package to version.

    Example
    -------
    >>> "torch" in versions()
    True
    """
    packages = (speechbrain, torch, torchaudio, transformers)
    found = {package.__name__: package.__version__ for package in packages}
    return {
        "python": platform.python_version(),
        "merit_modules": __version__,
        **found,
    }

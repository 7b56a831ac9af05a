"""Find the authors' files in a folder and read them without running pickles."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import snapshot_download

from merit_modules.errors import InputError
from merit_modules.files import is_on_hub, naming_source
from merit_modules.released.naming import ReleaseError
from merit_modules.released.parts import PARTS
from merit_modules.released.pickles import read_statistics
from merit_modules.released.wavlm import check_cfg

FINAL_FILES = {part: f"final_{part}.pt" for part in PARTS}
PRETRAINED_FILES = {
    "ssl": "WavLM-Large.pt",
    "pool": "pretrained_pool.pt",
    "ser": "pretrained_ser.pt",
    "se": "pretrained_se.pth.tar",
}
STATISTICS_FILE = "train_norm_stat.pkl"
CLEAN_STATISTICS_FILE = "clean_train_norm_stat.pkl"
LOSS_FILE = "final_loss.pt"
PRETRAINED_FOLDER = "pretrained_models"

_SE_PREFIX = "model_SE."
#: Weights pack badly: what becomes much larger is no model.
_MOST_EXPANSION = 20


class ReleasedPart(NamedTuple):
    """The tensors of one file.

    Arguments
    ---------
    path : Path
        The file.
    state : dict
        Released name to tensor, without the prefix.
    prefix : str
        What stands before every name in the file.
    """

    path: Path
    state: dict
    prefix: str = ""


class ReleaseFiles(NamedTuple):
    """Where the files of a release are.

    Arguments
    ---------
    parts : dict
        Released part to path.
    statistics : Path or None
        The pickled statistics of the noisy training set.
    clean_statistics : Path or None
        Those of the clean one.
    loss : Path or None
        What is known of the training.
    cfg : Path or None
        The file with the configuration of the SSL model.
    """

    parts: dict
    statistics: Path | None
    clean_statistics: Path | None
    loss: Path | None
    cfg: Path | None


def find_files(folder):
    """Find the files of a release.

    Arguments
    ---------
    folder : str or Path
        A trained model's folder (``final_*.pt``), a folder of pre-trained
        parts, or one that holds both, each in a sub-folder or not. The
        trained model's files win.

    Returns
    -------
    ReleaseFiles
        Where they are.

    Raises
    ------
    InputError
        If there are none, several trained models, or one that is not whole.

    Example
    -------
    >>> find_files(getfixture("tmp_path"))
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: expected final_ssl.pt ...
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder")
    model = _find_model(folder)
    pretrained = _find_pretrained(folder)
    cfg = pretrained.get("ssl")
    if model is None and not pretrained:
        raise InputError(
            f"{folder}: expected final_ssl.pt and its like (a trained model) "
            "or WavLM-Large.pt and its like (pre-trained parts), here or in a "
            "sub-folder; found neither"
        )
    if model is None:
        _require_both_of_ser(folder, pretrained)
        return ReleaseFiles(pretrained, None, None, None, cfg)
    paths = {part: model / name for part, name in FINAL_FILES.items()}
    needed = [*paths.values(), model / STATISTICS_FILE]
    missing = [f"{path}: missing" for path in needed if not path.is_file()]
    if missing:
        raise ReleaseError(missing)
    optional = [model / CLEAN_STATISTICS_FILE, model / LOSS_FILE]
    optional = [path if path.is_file() else None for path in optional]
    return ReleaseFiles(paths, needed[-1], *optional, cfg)


def _find_model(folder):
    def is_model(candidate):
        names = FINAL_FILES.values()
        return any((candidate / name).is_file() for name in names)

    if is_model(folder):
        return folder
    found = [path for path in sorted(folder.iterdir()) if is_model(path)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder}: holds several models: name one of {names}")
    return found[0] if found else None


def _find_pretrained(folder):
    found = {}
    for part, name in PRETRAINED_FILES.items():
        for path in (folder / name, folder / PRETRAINED_FOLDER / name):
            if path.is_file():
                found.setdefault(part, path)
    return found


def _require_both_of_ser(folder, paths):
    if ("pool" in paths) != ("ser" in paths):
        missing = PRETRAINED_FILES["pool" if "ser" in paths else "ser"]
        raise InputError(f"{folder}: {missing}: missing")


def read_torch_file(path):
    """Read a torch file that holds tensors and plain values only.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    object
        What it holds; tensors are on the CPU.

    Raises
    ------
    InputError
        If it cannot be read or would have to run code.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.pt"
    >>> torch.save({"a": torch.ones(2)}, path)
    >>> read_torch_file(path)
    {'a': tensor([1., 1.])}
    """
    try:
        # Mapped, so that the optimiser's state beside a model takes no memory.
        return torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(path) and _is_stored(path),
        )
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2]
        reason = reason.strip().split("\n")[0] or str(error).split("\n")[0]
        raise InputError(
            f"{path}: refused, for it is not tensors and plain values only: "
            f"{reason}"
        ) from error
    except Exception as error:  # a broken file may raise almost anything
        first = str(error).split("\n")[0]
        raise InputError(f"{path}: cannot be read: {first}") from error


def _is_stored(path):
    """Say whether a zip file's members are as they are; check their CRCs."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > _MOST_EXPANSION * max(2**20, Path(path).stat().st_size):
            raise InputError(
                f"{path}: refused: it would unpack to {size / 2**30:.1f} GiB"
            )
        try:
            # Who turns CRCs off in PyTorch writes none.
            bad = any(member.CRC for member in members) and archive.testzip()
        except (OSError, EOFError, ValueError, zlib.error) as error:
            bad = str(error)
        if bad:
            raise InputError(f"{path}: damaged: {bad}: its CRC is another one")
    return all(m.compress_type == zipfile.ZIP_STORED for m in members)


def read_part(part, path):
    """Read the tensors of one released file.

    Arguments
    ---------
    part : str
        ``ssl``, ``mmoe``, ``pool``, ``ser`` or ``se``.
    path : str or Path
        The file.

    Returns
    -------
    ReleasedPart
        Its tensors, in float32.

    Raises
    ------
    InputError
        If the file holds anything but tensors by name.

    Example
    -------
    >>> path = getfixture("tmp_path") / "final_ser.pt"
    >>> torch.save({"model": {"out.0.bias": torch.ones(4)}}, path)
    >>> read_part("ser", path).state
    {'out.0.bias': tensor([1., 1., 1., 1.])}
    """
    content = read_torch_file(path)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected tensors by name")
    prefix = ""
    if part == "se" and all(str(k).startswith(_SE_PREFIX) for k in content):
        prefix = _SE_PREFIX
    names = PARTS[part][0]
    state, problems = {}, []
    for name, tensor in content.items():
        key = names.canonical(str(name).removeprefix(prefix))
        if problem := _why_not_weight(tensor):
            problems.append(f"{path}: {name}: {problem}")
        elif key in state:
            problems.append(f"{path}: {name}: is there twice")
        else:
            state[key] = tensor.detach().float()
    if problems:
        raise ReleaseError(problems)
    return ReleasedPart(Path(path), state, prefix)


def _why_not_weight(tensor):
    if not isinstance(tensor, torch.Tensor):
        return f"expected a tensor, got a {type(tensor).__name__}"
    if tensor.layout != torch.strided or not tensor.is_floating_point():
        return f"expected real numbers, got {tensor.dtype}, {tensor.layout}"
    # A file of some bytes must not ask for a model of any size.
    if tensor.untyped_storage().nbytes() < tensor.nbytes:
        return f"claims the shape {tuple(tensor.shape)} with fewer numbers"
    return None


def _read_cfg(path):
    """Read the configuration beside the weights of an SSL model."""
    content = read_torch_file(path)
    cfg = content.get("cfg") if isinstance(content, dict) else None
    try:
        return check_cfg(cfg)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_all(files):
    """Read the files of a release, and tell all that is wrong with them.

    Arguments
    ---------
    files : ReleaseFiles
        From :func:`find_files`.

    Returns
    -------
    parts : dict
        Released part to :class:`ReleasedPart`.
    statistics : dict or None
        ``mean`` and ``std`` of the noisy training set and, if the release
        tells it, ``clean_mean`` of the clean one.
    training : dict
        Epoch and best loss, if the release tells.
    cfg : dict or None
        Configuration of the SSL model.

    Raises
    ------
    ReleaseError
        Naming every file that cannot be used.

    Example
    -------
    >>> path = getfixture("tmp_path") / "WavLM-Large.pt"
    >>> torch.save({"mask_emb": torch.ones(2)}, path)
    >>> parts, *rest = read_all(find_files(path.parent))
    >>> list(parts), rest
    (['ssl'], [None, {}, None])
    """
    problems = []

    def attempt(function, *args):
        try:
            return function(*args)
        except ReleaseError as error:
            problems.extend(error.lines)
        except InputError as error:
            problems.append(str(error))
        return None

    parts = {p: attempt(read_part, p, q) for p, q in files.parts.items()}
    statistics, training, cfg = None, {}, None
    if files.statistics is not None:
        found = attempt(read_statistics, files.statistics)
        statistics = dict(zip(("mean", "std"), found or ()))
    if files.clean_statistics is not None:
        found = attempt(read_statistics, files.clean_statistics)
        statistics["clean_mean"] = found and found[0]
    if files.loss is not None:
        training = attempt(_read_training, files.loss)
    if files.cfg is not None:
        cfg = attempt(_read_cfg, files.cfg)
    if problems:
        raise ReleaseError(problems)
    return parts, statistics, training, cfg


def _read_training(path):
    try:
        content = read_torch_file(path)
    except InputError as error:
        raise InputError(f"{error} (this file can be left out)") from error
    content = content if isinstance(content, dict) else {}
    told = {key: content.get(key) for key in ("epoch", "best_loss")}
    for key, value in told.items():
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            told[key] = value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{path}: {key}: expected a number, got {value!r}")
    return told


def local_folder(source):
    """Give the folder of a release, fetched from the hub where it must be.

    What was fetched before is taken from the hub's cache, also without a
    network. A local folder of that name goes before the hub.

    Arguments
    ---------
    source : str or Path
        A folder, or ``owner/name`` of a repository.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If it is neither, or cannot be fetched.

    Example
    -------
    >>> local_folder(getfixture("tmp_path")).is_dir()
    True
    >>> local_folder("/nowhere/at/all")
    Traceback (most recent call last):
    merit_modules.errors.InputError: /nowhere/at/all: expected the folder...
    """
    what = "the folder of a release"
    if not is_on_hub(source, what):
        return Path(source)
    with naming_source(source, what):
        return Path(snapshot_download(str(source)))

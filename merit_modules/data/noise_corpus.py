"""Split any folder of noise recordings into training, validation and unseen.

No recording is in two splits. Two files are one recording where a corpus's
names say so: the channels of a DEMAND environment, the takes of an ESC-50
clip, the pieces of a Freesound clip in the DNS Challenge.
"""

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from merit_modules.data.audio import probe_audio, read_audio
from merit_modules.data.manifest import DATA_ROOT, find_audio, write_manifest
from merit_modules.data.mixing import SILENCE_POWER, mean_power
from merit_modules.errors import InputError

logger = get_logger(__name__)

NOISE_SPLITS = ("train", "valid", "test_unseen")
MIN_DURATION_S = 0.1
MIN_RECORDINGS = len(NOISE_SPLITS)

_DEMAND = re.compile(r"ch\d\d")
_ESC50 = re.compile(r"(\d-\d+)-[A-Z]-(\d+)")
_FREESOUND_PIECE = re.compile(r"(.*_Freesound_.*\d)_\d+")


def prepare_noise_folder(
    noise_folder, manifest_folder, seed, train_share=0.8, valid_share=0.1
):
    """Write one manifest per split of a folder of noise.

    Every file is read once: silent, broken and very short ones are left out,
    each with a warning. The split depends on the seed and the files' names
    only, not on the order in which the disk lists them.

    Arguments
    ---------
    noise_folder : str or Path
        Audio of any rate at any depth; what ``{data_root}`` stands for.
    manifest_folder : str or Path
        Where ``noise_train.json``, ``noise_valid.json`` and
        ``noise_test_unseen.json`` go.
    seed : int
        Seed of the shuffle.
    train_share : float
        Share of the recordings for training.
    valid_share : float
        Share of the recordings for validation; the rest stays unseen.

    Returns
    -------
    splits : dict
        ``{split: {id: entry}}`` as written.

    Raises
    ------
    InputError
        If the folder is missing or empty, if a share leaves nothing to a
        split, or if fewer than three recordings are usable.

    Example
    -------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name in ("rain1", "rain2", "dog1", "dog2"):
    ...     wav = numpy.random.default_rng(0).normal(0, 0.1, 8000)
    ...     soundfile.write(folder / f"{name}.wav", wav, 16000)
    >>> splits = prepare_noise_folder(folder, folder / "manifests", seed=1)
    >>> {name: len(entries) for name, entries in splits.items()}
    {'train': 2, 'valid': 1, 'test_unseen': 1}
    >>> sorted({e["noise_type"] for e in splits["train"].values()})
    ['dog', 'rain']
    """
    if not (train_share > 0 < valid_share and train_share + valid_share < 1):
        raise InputError(
            "train_share, valid_share: expected shares above 0 that leave "
            f"something to test, got {train_share!r}, {valid_share!r}"
        )
    noise_folder = Path(noise_folder)
    entries = _usable_entries(noise_folder)
    recordings = _group_by_recording(entries)
    if len(recordings) < MIN_RECORDINGS:
        raise InputError(
            f"{noise_folder}: expected at least {MIN_RECORDINGS} usable noise "
            f"recordings, one per split; got {len(recordings)} (from "
            f"{len(entries)} usable files)"
        )
    splits = _split(recordings, seed, train_share, valid_share)
    for name, ids in splits.items():
        splits[name] = {item: entries[item] for item in ids}
        path = Path(manifest_folder) / f"noise_{name}.json"
        write_manifest(path, splits[name])
        logger.info(f"{path}: {len(ids)} noise files")
    return splits


def _usable_entries(noise_folder):
    """Return manifest entries of all files that can serve as noise."""
    files = find_audio(noise_folder, "noise recordings")
    names = [file.relative_to(noise_folder).as_posix() for file in files]
    # Decoding releases the interpreter lock; map keeps the order.
    with ThreadPoolExecutor(max_workers=4) as pool:
        durations = list(
            tqdm(
                pool.map(_usable_duration, files),
                total=len(files),
                desc="reading noise",
                dynamic_ncols=True,
            )
        )
    return {
        name: {
            "wav": f"{DATA_ROOT}/{name}",
            "duration": duration_s,
            "noise_type": _noise_type(name),
        }
        for name, duration_s in zip(names, durations, strict=True)
        if duration_s is not None
    }


def _usable_duration(path):
    """Return a file's length in seconds, or None (and warn) if unusable."""
    try:
        duration_s = probe_audio(path)[0]
        wav = read_audio(path, sample_rate_hz=None, min_samples=1)
    except InputError as error:
        logger.warning(f"noise left out: {error}")
        return None
    if duration_s < MIN_DURATION_S:
        logger.warning(
            f"noise left out: {path}: expected at least {MIN_DURATION_S} s, "
            f"got {duration_s:.3f} s"
        )
        return None
    if mean_power(wav) < SILENCE_POWER:
        logger.warning(
            f"noise left out: {path}: silent (mean power below -100 dBFS)"
        )
        return None
    return round(duration_s, 4)


def _noise_type(name):
    """Return what kind of noise a relative path speaks of."""
    path = Path(name)
    esc50 = _ESC50.fullmatch(path.stem)
    if esc50:
        return f"esc50_{esc50[2]}"
    if path.parent.name:
        return path.parent.name
    return re.match(r"[^\W\d_]*", path.stem)[0] or "noise"


def _recording(name):
    """Return a name shared by all files that were cut from one recording."""
    path = Path(name)
    if _DEMAND.fullmatch(path.stem):
        return path.parent.as_posix()
    pieces = _ESC50.fullmatch(path.stem) or _FREESOUND_PIECE.fullmatch(
        path.stem
    )
    if pieces:
        # ESC-50's first field is its fold, and clips keep to one fold.
        return (path.parent / pieces[1]).as_posix()
    return name


def _group_by_recording(entries):
    """Return ``{recording: [id]}``, sorted."""
    recordings = {}
    for item in sorted(entries):
        recordings.setdefault(_recording(item), []).append(item)
    return dict(sorted(recordings.items()))


def _split(recordings, seed, train_share, valid_share):
    """Return ``{split: sorted ids}``, at least one recording in each."""
    # Of Python's generator, only random() is promised never to change.
    generator = random.Random(int(seed))
    keys = {name: generator.random() for name in recordings}
    names = sorted(recordings, key=keys.get)
    n = len(names)
    n_train = min(max(round(n * train_share), 1), n - 2)
    n_valid = min(max(round(n * valid_share), 1), n - n_train - 1)
    parts = (
        names[:n_train],
        names[n_train : n_train + n_valid],
        names[n_train + n_valid :],
    )
    return {
        split: sorted(item for name in part for item in recordings[name])
        for split, part in zip(NOISE_SPLITS, parts, strict=True)
    }

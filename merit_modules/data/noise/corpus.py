"""Split any folder of noise recordings into training, validation and unseen.

No recording is in two splits, as far as the files' names tell (see
:mod:`merit_modules.data.noise.forms`). Several corpora at once:
:mod:`merit_modules.data.noise.corpora`.
"""

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from merit_modules.data.audio import probe_audio, read_audio
from merit_modules.data.findings import shared_cache
from merit_modules.data.manifest import DATA_ROOT, write_manifest
from merit_modules.data.mixing import SILENCE_POWER, mean_power
from merit_modules.data.noise.forms import guess_noise_type, guess_recording
from merit_modules.data.probing import open_cache, read_cache
from merit_modules.errors import InputError
from merit_modules.files import find_audio

logger = get_logger(__name__)

NOISE_SPLITS = ("train", "valid", "test_unseen")
MIN_DURATION_S = 0.1
MIN_RECORDINGS = len(NOISE_SPLITS)


def prepare_noise_folder(
    noise_folder,
    manifest_folder,
    seed,
    train_share=0.8,
    valid_share=0.1,
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
        Where ``noise_train.json``, ``noise_valid.json``,
        ``noise_test_unseen.json`` and ``noise_test_seen.json`` (the noise of
        training again) go.
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
    {'train': 2, 'valid': 1, 'test_unseen': 1, 'test_seen': 2}
    >>> sorted({e["noise_type"] for e in splits["train"].values()})
    ['dog', 'rain']
    """
    check_shares(train_share, valid_share)
    noise_folder = Path(noise_folder)
    entries = _usable_entries(noise_folder)
    recordings = {}
    for item in sorted(entries):
        recordings.setdefault(guess_recording(item), []).append(item)
    splits = split_recordings(
        recordings, seed, train_share, valid_share, noise_folder
    )
    splits["test_seen"] = splits["train"]
    for name, ids in splits.items():
        splits[name] = {item: entries[item] for item in ids}
        path = Path(manifest_folder) / f"noise_{name}.json"
        write_manifest(path, splits[name])
        logger.info(f"{path}: {len(ids)} noise files")
    return splits


def _usable_entries(noise_folder):
    """Return manifest entries of all files that can serve as noise."""
    files = {
        file.relative_to(noise_folder).as_posix(): file
        for file in find_audio(noise_folder, "noise recordings")
    }
    return {
        name: {
            "wav": f"{DATA_ROOT}/{name}",
            "duration": duration_s,
            "noise_type": guess_noise_type(name),
        }
        for name, duration_s in usable_durations(files).items()
    }


def usable_durations(files, cache_path=None, n_workers=4):
    """Read noise files whole: which can serve, and how long are they?

    Silent, broken and very short ones are left out, each with a warning.

    Arguments
    ---------
    files : dict
        ``{id: path}``.
    cache_path : str or Path, optional
        A text file that grows by a line for every usable file, so that a
        stopped run goes on and a second one reads nothing twice; by default
        one that all runs share. A line counts as long as path, size and time
        of change are the same. Not to be shared with ``probe_many``, which
        reads headers only.
    n_workers : int
        Threads that decode.

    Returns
    -------
    durations_s : dict
        ``{id: seconds}`` of the usable files, in the order of ``files``.

    Example
    -------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", numpy.full(4000, 0.1), 8000)
    >>> soundfile.write(folder / "b.wav", numpy.zeros(4000), 8000)
    >>> files = {"a": folder / "a.wav", "b": folder / "b.wav"}
    >>> usable_durations(files)
    {'a': 0.5}
    """
    cache_path = cache_path or shared_cache("noise", files.values())
    known = {} if cache_path is None else read_cache(cache_path)
    durations_s = {}
    # Decoding releases the interpreter lock; map keeps the order.
    with (
        open_cache(cache_path) as cache,
        ThreadPoolExecutor(n_workers) as pool,
    ):
        found = pool.map(
            lambda file: _duration_once(file, known), files.values()
        )
        for item, (duration_s, line) in tqdm(
            zip(files, found, strict=True),
            total=len(files),
            desc="reading noise",
            dynamic_ncols=True,
        ):
            if duration_s is not None:
                durations_s[item] = duration_s
            if line and cache:
                cache.write(line)
                cache.flush()
    return durations_s


def _duration_once(path, known):
    """Return what is known of a file, or read it: length and cache line."""
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
    except OSError as error:
        logger.warning(f"noise left out: {path}: {error.strerror}")
        return None, None
    key = [status.st_size, status.st_mtime_ns]
    *known_key, duration_s = known.get(path, (None,))
    if known_key == key:
        return duration_s, None
    duration_s = _usable_duration(path)
    if duration_s is None:
        return None, None  # not remembered: the warning is due every time
    return duration_s, json.dumps([path, *key, duration_s]) + "\n"


def _usable_duration(path):
    """Return a file's length in seconds, or None (and warn) if unusable."""
    try:
        duration_s = probe_audio(path)[0]
        wav = read_audio(path, None, min_samples=1, is_speech=False)
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


def check_shares(train_share, valid_share):
    """Raise unless both are shares that leave something to the test.

    Arguments
    ---------
    train_share : float
        Share for training.
    valid_share : float
        Share for validation.

    Raises
    ------
    InputError
        If they are not.

    Example
    -------
    >>> check_shares(0.8, 0.1)
    """
    if not (train_share > 0 < valid_share and train_share + valid_share < 1):
        raise InputError(
            "train_share, valid_share: expected shares above 0 that leave "
            f"something to test, got {train_share!r}, {valid_share!r}"
        )


def split_recordings(recordings, seed, train_share, valid_share, what):
    """Shuffle recordings into the splits, at least one into each.

    Arguments
    ---------
    recordings : dict
        ``{recording: [id of its files]}``; its order does not matter.
    seed : int
        Seed of the shuffle.
    train_share : float
        Share of the recordings for training.
    valid_share : float
        Share for validation; the rest stays unseen.
    what : str or Path
        Where they come from, for the error's message.

    Returns
    -------
    splits : dict
        ``{split: sorted ids}``.

    Raises
    ------
    InputError
        If there are fewer recordings than splits.

    Example
    -------
    >>> recordings = {"a": ["a1", "a2"], "b": ["b1"], "c": ["c1"]}
    >>> split_recordings(recordings, 1, 0.8, 0.1, "noise")
    {'train': ['a1', 'a2'], 'valid': ['c1'], 'test_unseen': ['b1']}
    """
    n = len(recordings)
    if n < MIN_RECORDINGS:
        raise InputError(
            f"{what}: expected at least {MIN_RECORDINGS} usable noise "
            f"recordings, one per split; got {n} (from "
            f"{sum(map(len, recordings.values()))} usable files)"
        )
    # Of Python's generator, only random() is promised never to change.
    generator = random.Random(int(seed))
    keys = {name: generator.random() for name in sorted(recordings)}
    names = sorted(keys, key=keys.get)
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

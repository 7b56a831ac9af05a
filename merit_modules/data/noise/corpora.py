"""Noise from several corpora at once: one set of manifests for all of them.

A corpus is trained on and tested on, each with recordings of its own, or is
kept for the test altogether. In YAML::

    noise_folder:
        dns: {folder: /corpora/DNS-Challenge, form: dns, weight: 2}
        musan: {folder: /corpora/musan, form: musan, parts: [noise]}
        crss: {folder: /corpora/CRSS-4ENGLISH-14, form: crss, use: test_only}
"""

import os
from pathlib import Path

from speechbrain.utils.logger import get_logger

from merit_modules.data.manifest import write_manifest
from merit_modules.data.noise.corpus import (
    NOISE_SPLITS,
    check_shares,
    prepare_noise_folder,
    split_recordings,
    usable_durations,
)
from merit_modules.data.noise.forms import find_noise
from merit_modules.data.noise.settings import check_corpora
from merit_modules.data.preparation import count_table, split_digest
from merit_modules.errors import InputError
from merit_modules.files import find_audio

logger = get_logger(__name__)


def prepare_noise(noise, manifest_folder, seed):
    """Write the noise manifests of one folder or of several corpora.

    Arguments
    ---------
    noise : str, Path or dict
        A folder, see :func:`prepare_noise_folder`, or corpora, see
        :func:`prepare_noise_corpora`.
    manifest_folder : str or Path
        Where the manifests go; their names are those of
        :func:`noise_manifests`.
    seed : int
        Seed of the splits.

    Returns
    -------
    manifests : dict
        ``{name without noise_: {id: entry}}`` as written.

    Example
    -------
    >>> prepare_noise("nowhere", "manifests", seed=1)
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: there is no such folder ...
    """
    prepare = (
        prepare_noise_corpora
        if isinstance(noise, dict)
        else prepare_noise_folder
    )
    return prepare(noise, manifest_folder, seed)


def noise_manifests(noise):
    """Name the manifests that :func:`prepare_noise` writes.

    Arguments
    ---------
    noise : str, Path or dict
        As there.

    Returns
    -------
    list of str
        Names without ``.json``.

    Example
    -------
    >>> noise_manifests("/corpora/noise")
    ['noise_train', 'noise_valid', 'noise_test_unseen', 'noise_test_seen']
    >>> crss = {"folder": "c", "form": "crss", "use": "test_only"}
    >>> dns = {"folder": "d", "form": "dns"}
    >>> noise_manifests({"dns": dns, "crss": crss})[2:]
    ['noise_test_unseen', 'noise_test_seen', 'noise_test_crss']
    """
    names = [*NOISE_SPLITS, "test_seen"]
    if isinstance(noise, dict):
        corpora = check_corpora(noise)
        names += [f"test_{name}" for name in corpora if corpora[name].test_only]
    return [f"noise_{name}" for name in names]


def noise_stamp(noise):
    """Describe noise by what tells whether it is still the same.

    Arguments
    ---------
    noise : str, Path or dict
        As for :func:`prepare_noise`.

    Returns
    -------
    stamp : dict
        Keys ``noise_folder`` and ``n_noise_files``, as JSON has them.

    Raises
    ------
    InputError
        If a folder is missing or empty.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> noise_stamp({"a": {"folder": folder, "form": "folder"}})
    {'noise_folder': {'a': {'folder': '...', 'form': 'folder',
                            'use': 'train_and_test',
                            'weight': None, 'parts': None}},
     'n_noise_files': 1}
    """
    if not isinstance(noise, dict):
        return {
            "noise_folder": str(Path(noise).resolve()),
            "n_noise_files": len(find_audio(noise, "noise recordings")),
        }
    corpora = check_corpora(noise)
    return {
        "noise_folder": {
            name: {
                **corpus._asdict(),
                "folder": str(Path(corpus.folder).resolve()),
            }
            for name, corpus in corpora.items()
        },
        "n_noise_files": sum(len(_find(n, c)) for n, c in corpora.items()),
    }


def prepare_noise_corpora(
    corpora,
    manifest_folder,
    seed,
    train_share=0.8,
    valid_share=0.1,
):
    """Write one set of noise manifests from several corpora.

    ======================  =================================================
    manifest                recordings
    ======================  =================================================
    ``noise_train``         of the training corpora: heard in training
    ``noise_valid``         of the training corpora: for validation alone
    ``noise_test_seen``     those of ``noise_train`` again
    ``noise_test_unseen``   of the training corpora: for the test alone
    ``noise_test_<name>``   all of the corpus ``name``, if it is
                            ``test_only``
    ======================  =================================================

    Each training corpus is split by itself, as :func:`prepare_noise_folder`
    splits a folder, so that another corpus beside it changes little. Clips
    that several corpora hold (Freesound's, by their number) stay together;
    those that a ``test_only`` corpus holds are kept from training and
    validation. Paths in the manifests are absolute, for corpora lie apart:
    the folder that stands for ``{data_root}`` does not matter.

    Arguments
    ---------
    corpora : dict
        ``{name: settings}``, settings being

        ``folder``
            Where the corpus lies.
        ``form``
            dns, freesound, crss, musan, esc50, demand or folder.
        ``use``
            train_and_test (default) or test_only.
        ``weight``
            How often the corpus is drawn, relative to the others. If no
            corpus has one, all files are drawn alike, large corpora more
            often; if one has, those without have 1.0.
        ``parts``
            Subfolders to use; of MUSAN, ``[noise]`` unless stated.
    manifest_folder : str or Path
        Where the manifests go.
    seed : int
        Seed of the splits.
    train_share : float
        Share of each corpus's recordings for training.
    valid_share : float
        Share for validation; the rest stays unseen.

    Returns
    -------
    manifests : dict
        ``{name without noise_: {id: entry}}`` as written. An id is the
        corpus's name and the file's path in it; entries hold ``wav``,
        ``duration`` (s), ``noise_type``, ``corpus`` and, with weights,
        ``weight``.

    Raises
    ------
    InputError
        If settings are wrong, a folder is missing, empty or not of its form,
        a file is in two corpora, no corpus is for training, or one that is
        has fewer than three usable recordings.

    Example
    -------
    >>> import numpy, soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a1", "a2", "a3", "b1"):
    ...     (folder / name[0]).mkdir(exist_ok=True)
    ...     wav = numpy.random.default_rng(0).normal(0, 0.1, 8000)
    ...     soundfile.write(folder / name[0] / f"{name}.wav", wav, 16000)
    >>> a = {"folder": folder / "a", "form": "folder"}
    >>> b = {"folder": folder / "b", "form": "crss", "use": "test_only"}
    >>> manifests = prepare_noise_corpora({"A": a, "B": b}, folder, seed=1)
    >>> {name: list(entries) for name, entries in manifests.items()}
    {'train': ['A/a1.wav'], 'valid': ['A/a3.wav'],
     'test_unseen': ['A/a2.wav'], 'test_seen': ['A/a1.wav'],
     'test_B': ['B/b1.wav']}
    """
    check_shares(train_share, valid_share)
    corpora = check_corpora(corpora)
    manifest_folder = Path(manifest_folder)
    entries, recordings = _usable(corpora)
    kept = {name for name, corpus in corpora.items() if corpus.test_only}
    owned, withheld = _owned(entries, recordings, kept)
    ids = {split: [] for split in NOISE_SPLITS}
    for name, corpus in sorted(corpora.items()):
        if name in kept:
            continue
        splits = split_recordings(
            owned.get(name, {}),
            seed,
            train_share,
            valid_share,
            f"noise corpus {name!r} ({corpus.folder}), without what other "
            "corpora hold",
        )
        for split, items in splits.items():
            ids[split] += items
    ids["test_unseen"] += withheld
    ids["test_seen"] = ids["train"]
    for name in corpora:
        if name in kept:
            ids[f"test_{name}"] = [
                item for item, e in entries.items() if e["corpus"] == name
            ]
    manifests = {
        split: {item: entries[item] for item in sorted(items)}
        for split, items in ids.items()
    }
    _write(manifest_folder, manifests, corpora)
    return manifests


def _find(name, corpus):
    try:
        return find_noise(corpus.folder, corpus.form, corpus.parts)
    except InputError as error:
        raise InputError(f"noise corpus {name!r}: {error}") from None


def _usable(corpora):
    """Return ``{id: entry}`` and ``{id: recording}`` of what can serve."""
    files, origins = {}, {}
    for name, corpus in corpora.items():
        for file, (path, origin) in _find(name, corpus).items():
            files[f"{name}/{file}"] = Path(os.path.abspath(path))
            origins[f"{name}/{file}"] = name, origin
    _check_distinct(files)
    weighted = any(corpus.weight for corpus in corpora.values())
    entries, recordings = {}, {}
    for item, duration_s in usable_durations(files).items():
        name, origin = origins[item]
        entries[item] = {
            "wav": str(files[item]),
            "duration": duration_s,
            "noise_type": origin.noise_type,
            "corpus": name,
        }
        if weighted and not corpora[name].test_only:
            entries[item]["weight"] = float(corpora[name].weight or 1.0)
        recordings[item] = origin.clip or f"{name}/{origin.recording}"
    return entries, recordings


def _check_distinct(files):
    """Raise if one file, perhaps by way of a link, is there twice."""
    seen = {}
    for item, path in files.items():
        other = seen.setdefault(os.path.realpath(path), item)
        if other != item:
            raise InputError(
                f"{path}: expected a noise file in one place of one corpus, "
                f"got it as {other!r} and as {item!r}"
            )


def _owned(entries, recordings, kept):
    """Give each recording to one training corpus, the first that holds it.

    Returns ``{corpus: {recording: [id]}}``, and the ids in training corpora
    of recordings that a corpus kept for the test holds, too.
    """
    held = {r for i, r in recordings.items() if entries[i]["corpus"] in kept}
    owned, owners, withheld = {}, {}, []
    for item in sorted(entries):
        corpus, recording = entries[item]["corpus"], recordings[item]
        if corpus in kept:
            continue
        if recording in held:
            withheld.append(item)
            continue
        owner = owners.setdefault(recording, corpus)
        owned.setdefault(owner, {}).setdefault(recording, []).append(item)
    if withheld:
        logger.info(
            f"{len(withheld)} noise files of training corpora are kept for "
            "the test: a test_only corpus holds the same recordings"
        )
    return owned, withheld


def _write(folder, manifests, corpora):
    """Write the manifests; log what is in them."""
    counts = {name: dict.fromkeys(manifests, 0) for name in corpora}
    for split, entries in manifests.items():
        for entry in entries.values():
            counts[entry["corpus"]][split] += 1
        path = folder / f"noise_{split}.json"
        write_manifest(path, entries)
        hours = sum(entry["duration"] for entry in entries.values()) / 3600
        logger.info(f"{path}: {hours:.2f} h, digest {split_digest(entries)}")
    logger.info("noise files\n" + count_table(counts))

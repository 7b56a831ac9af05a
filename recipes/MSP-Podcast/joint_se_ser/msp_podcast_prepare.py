"""Make manifests of MSP-Podcast (releases 1.10 to 2.0) and noise.

A release is a folder such as ``MSP-PODCAST-Publish-1.11`` with the recordings
in ``Audios`` and the annotations in ``Labels``. Access by request to the MSP
lab: https://lab-msp.com/MSP/MSP-Podcast.html

R. Lotfian and C. Busso, "Building naturalistic emotionally balanced speech
corpus by retrieving emotional speech from existing podcast recordings", IEEE
Transactions on Affective Computing, 2019.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

from collections import Counter
from pathlib import Path

from msp_podcast_classes import LABELS, classes_of, label_of
from msp_podcast_labels import SPLITS, UNKNOWN_SPEAKER, read_labels
from msp_podcast_release import find_release, log_counts
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.manifest import DATA_ROOT
from merit_modules.data.noise.corpora import (
    noise_manifests,
    noise_stamp,
    prepare_noise,
)
from merit_modules.data.preparation import (
    check_disjoint,
    is_prepared,
    probe_many,
    remove_stamp,
    split_digest,
    write_manifests,
)
from merit_modules.data.text import key, spellings
from merit_modules.errors import InputError

logger = get_logger(__name__)


def prepare_msp_podcast(
    data_folder,
    noise_folder,
    manifest_folder,
    label_set="four",
    labels="consensus",
    label_file=None,
    test_sets=("test1", "test2"),
    seed=1234,
    skip_missing=False,
    skip_broken=False,
    skip_prep=False,
):
    """Write speech and noise manifests of a release.

    The partitions are the release's own: ``train.json``, ``valid.json``
    (Development), ``test1.json``, ``test2.json`` and, where its labels are
    public, ``test3.json``. All of them hold the chosen classes only. Entries
    hold ``wav``, ``duration``, ``emo``, ``spk_id``, the attributes ``act``,
    ``val`` and ``dom`` (1 to 7) as far as the label file has them, and
    ``emo_probs`` with soft labels. Of the recordings, headers are read.

    Nothing is done if the manifests are there already and were made from the
    same label file and folders with the same arguments.

    Arguments
    ---------
    data_folder : str or Path
        The release, with ``Audios`` (or ``Audio``) and ``Labels`` (or
        ``labels``) in it; what ``{data_root}`` stands for.
    noise_folder : str, Path or dict
        Any folder of noise (what ``{data_root}`` stands for in the noise
        manifests), or several corpora; see
        :mod:`merit_modules.data.noise.corpora`.
    manifest_folder : str or Path
        Where the manifests go.
    label_set : str
        ``four`` or ``eight`` classes, see :func:`classes_of`.
    labels : str
        ``consensus``: turns whose consensus is one of the classes. ``soft``:
        turns with any vote for one of them; ``emo_probs`` are the shares of
        the classes, in their order and summing to 1, and ``emo`` is the
        largest.
    label_file : str or Path, optional
        By default ``labels_consensus.csv``, else ``.json``. A relative path
        is one in ``data_folder``.
    test_sets : list of str
        Those that will be tested on: none of them may be empty.
    seed : int
        Seed of the noise split.
    skip_missing : bool
        Go on, with a warning, without turns that have no recording.
    skip_broken : bool
        Likewise without turns whose recording cannot be read.
    skip_prep : bool
        Do nothing: the manifests are known to be right.

    Raises
    ------
    InputError
        If a folder or file is missing, an option is unknown, labels cannot
        be read (see :func:`msp_podcast_labels.read_labels`), recordings are
        missing or broken (up to ten are named), or a split is empty.

    Example
    -------
    >>> prepare_msp_podcast("nowhere", "noise", "manifests")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: there is no such folder ...
    """
    if skip_prep:
        return
    classes = classes_of(label_set)
    if labels not in LABELS:
        raise InputError(
            f"labels: expected one of {', '.join(LABELS)}, got {labels!r}"
        )
    release = find_release(data_folder, label_file)
    stamp = {
        "release": release.name,
        "label_file": str(release.label_file.resolve()),
        "label_sha256": release.label_sha256,
        "audio_folder": str(release.audio_folder.resolve()),
        "n_recordings": len(release.recordings),
        **noise_stamp(noise_folder),
        "label_set": label_set,
        "labels": labels,
        "seed": seed,
        "skip_missing": skip_missing,
        "skip_broken": skip_broken,
    }
    names = ["train", "valid", *test_sets]
    names += noise_manifests(noise_folder)
    if is_prepared(manifest_folder, names, stamp):
        logger.info(f"{manifest_folder}: manifests are up to date")
        return
    manifest_folder = Path(manifest_folder)
    remove_stamp(manifest_folder)
    splits = _labelled(release, classes, labels)
    _leave_out_missing(splits, release, skip_missing)
    splits = _with_durations(splits, release, skip_broken)
    _check_splits(splits, release, test_sets)
    prepare_noise(noise_folder, manifest_folder, seed)
    for split in set(SPLITS.values()) - set(splits):
        # One of other labels would be read as one of these.
        (manifest_folder / f"{split}.json").unlink(missing_ok=True)
    write_manifests(manifest_folder, splits, stamp)
    for split, entries in splits.items():
        logger.info(f"{split}: {_summary(entries)}")


def _labelled(release, classes, labels):
    """Return ``{split: {file name: entry}}`` of the turns of the classes."""
    form, turns = read_labels(release.label_file)
    logger.info(f"{release.label_file}: {form} form, {len(turns)} turns")
    if labels == "soft" and form != "soft":
        raise InputError(
            f"{release.label_file}: labels: soft needs shares of votes in "
            "columns named by the classes, this file is of the "
            f"{form} form; name another one by label_file"
        )
    splits, counts, left_out = {}, {}, Counter()
    # By name: the order of the rows must not matter.
    for turn in sorted(turns, key=lambda turn: turn.name):
        label = label_of(turn, classes, labels)
        count = counts.setdefault(turn.split, Counter())
        count["all turns"] += 1
        if not label:
            left_out[turn.emotion or "hidden"] += 1
            continue
        count[label["emo"]] += 1
        splits.setdefault(turn.split, {})[turn.name] = {
            "emo": label["emo"],
            "spk_id": turn.speaker,
            **turn.attributes,
            **label,
        }
    columns = [*classes, "all turns"]
    log_counts(
        release,
        {
            split: {column: counts[split][column] for column in columns}
            for split in SPLITS.values()
            if split in counts
        },
    )
    if left_out:
        found = [f"{n} {emotion}" for emotion, n in sorted(left_out.items())]
        logger.info(f"left out, not among the classes: {', '.join(found)}")
    return splits


def _leave_out_missing(splits, release, skip_missing):
    _as_on_disk(splits, release)
    missing = {
        name: f"{release.audio_folder / name}: there is no such audio file"
        for entries in splits.values()
        for name in entries
        if name not in release.recordings
    }
    _leave_out(splits, missing, skip_missing, "skip_missing")


def _as_on_disk(splits, release):
    """Take the names that recordings have, where the labels spell otherwise."""
    names = {name for entries in splits.values() for name in entries}
    if names <= release.recordings:
        return
    spelt = spellings(release.recordings)
    for split, entries in splits.items():
        renamed = {}
        for name, entry in entries.items():
            found = spelt.get(key(name), ())
            if name not in release.recordings and len(found) == 1:
                name = found[0]
            renamed[name] = entry
        splits[split] = renamed


def _with_durations(splits, release, skip_broken):
    """Return ``{split: {id: entry}}``, now with wav and duration."""
    files = {
        name: release.audio_folder / name
        for entries in splits.values()
        for name in entries
    }
    durations_s, problems = probe_many(files)
    _leave_out(splits, problems, skip_broken, "skip_broken_audio")
    folder = f"{DATA_ROOT}/{release.audio_folder.name}"
    return {
        split: {
            name.removesuffix(".wav"): {
                "wav": f"{folder}/{name}",
                "duration": durations_s[name],
                **splits[split][name],
            }
            for name in splits[split]
        }
        for split in SPLITS.values()
        if splits.get(split)
    }


def _leave_out(splits, problems, skip, option):
    """Drop turns with a warning, or raise what is wrong with them."""
    try:
        raise_if_broken(problems, "recordings that the labels name")
    except InputError as error:
        if not skip:
            raise InputError(
                f"{error}\n--{option} True goes on without them"
            ) from None
        logger.warning(f"left out: {error}")
    for entries in splits.values():
        for name in problems.keys() & entries.keys():
            del entries[name]


def _check_splits(splits, release, test_sets):
    for split in ("train", "valid", *test_sets):
        # Other names are manifests of the user's own.
        if split in SPLITS.values() and split not in splits:
            raise InputError(
                f"{release.label_file}: no utterance for {split}; there are "
                f"labels and recordings for {', '.join(splits) or 'no split'}"
            )
    tests = [splits[name] for name in splits if name.startswith("test")]
    try:
        check_disjoint(
            {
                "train": splits["train"],
                "valid": splits["valid"],
                "test": {k: v for test in tests for k, v in test.items()},
            },
            allow=(UNKNOWN_SPEAKER,),
        )
    except InputError as error:
        # The partitions are the release's own: tell, do not mend.
        logger.warning(f"{release.label_file}: {error}")


def _summary(entries):
    hours = sum(entry["duration"] for entry in entries.values()) / 3600
    speakers = Counter(entry["spk_id"] for entry in entries.values())
    unknown = speakers.pop(UNKNOWN_SPEAKER, 0)
    return (
        f"{len(entries)} utterances, {hours:.1f} h, {len(speakers)} speakers "
        f"and {unknown} utterances of unknown ones, "
        f"digest {split_digest(entries)}"
    )

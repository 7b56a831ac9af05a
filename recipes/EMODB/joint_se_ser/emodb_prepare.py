"""Make manifests of EMO-DB (Berlin Database of Emotional Speech) and noise.

EMO-DB holds 535 utterances of 10 actors, 16 kHz mono, in one folder ``wav``.
A name such as ``03a01Wa.wav`` is speaker 03, text a01, emotion W (Wut, anger)
and take a. Download: http://emodb.bilderbar.info/download/

F. Burkhardt, A. Paeschke, M. Rolfes, W. Sendlmeier and B. Weiss, "A database
of German emotional speech", Interspeech 2005.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import re
from collections import Counter
from pathlib import Path

from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.manifest import DATA_ROOT
from merit_modules.data.noise.corpora import (
    noise_manifests,
    noise_stamp,
    prepare_noise,
)
from merit_modules.data.preparation import (
    STAMP,
    check_disjoint,
    count_table,
    is_prepared,
    probe_many,
    remove_stamp,
    split_digest,
    write_manifests,
)
from merit_modules.errors import InputError
from merit_modules.files import find_audio

logger = get_logger(__name__)

# What the sixth letter of a name means.
EMOTIONS = {
    "W": "angry",
    "T": "sad",
    "F": "happy",
    "N": "neutral",
    "A": "fear",
    "E": "disgust",
    "L": "boredom",
}
CLASSES = ("angry", "sad", "happy", "neutral")
MEN = ("03", "10", "11", "12", "15")
WOMEN = ("08", "09", "13", "14", "16")
N_FOLDS = 5
SPLITS = ("train", "valid", "test")
# Utterances in the whole corpus.
KNOWN_COUNTS = {
    "angry": 127,
    "sad": 62,
    "happy": 71,
    "neutral": 79,
    "fear": 69,
    "disgust": 46,
    "boredom": 81,
}

_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z]?)")


def prepare_emodb(
    data_folder,
    noise_folder,
    manifest_folder,
    fold=0,
    seed=1234,
    classes=CLASSES,
    skip_prep=False,
):
    """Write speech and noise manifests of one speaker-independent fold.

    Nothing is done if the manifests are there already and were made from the
    same folders with the same arguments.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds ``wav/``, or the wav folder itself. It is what
        ``{data_root}`` stands for in the speech manifests.
    noise_folder : str, Path or dict
        Any folder of noise (what ``{data_root}`` stands for in the noise
        manifests), or several corpora; see
        :mod:`merit_modules.data.noise.corpora`.
    manifest_folder : str or Path
        Where ``train.json``, ``valid.json``, ``test.json`` and the three
        noise manifests go.
    fold : int
        0 to 4. Fold f tests on the man and the woman number f, validates on
        those after them and trains on the six others.
    seed : int
        Seed of the noise split.
    classes : list of str
        Emotions to keep, out of the values of ``EMOTIONS``.
    skip_prep : bool
        Do nothing: the manifests are known to be right.

    Raises
    ------
    InputError
        If a folder is missing or empty, an argument is out of range, a file's
        name is not EMO-DB's, audio cannot be read (all such files are
        listed), or a split has no utterance.

    Example
    -------
    >>> prepare_emodb("nowhere", "noise", "manifests", fold=0)
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: there is no such folder ...
    """
    if skip_prep:
        return
    split_of = speakers_of_fold(fold)
    unknown = sorted(set(classes) - set(EMOTIONS.values()))
    if unknown:
        raise InputError(
            f"classes: expected emotions out of "
            f"{', '.join(EMOTIONS.values())}, got {unknown[0]!r}"
        )
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    files = _find_speech(data_folder)
    stamp = {
        "data_folder": str(data_folder.resolve()),
        "n_files": len(files),
        **noise_stamp(noise_folder),
        "fold": fold,
        "seed": seed,
        "classes": list(classes),
    }
    names = [*SPLITS, *noise_manifests(noise_folder)]
    if is_prepared(manifest_folder, names, stamp):
        logger.info(f"{manifest_folder / STAMP}: the manifests are up to date")
        return
    remove_stamp(manifest_folder)
    splits = _speech_splits(data_folder, files, split_of, classes)
    prepare_noise(noise_folder, manifest_folder, seed)
    write_manifests(manifest_folder, splits, stamp)
    _report(splits, classes)


def speakers_of_fold(fold):
    """Assign the ten speakers to the splits of a fold.

    Arguments
    ---------
    fold : int
        0 to 4.

    Returns
    -------
    split_of : dict
        ``{speaker: split}``: a man and a woman in each of valid and test.

    Raises
    ------
    InputError
        If there is no such fold.

    Example
    -------
    >>> split_of = speakers_of_fold(4)
    >>> [s for s in split_of if split_of[s] == "test"]
    ['15', '16']
    >>> [s for s in split_of if split_of[s] == "valid"]
    ['03', '08']
    """
    if type(fold) is not int or fold not in range(N_FOLDS):
        raise InputError(
            f"fold: expected a whole number from 0 to {N_FOLDS - 1}, "
            f"got {fold!r}"
        )
    split_of = dict.fromkeys(sorted(MEN + WOMEN), "train")
    for speakers in (MEN, WOMEN):
        split_of[speakers[fold]] = "test"
        split_of[speakers[(fold + 1) % N_FOLDS]] = "valid"
    return split_of


def parse_name(path):
    """Read speaker and emotion from a file's name.

    Arguments
    ---------
    path : str or Path
        A file of EMO-DB.

    Returns
    -------
    speaker : str
        Two digits.
    emotion : str
        A value of ``EMOTIONS``.

    Raises
    ------
    InputError
        If the name is not of EMO-DB's form.

    Example
    -------
    >>> parse_name("wav/16b10Td.wav")
    ('16', 'sad')
    """
    path = Path(path)
    parts = _NAME.fullmatch(path.stem)
    if not parts:
        raise InputError(
            f"{path}: expected an EMO-DB name such as 03a01Wa (speaker, "
            f"text, emotion, take), got {path.stem!r}"
        )
    speaker, letter = parts[1], parts[3]
    if letter not in EMOTIONS:
        raise InputError(
            f"{path}: unknown emotion letter {letter!r}, expected one of "
            f"{', '.join(EMOTIONS)}"
        )
    if speaker not in MEN + WOMEN:
        raise InputError(
            f"{path}: unknown speaker {speaker!r}, expected one of "
            f"{', '.join(sorted(MEN + WOMEN))}"
        )
    return speaker, EMOTIONS[letter]


def _find_speech(data_folder):
    """Return the sorted audio files of either form of the folder."""
    wav_folder = data_folder / "wav"
    if not wav_folder.is_dir():
        wav_folder = data_folder
    return find_audio(wav_folder, "EMO-DB recordings, in it or in its wav/")


def _speech_splits(data_folder, files, split_of, classes):
    """Return ``{split: {id: entry}}`` from names and headers."""
    wanted = _wanted(files, classes)
    durations_s, problems = probe_many(wanted)
    raise_if_broken(problems, "EMO-DB recordings")
    splits = {split: {} for split in SPLITS}
    for item, path in wanted.items():
        speaker, emotion = parse_name(path)
        splits[split_of[speaker]][item] = {
            "wav": f"{DATA_ROOT}/{path.relative_to(data_folder).as_posix()}",
            "duration": durations_s[item],
            "emo": emotion,
            "spk_id": speaker,
        }
    for split, entries in splits.items():
        if not entries:
            speakers = sorted(s for s in split_of if split_of[s] == split)
            raise InputError(
                f"{data_folder}: no utterance for {split}: expected speakers "
                f"{', '.join(speakers)} with {', '.join(classes)}"
            )
    check_disjoint(splits)
    return splits


def _wanted(files, classes):
    """Return ``{id: path}`` of the recordings in the classes."""
    wanted, left_out = {}, Counter()
    for path in files:
        emotion = parse_name(path)[1]
        if emotion not in classes:
            left_out[emotion] += 1
        elif path.stem in wanted:
            raise InputError(f"{path}: a recording of this name came before")
        else:
            wanted[path.stem] = path
    counts = [f"{n} {emotion}" for emotion, n in sorted(left_out.items())]
    if counts:
        logger.info(f"left out, not among the classes: {', '.join(counts)}")
    return wanted


def _report(splits, classes):
    """Log counts, speakers and a digest per split, and what is missing."""
    rows = {}
    for split, entries in splits.items():
        counts = Counter(entry["emo"] for entry in entries.values())
        seconds = sum(entry["duration"] for entry in entries.values())
        speakers = sorted({entry["spk_id"] for entry in entries.values()})
        rows[split] = {name: counts[name] for name in classes} | {
            "total": len(entries),
            "minutes": f"{seconds / 60:.1f}",
            "speakers": " ".join(speakers),
            "digest": split_digest(entries),
        }
    logger.info(f"EMO-DB utterances\n{count_table(rows)}")
    found = {name: sum(row[name] for row in rows.values()) for name in classes}
    known = {name: KNOWN_COUNTS[name] for name in classes}
    if found != known:
        table = count_table({"found": found}, {"found": known})
        logger.warning(
            f"{sum(found.values())} utterances of the classes, EMO-DB has "
            f"{sum(known.values())}\n{table}"
        )

"""Where a release of MSP-Podcast keeps its parts, and how large it is known.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from speechbrain.utils.logger import get_logger

from merit_modules.data.preparation import count_table
from merit_modules.errors import InputError

logger = get_logger(__name__)

AUDIO_FOLDERS = ("Audios", "Audio")
LABEL_FOLDERS = ("Labels", "labels")
LABEL_FILES = ("labels_consensus.csv", "labels_consensus.json")
# Speaking turns by version, whatever their class. The labels of Test3 are
# not public: its turns are among the recordings only.
KNOWN_TURNS = {
    "1.11": {
        "train": 84030,
        "valid": 19815,
        "test1": 30647,
        "test2": 14815,
        "recordings": 151654,
    }
}


class Release(NamedTuple):
    """The parts of a release on the disk.

    Arguments
    ---------
    name : str
        The folder's name, such as ``MSP-PODCAST-Publish-1.11``.
    audio_folder : Path
        Where the recordings lie, all of them side by side.
    label_file : Path
        The labels to read.
    label_sha256 : str
        Hash of that file: releases move and remove turns.
    recordings : frozenset of str
        File names in ``audio_folder``.

    Example
    -------
    >>> release = Release("1.11", Path("Audios"), Path("l.csv"), "", set())
    >>> release.audio_folder.name
    'Audios'
    """

    name: str
    audio_folder: Path
    label_file: Path
    label_sha256: str
    recordings: frozenset


def find_release(data_folder, label_file=None):
    """Find recordings and labels in the folder of a release.

    Arguments
    ---------
    data_folder : str or Path
        Folder with ``Audios`` (or ``Audio``) and ``Labels`` (or ``labels``).
    label_file : str or Path, optional
        By default ``labels_consensus.csv``, else ``.json``. A relative path
        is one in ``data_folder``.

    Returns
    -------
    Release
        What was found.

    Raises
    ------
    InputError
        Naming what is missing, and what is there instead.

    Example
    -------
    >>> find_release("nowhere")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: there is no such folder ...
    """
    data_folder = Path(data_folder)
    if not data_folder.is_dir():
        raise InputError(
            f"{data_folder}: there is no such folder (MSP-Podcast, a release)"
        )
    audio_folder = _first_of(data_folder, AUDIO_FOLDERS)
    if label_file is None:
        folder = _first_of(data_folder, LABEL_FOLDERS)
        label_file = _first_of(folder, LABEL_FILES)
    label_file = data_folder / label_file
    if not label_file.is_file():
        raise InputError(f"label_file: there is no file {label_file}")
    return Release(
        data_folder.resolve().name,
        audio_folder,
        label_file,
        hashlib.sha256(label_file.read_bytes()).hexdigest(),
        # One listing: asking for 150,000 files one by one takes minutes on
        # a network drive.
        frozenset(os.listdir(audio_folder)),
    )


def _first_of(folder, names):
    for name in names:
        if (folder / name).exists():
            # Absolute only if the folder is: "data_root" is put before it.
            return folder / name
    raise InputError(
        f"{folder}: expected {' or '.join(names)} in it (MSP-Podcast, a "
        f"release); it holds "
        f"{', '.join(sorted(os.listdir(folder))[:10]) or 'nothing'}"
    )


def known_turns(name):
    """Return what is known of the size of a release.

    Arguments
    ---------
    name : str
        The release's name.

    Returns
    -------
    dict
        ``{split: turns}``, ``recordings`` among the splits; empty if the
        name holds no version of which something is known.

    Example
    -------
    >>> known_turns("MSP-PODCAST-Publish-1.11")["test2"]
    14815
    >>> known_turns("MSP-PODCAST-Publish-1.110"), known_turns("podcasts")
    ({}, {})
    """
    version = re.search(r"(?<![\d.])\d+\.\d+(?![\d.])", name)
    return KNOWN_TURNS.get(version[0], {}) if version else {}


def log_counts(release, counts):
    """Log counts beside those known of the release; warn where they differ.

    Arguments
    ---------
    release : Release
        Its name says what is known.
    counts : dict
        ``{split: {column: count}}``; the column ``all turns`` is compared.

    Example
    -------
    >>> release = Release("mine", Path("."), Path("."), "", frozenset("ab"))
    >>> log_counts(release, {"train": {"sad": 1, "all turns": 2}})
    """
    n_recordings = sum(not name.startswith(".") for name in release.recordings)
    turns = {split: row["all turns"] for split, row in counts.items()}
    known = known_turns(release.name)
    beside = {
        split: {"all turns": n}
        for split, n in known.items()
        if split != "recordings"
    }
    logger.info(
        f"{release.name}: {n_recordings} recordings\n"
        f"{count_table(counts, beside)}"
    )
    for row, n in known.items():
        found = {**turns, "recordings": n_recordings}.get(row, 0)
        if found != n:
            logger.warning(
                f"{row}: {found} found, {n} are known of {release.name}"
            )

"""Read IEMOCAP's evaluation files: turn names, emotion codes, label sets.

A line such as ``[6.12 - 8.44] Ses01F_impro01_F000 neu [2.5, 2.5, 2.5]`` labels
one turn with the emotion that most annotators chose; ``xxx`` means that no
majority was found. Three ways of making four classes of the codes are in use,
and their results cannot be compared: see ``LABEL_SETS``.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import re
from pathlib import Path
from typing import NamedTuple

from merit_modules.errors import InputError

RELEASE = "IEMOCAP_full_release"
SESSIONS = (1, 2, 3, 4, 5)
CLASSES = ("angry", "sad", "happy", "neutral")
CODES = "ang hap sad neu exc fru fea sur dis oth xxx".split()

_COMMON = {"ang": "angry", "sad": "sad", "neu": "neutral"}
# Emotion code to class; a turn of any other code is dropped.
LABEL_SETS = {
    "exc_merged": {**_COMMON, "hap": "happy", "exc": "happy"},
    "exc_replaces_hap": {**_COMMON, "exc": "happy"},
    "exc_dropped": {**_COMMON, "hap": "happy"},
}

# Turns per session and code in the full release.
KNOWN = {
    1: {"ang": 229, "hap": 135, "exc": 143, "sad": 194, "neu": 384},
    2: {"ang": 137, "hap": 117, "exc": 210, "sad": 197, "neu": 362},
    3: {"ang": 240, "hap": 135, "exc": 151, "sad": 305, "neu": 320},
    4: {"ang": 327, "hap": 65, "exc": 238, "sad": 143, "neu": 258},
    5: {"ang": 170, "hap": 143, "exc": 299, "sad": 245, "neu": 384},
}

# The dialogue's own F or M says who wore the markers. The speaker is the
# letter of the last part.
_TURN = re.compile(r"(Ses0([1-5])[FM]_\w+)_([FM])[0-9A-Za-z]+", re.ASCII)
_LABEL = re.compile(
    r"\[[\d.]+ *- *[\d.]+\]\s+(\S+)\s+(\S+)\s+\[[\d., ]*\]", re.ASCII
)
_LABEL_FORM = "[START - END] TURN_NAME EMOTION [V, A, D]"


class Turn(NamedTuple):
    """One labelled turn.

    Arguments
    ---------
    name : str
        Such as ``Ses01F_impro05a_M003``; unique in the corpus.
    session : int
        1 to 5.
    speaker : str
        Session and sex of who speaks, such as ``Ses01M``.
    wav : str
        Path relative to the release's folder.
    code : str
        One of ``CODES``.
    """

    name: str
    session: int
    speaker: str
    wav: str
    code: str


def find_release(data_folder):
    """Find the folder of the five sessions.

    Arguments
    ---------
    data_folder : str or Path
        ``IEMOCAP_full_release``, or the folder that holds it.

    Returns
    -------
    Path
        The folder that holds ``Session1`` to ``Session5``.

    Raises
    ------
    InputError
        If there is no such folder, or a session is missing.

    Example
    -------
    >>> find_release("nowhere")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: there is no such folder (IEMOCAP)
    """
    release = Path(data_folder)
    if not release.is_dir():
        raise InputError(f"{release}: there is no such folder (IEMOCAP)")
    if (release / RELEASE).is_dir():
        release = release / RELEASE
    names = [f"Session{session}" for session in SESSIONS]
    missing = [name for name in names if not (release / name).is_dir()]
    if missing:
        raise InputError(
            f"{release}: expected the folders {names[0]} to {names[-1]}, "
            f"{', '.join(missing)} missing"
        )
    return release


def read_labels(release):
    """Read all evaluation files, in an order that never changes.

    Arguments
    ---------
    release : Path
        What :func:`find_release` returned.

    Returns
    -------
    list of Turn
        Sorted by name, whatever their code.

    Raises
    ------
    InputError
        If a session has no evaluation file, a file cannot be read or is
        garbled, an emotion code is unknown, a turn is labelled twice or lies
        in another session's folder. Names file and line.

    Example
    -------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     read_labels(Path(folder))
    Traceback (most recent call last):
    merit_modules.errors.InputError: .../Session1/dialog/EmoEvaluation: expected
    evaluation files Ses*.txt, found none
    """
    turns, places = {}, {}
    for session in SESSIONS:
        folder = release / f"Session{session}" / "dialog" / "EmoEvaluation"
        # A pattern that starts with a letter passes macOS's ._ files by.
        files = sorted(folder.glob("Ses*.txt"))
        if not files:
            raise InputError(
                f"{folder}: expected evaluation files Ses*.txt, found none"
            )
        for path in files:
            for place, turn in read_evaluation(path):
                if turn.session != session:
                    raise InputError(
                        f"{place}: expected turns of session {session} in "
                        f"this folder, got {turn.name!r}"
                    )
                if turn.name in turns:
                    raise InputError(
                        f"{place}: turn {turn.name!r} is labelled twice, "
                        f"first in {places[turn.name]}"
                    )
                turns[turn.name], places[turn.name] = turn, place
    return [turns[name] for name in sorted(turns)]


def read_evaluation(path):
    """Read the labels of one dialogue.

    Arguments
    ---------
    path : str or Path
        A file such as ``EmoEvaluation/Ses01F_impro01.txt``.

    Returns
    -------
    list of tuple
        ``(place, Turn)`` in the file's order; ``place`` names file and line.

    Raises
    ------
    InputError
        If the file cannot be read, is not text, holds no label, or has a
        label line of another form or with an unknown code or turn name.

    Example
    -------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "Ses01F_impro01.txt"
    ...     _ = path.write_text("[0 - 1.5] Ses01F_impro01_M000 exc [4, 4, 3]")
    ...     [(place, turn)] = read_evaluation(path)
    >>> turn.speaker, turn.code, place.rsplit("/")[-1]
    ('Ses01M', 'exc', 'Ses01F_impro01.txt, line 1')
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the evaluation file: "
            f"{error.strerror or error}"
        ) from None
    if b"\0" in content:
        raise InputError(
            f"{path}: expected a text file of labels, got binary data"
        )
    # An annotator's comment in another encoding is no reason to stop.
    lines = content.decode("utf-8", errors="replace").split("\n")
    labels = [
        (f"{path}, line {number}", line.strip())
        for number, line in enumerate(lines, start=1)
        if line.startswith("[")
    ]
    if not labels:
        raise InputError(f"{path}: expected lines {_LABEL_FORM}, found none")
    return [(place, _parse_label(place, line)) for place, line in labels]


def _parse_label(place, line):
    """Return the turn that a label line speaks of."""
    parts = _LABEL.fullmatch(line)
    if not parts:
        raise InputError(f"{place}: expected {_LABEL_FORM}, got {line[:80]!r}")
    name, code = parts.groups()
    if code not in CODES:
        raise InputError(
            f"{place}: unknown emotion code {code!r} of turn {name!r}, "
            f"expected one of {', '.join(CODES)}"
        )
    try:
        session, speaker, wav = parse_turn(name)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return Turn(name, session, speaker, wav, code)


def parse_turn(name):
    """Read session, speaker and path from a turn's name.

    Arguments
    ---------
    name : str
        Dialogue and turn, such as ``Ses01F_script01_1_M012``.

    Returns
    -------
    session : int
        1 to 5.
    speaker : str
        Session and sex of who speaks.
    wav : str
        Path relative to the release's folder.

    Raises
    ------
    InputError
        If the name is not of IEMOCAP's form.

    Example
    -------
    >>> parse_turn("Ses03F_impro05a_M003")[:2]
    (3, 'Ses03M')
    >>> parse_turn("Ses01M_script01_1_F009")[2]
    'Session1/sentences/wav/Ses01M_script01_1/Ses01M_script01_1_F009.wav'
    """
    parts = _TURN.fullmatch(name)
    if not parts:
        raise InputError(
            f"expected a turn's name such as Ses01F_impro01_F000, got {name!r}"
        )
    dialogue, session, letter = parts.groups()
    wav = f"Session{session}/sentences/wav/{dialogue}/{name}.wav"
    return int(session), f"Ses0{session}{letter}", wav


def known_counts(label_set):
    """Count the classes of the full release under a label set.

    Arguments
    ---------
    label_set : str
        A key of ``LABEL_SETS``.

    Returns
    -------
    dict
        ``{session: {class: number of utterances}}``.

    Example
    -------
    >>> known_counts("exc_merged")[1]
    {'angry': 229, 'sad': 194, 'happy': 278, 'neutral': 384}
    >>> for name in LABEL_SETS:
    ...     sum(sum(c.values()) for c in known_counts(name).values())
    5531
    4936
    4490
    """
    counts = {session: dict.fromkeys(CLASSES, 0) for session in SESSIONS}
    for session, by_code in KNOWN.items():
        for code, emotion in LABEL_SETS[label_set].items():
            counts[session][emotion] += by_code[code]
    return counts

"""Read the label files of MSP-Podcast, in each of their forms.

Releases differ in what ``labels_consensus.csv`` holds, under one name:

========= ==========================================================
form      header
========= ==========================================================
consensus ``FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,
          Split_Set``, one letter per turn (also as JSON)
one_hot   ``FileName,Angry,Sad,Happy,Surprise,Fear,Disgust,Contempt,
          Neutral,Split_Set``, what the authors' released code reads
soft      the same eight columns with the shares of the annotators'
          votes, beside the fields of the consensus form
========= ==========================================================

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

from msp_podcast_classes import ALL_CLASSES, consensus
from msp_podcast_rows import read_rows

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.text import is_missing, key, speaker_of
from merit_modules.errors import InputError

# What the letters of EmoClass mean.
LETTERS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprise",
    "F": "fear",
    "D": "disgust",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": "no_agreement",
}
# The columns of the one-hot and the soft form, as classes.
COLUMNS = {name.capitalize(): name for name in ALL_CLASSES}
ATTRIBUTES = {"EmoAct": "act", "EmoVal": "val", "EmoDom": "dom"}
SPLITS = {
    "Train": "train",
    "Development": "valid",
    "Test1": "test1",
    "Test2": "test2",
    "Test3": "test3",
}
UNKNOWN_SPEAKER = "Unknown"

# Public releases hide the labels of this split.
_HIDDEN = "Test3"
# What is compared, in whatever case.
_SPLIT_OF = {key(name): name for name in SPLITS}
_LETTER_OF = {key(letter): letter for letter in LETTERS}
# Shares of votes are written with a few digits.
_TOLERANCE = 0.01


class Turn(NamedTuple):
    """What a label file says of one speaking turn.

    Arguments
    ---------
    name : str
        File name of the recording.
    split : str
        A value of ``SPLITS``.
    emotion : str or None
        The annotators' consensus: a value of ``LETTERS``; None if hidden.
    probs : dict or None
        ``{class: share}`` of all eight classes; None if the file has none.
    attributes : dict
        ``act``, ``val`` and ``dom`` from 1 to 7, as far as the file has them.
    speaker : str
        See :func:`speaker_id`.

    Example
    -------
    >>> Turn("a.wav", "train", "sad", None, {"act": 2.0}, "412").emotion
    'sad'
    """

    name: str
    split: str
    emotion: str | None
    probs: dict | None
    attributes: dict
    speaker: str


class Labels(NamedTuple):
    """The content of a label file.

    Arguments
    ---------
    form : str
        ``consensus``, ``one_hot`` or ``soft``.
    turns : list of Turn
        In the file's order, each file name once.

    Example
    -------
    >>> Labels("consensus", []).form
    'consensus'
    """

    form: str
    turns: list


def read_labels(path):
    """Read a label file, whatever its form.

    Arguments
    ---------
    path : str or Path
        A CSV file, or a JSON file (one object, keyed by file name).

    Returns
    -------
    Labels
        Form and turns.

    Raises
    ------
    InputError
        If the file cannot be read or parsed, if its header is of none of the
        forms, or if rows are unusable (up to ten are listed with their line:
        an unknown class letter or split, a value that is no share or no
        attribute, a file name that comes twice).

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "labels_consensus.csv")
    >>> _ = path.write_text(
    ...     "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\\n"
    ...     "MSP-PODCAST_9001_0012.wav,N,3.4,4.2,3.8,412,Female,Train\\n"
    ... )
    >>> read_labels(path).turns[0]
    Turn(name='MSP-PODCAST_9001_0012.wav', split='train', emotion='neutral',
    probs=None, attributes={'act': 3.4, 'val': 4.2, 'dom': 3.8}, speaker='412')
    """
    path = Path(path)
    numbers = (*COLUMNS, *ATTRIBUTES)
    known = ("EmoClass", "SpkrID", *numbers)
    fields, rows = read_rows(path, ["FileName", "Split_Set"], known, numbers)
    form = form_of(path, fields)
    turns, places, problems = [], {}, {}
    for place, row in rows:
        try:
            turn = _turn(row, fields)
            first = places.setdefault(key(turn.name), place)
            if first != place:
                raise InputError(
                    f"{turn.name}: a second row, the first is {first}"
                )
        except InputError as error:
            problems[place] = f"{path.name}, {place}: {error}"
            continue
        turns.append(turn)
    raise_if_broken(problems, f"rows of {path}")
    if not turns:
        raise InputError(f"{path}: expected rows below the header, got none")
    if form == "one_hot" and not all(_is_one_hot(turn) for turn in turns):
        form = "soft"
    return Labels(form, turns)


def form_of(path, fields):
    """Tell the form of a label file by the fields of its header.

    Arguments
    ---------
    path : str or Path
        The file, for the message.
    fields : collection of str
        Names in the header.

    Returns
    -------
    str
        ``consensus``, ``one_hot`` or ``soft``.

    Raises
    ------
    InputError
        If it is none of them.

    Example
    -------
    >>> form_of("l.csv", ["FileName", "EmoClass", "Split_Set"])
    'consensus'
    >>> form_of("l.csv", ["FileName", *COLUMNS, "Split_Set"])
    'one_hot'
    >>> form_of("l.csv", ["FileName", *COLUMNS, "EmoAct", "Split_Set"])
    'soft'
    """
    fields = set(fields)
    if {"FileName", "Split_Set"} <= fields:
        if set(COLUMNS) <= fields:
            others = fields - set(COLUMNS) - {"FileName", "Split_Set"}
            return "soft" if others else "one_hot"
        if "EmoClass" in fields:
            return "consensus"
    raise InputError(
        f"{path}: unknown header: expected FileName, Split_Set and either "
        f"EmoClass or all of {', '.join(COLUMNS)}; "
        f"got {', '.join(sorted(map(str, fields))) or 'nothing'}"
    )


def speaker_id(text):
    """Return the same id for the same speaker in all forms.

    Arguments
    ---------
    text : str
        The field ``SpkrID``.

    Returns
    -------
    str
        The number alone where there is one, ``Unknown`` where nothing is
        known, and any other text as it is.

    Example
    -------
    >>> [speaker_id(t) for t in ("412", "412.0", "Spkr_7", "unknown", "")]
    ['412', '412', '7', 'Unknown', 'Unknown']
    """
    number = re.fullmatch(r"(?:spkr_?)?(\d+)(?:\.0+)?", text, re.I)
    if number:
        return str(int(number[1]))
    return speaker_of(text) or UNKNOWN_SPEAKER


def _turn(row, fields):
    """Return what a row says; raise an InputError without the place."""
    name, split = _text(row, "FileName"), _text(row, "Split_Set")
    if is_missing(name):
        raise InputError(
            f"FileName: expected a file name, got {name or 'nothing'}"
        )
    split = _SPLIT_OF.get(key(split), split)
    if split not in SPLITS:
        raise InputError(
            f"{name}: Split_Set: expected one of {', '.join(SPLITS)}, "
            f"got {split!r}"
        )
    speaker = speaker_id(_text(row, "SpkrID"))
    in_label = [name for name in ("EmoClass", *COLUMNS) if name in fields]
    if split == _HIDDEN and all(
        is_missing(_text(row, field)) for field in in_label
    ):
        return Turn(name, SPLITS[split], None, None, {}, speaker)
    try:
        emotion, probs = _emotion(row, fields)
        attributes = {
            attribute: _number(row, field, 1, 7)
            for field, attribute in ATTRIBUTES.items()
            if field in fields
        }
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Turn(name, SPLITS[split], emotion, probs, attributes, speaker)


def _emotion(row, fields):
    """Return consensus and shares, whichever the row states."""
    probs = None
    if set(COLUMNS) <= set(fields):
        probs = {
            name: _number(row, field, 0, 1) for field, name in COLUMNS.items()
        }
        if sum(probs.values()) > 1 + _TOLERANCE:
            raise InputError(
                "expected shares of the classes that sum to 1 at most, "
                f"got {sum(probs.values()):g}"
            )
    if "EmoClass" not in fields:
        return consensus(probs), probs
    letter = _text(row, "EmoClass")
    letter = _LETTER_OF.get(key(letter), letter)
    if letter not in LETTERS:
        raise InputError(
            f"EmoClass: expected one of {', '.join(LETTERS)}, got {letter!r}"
        )
    return LETTERS[letter], probs


def _text(row, field):
    value = row.get(field)
    return "" if value is None else str(value).strip()


def _number(row, field, low, high):
    text = _text(row, field)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:  # false for NaN, too
        raise InputError(
            f"{field}: expected a number from {low} to {high}, got {text!r}"
        )
    return value


def _is_one_hot(turn):
    return turn.probs is None or set(turn.probs.values()) <= {0.0, 1.0}

"""When two names are one: of labels, speakers, files, columns.

What people type differs in case, in surrounding space, in how an umlaut is
put together and in characters that nobody sees. None of it makes another
speaker; leading zeros may, so that they are told, never decided.
"""

import re
import unicodedata

#: What spreadsheets and programs write for no value, by :func:`key`.
MISSING = frozenset(
    ["", "nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "none", "null"]
    + ["nil", "nat", "-", "--", "?", "#value!", "#ref!", "#null!"]
)
#: What also says that a speaker is not known.
UNKNOWN = "unknown"
_UNKNOWN_SPEAKER = MISSING | {UNKNOWN, "unk", "<unk>"}

# Format characters (zero-width, direction, byte order marks) and selectors.
_UNSEEN = re.compile("[\u034f\ufe00-\ufe0f]")


def key(text):
    r"""Return what is equal of two names that are the same.

    Arguments
    ---------
    text : object
        A name; what is no text counts as ``str`` has it.

    Returns
    -------
    str
        Caseless, in one normal form, without surrounding space and without
        characters that are not seen.

    Example
    -------
    >>> key(" Spk1\u200b") == key("SPK1"), key("u\u0308") == key("\u00dc")
    (True, True)
    """
    text = str(text)
    if text.isascii():
        return text.strip().casefold()
    text = "".join(c for c in text if not _is_unseen(c))
    text = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFD", text.casefold()).strip()


def clean(text):
    r"""Return a name as it is shown and kept: the case stays.

    Arguments
    ---------
    text : str
        What was written.

    Returns
    -------
    str
        In Unicode's composed form, without surrounding space and without
        characters that are not seen at its ends.

    Example
    -------
    >>> clean("\ufeff Calm \u200b")
    'Calm'
    """
    return unicodedata.normalize("NFC", trim(text))


def trim(text):
    r"""Take what is not seen from both ends; paths stay as they are inside.

    Arguments
    ---------
    text : str
        What was written.

    Returns
    -------
    str

    Example
    -------
    >>> trim("\u200b a b.wav\u00a0")
    'a b.wav'
    """
    text = text.strip()
    if text.isascii() and text.isprintable():
        return text
    start, end = 0, len(text)
    while start < end and (text[start].isspace() or _is_unseen(text[start])):
        start += 1
    while end > start and (
        text[end - 1].isspace() or _is_unseen(text[end - 1])
    ):
        end -= 1
    return text[start:end]


def _is_unseen(character):
    return unicodedata.category(character) == "Cf" or bool(
        _UNSEEN.match(character)
    )


def is_missing(value):
    """Say whether a cell stands for no value.

    Arguments
    ---------
    value : object
        What was read.

    Returns
    -------
    bool

    Example
    -------
    >>> [is_missing(v) for v in (None, float("nan"), " N/A", "", "0")]
    [True, True, True, True, False]
    """
    return value is None or key(value) in MISSING


def speaker_of(value):
    """Return a speaker's name, None where it is not known.

    Arguments
    ---------
    value : object
        What a table or manifest says.

    Returns
    -------
    str or None

    Example
    -------
    >>> [speaker_of(v) for v in (" anna", 7, "Unknown", "nan", None)]
    ['anna', '7', None, None, None]
    """
    if value is None or key(value) in _UNKNOWN_SPEAKER:
        return None
    return clean(str(value))


def spellings(names):
    """Gather the spellings of names that are the same.

    Arguments
    ---------
    names : iterable of str
        Names, in any order and number.

    Returns
    -------
    dict
        Key to its spellings, sorted; the first one can stand for all.

    Example
    -------
    >>> spellings(["spk1", "SPK1", "b"])
    {'spk1': ['SPK1', 'spk1'], 'b': ['b']}
    """
    found = {}
    for name in dict.fromkeys(names):
        found.setdefault(key(name), []).append(name)
    return {one: sorted(several) for one, several in found.items()}


def look_alikes(names):
    """Find names that are the same but for zeros: 01, 1 and 1.0.

    Arguments
    ---------
    names : iterable of str
        Names.

    Returns
    -------
    list of list of str
        Names that may be one, a spelling of each.

    Example
    -------
    >>> look_alikes(["spk01", "Spk1", "1.0", "1", "10", "2"])
    [['1', '1.0'], ['Spk1', 'spk01']]
    """
    found = {}
    for one, several in spellings(names).items():
        bare = re.sub(r"(?<=\d)\.0+$", "", one)
        bare = re.sub(r"(?<![\d.])0+(?=\d)", "", bare)
        found.setdefault(bare, []).append(several[0])
    return sorted(sorted(group) for group in found.values() if len(group) > 1)

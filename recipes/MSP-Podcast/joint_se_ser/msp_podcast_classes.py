"""The emotion classes of MSP-Podcast, and which of them a turn belongs to.

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

from merit_modules.errors import InputError

ALL_CLASSES = (
    "angry",
    "sad",
    "happy",
    "surprise",
    "fear",
    "disgust",
    "contempt",
    "neutral",
)
# In the order of the logits. No class is merged into another.
LABEL_SETS = {
    "four": ("angry", "sad", "happy", "neutral"),
    "eight": ALL_CLASSES,
}
LABELS = ("consensus", "soft")


def classes_of(label_set):
    """List the classes of a label set in the order of the logits.

    Arguments
    ---------
    label_set : str
        ``four`` or ``eight``.

    Returns
    -------
    list of str
        Class names.

    Raises
    ------
    InputError
        If there is no such label set.

    Example
    -------
    >>> classes_of("four")
    ['angry', 'sad', 'happy', 'neutral']
    """
    if label_set not in LABEL_SETS:
        raise InputError(
            f"label_set: expected one of {', '.join(LABEL_SETS)}, "
            f"got {label_set!r}"
        )
    return list(LABEL_SETS[label_set])


def label_of(turn, classes, labels="consensus"):
    """Say what the label of a turn is among the chosen classes.

    Arguments
    ---------
    turn : msp_podcast_labels.Turn
        A row of the label file.
    classes : list of str
        The chosen classes.
    labels : str
        ``consensus`` or ``soft``.

    Returns
    -------
    dict
        ``emo``, and ``emo_probs`` with soft labels; empty if the turn is of
        none of the classes.

    Example
    -------
    >>> from msp_podcast_labels import Turn
    >>> votes = dict.fromkeys(ALL_CLASSES, 0.0) | {"fear": 0.5, "sad": 0.5}
    >>> turn = Turn("a.wav", "train", "no_agreement", votes, {}, "7")
    >>> label_of(turn, classes_of("four"), "soft")
    {'emo': 'sad', 'emo_probs': [0.0, 1.0, 0.0, 0.0]}
    >>> label_of(turn, classes_of("four"))
    {}
    """
    if labels == "consensus":
        return {"emo": turn.emotion} if turn.emotion in classes else {}
    shares = [turn.probs[name] for name in classes] if turn.probs else [0.0]
    total = sum(shares)
    if not total > 0:
        return {}
    return {
        "emo": classes[shares.index(max(shares))],
        "emo_probs": [share / total for share in shares],
    }


def consensus(probs):
    """Return the class that has more votes than any other.

    What the shares lack of 1 went to no class and is one more candidate, so a
    row of zeros (a turn of another class, in the one-hot form) is never the
    first class, which a plain arg-max would make of it.

    Arguments
    ---------
    probs : dict
        ``{class: share}``.

    Returns
    -------
    str
        A class, ``other`` or ``no_agreement``.

    Example
    -------
    >>> consensus({"angry": 0.0, "sad": 0.0})
    'other'
    >>> consensus({"angry": 0.2, "sad": 0.8})
    'sad'
    >>> consensus({"angry": 0.5, "sad": 0.5})
    'no_agreement'
    """
    shares = {**probs, "other": 1 - sum(probs.values())}
    best = max(shares, key=shares.get)
    # A hair below the best: 0.1 + 0.2 is not quite 0.3.
    ties = [name for name in shares if shares[name] > shares[best] - 1e-6]
    return best if len(ties) == 1 else "no_agreement"

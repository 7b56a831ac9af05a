"""What an utterance's manifest entry says of its emotion, as a tensor."""

from typing import NamedTuple

import torch

from merit_modules.data.text import key
from merit_modules.errors import InputError


class LabelReader(NamedTuple):
    """How a dataset makes its label.

    Arguments
    ---------
    keys : tuple of str
        Keys of a manifest entry.
    encode : callable
        Their values to a tensor.
    """

    keys: tuple
    encode: object


def emotion_labels(classes):
    """Read one class per utterance.

    Arguments
    ---------
    classes : list of str
        Class names; the first one is class 0.

    Returns
    -------
    LabelReader
        From ``emo`` to an index, int64, shape (1,).

    Raises
    ------
    InputError
        If there are fewer than two classes, or a name comes twice, in whatever
        spelling.

    Example
    -------
    >>> emotion_labels(["angry", "sad"]).encode("sad")
    tensor([1])
    """
    if len(classes) < 2 or len({*map(key, classes)}) < len(classes):
        raise InputError(
            f"classes: expected two or more different names, got {classes!r}"
        )
    return LabelReader(("emo",), _Index(tuple(classes)))


class _Index:
    """A class, so that workers can pickle it; so are those below."""

    def __init__(self, classes):
        self.classes = classes

    def __call__(self, emo):
        return torch.tensor([self.classes.index(emo)])


def soft_emotion_labels(classes):
    """Read a distribution over classes per utterance.

    Arguments
    ---------
    classes : list of str
        Class names, in the order of the probabilities.

    Returns
    -------
    LabelReader
        From id and ``emo_probs`` (C numbers, or name to number) to a tensor
        (C,) that sums to 1.

    Example
    -------
    >>> soft_emotion_labels(["angry", "sad"]).encode("u1", [1, 3])
    tensor([0.2500, 0.7500])
    """
    return LabelReader(("id", "emo_probs"), _Distribution(tuple(classes)))


class _Distribution:
    def __init__(self, classes):
        self.classes = classes

    def __call__(self, utt_id, emo_probs):
        if isinstance(emo_probs, dict):
            emo_probs = [emo_probs.get(name, 0.0) for name in self.classes]
        probs = torch.tensor(emo_probs, dtype=torch.float32)
        if probs.shape != (len(self.classes),) or not probs.sum() > 0:
            raise InputError(
                f"utterance {utt_id!r}: emo_probs: expected a positive "
                f"distribution over {', '.join(self.classes)}, "
                f"got {emo_probs!r}"
            )
        return probs / probs.sum()


def attribute_labels(names, low, high):
    """Read emotional attributes.

    Arguments
    ---------
    names : list of str
        Keys of a manifest entry, such as ``act``, ``val``, ``dom``.
    low : float
        Lower end of their scale.
    high : float
        Upper end.

    Returns
    -------
    LabelReader
        From these keys to numbers (A,), -1 to 1 over the scale.

    Raises
    ------
    InputError
        If there is no attribute, or the scale is empty.

    Example
    -------
    >>> attribute_labels(["act", "val"], 1, 7).encode(4.0, 7.0)
    tensor([0., 1.])
    """
    if not names or not low < high:
        raise InputError(
            "attributes: expected names and a scale with low < high, got "
            f"{names!r}, {low!r}, {high!r}"
        )
    return LabelReader(tuple(names), _Scaled(low, high))


class _Scaled:
    def __init__(self, low, high):
        self.low, self.high = low, high

    def __call__(self, *values):
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return (torch.tensor(values, dtype=torch.float32) - middle) / half

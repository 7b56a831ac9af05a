"""Which noise file an utterance gets: any of them, or by corpus and weight."""

from itertools import accumulate

from merit_modules.errors import InputError


def uniform_below(generator, n):
    """Draw a whole number with one call of ``random()``.

    Arguments
    ---------
    generator : random.Random
        Of Python's generator, only ``random()`` is promised never to change.
    n : int
        Bound, at least 1.

    Returns
    -------
    int
        Uniform in [0, n).

    Example
    -------
    >>> import random
    >>> uniform_below(random.Random(1), 10)
    1
    """
    return min(int(generator.random() * n), n - 1)


class NoiseChoice:
    """Draw noise files: first a corpus by its weight, then a file of it.

    Within a corpus all files are alike. Where the manifest states no weights,
    or has one corpus only, all files are alike and no corpus is drawn.

    Arguments
    ---------
    noise : dict
        Noise manifest, ``{id: entry}``. Either no entry has a ``weight``, or
        each has ``weight`` and ``corpus``, one weight per corpus: how often
        this corpus is drawn, relative to the others.

    Raises
    ------
    InputError
        If some entries have a weight and others have none, a weight is no
        number above 0, has no corpus, or differs within a corpus.

    Example
    -------
    >>> import random
    >>> noise = {f"rain{i}": {"corpus": "A", "weight": 1} for i in range(9)}
    >>> noise["dog"] = {"corpus": "B", "weight": 3}
    >>> choice, generator = NoiseChoice(noise), random.Random(0)
    >>> drawn = [choice.draw(generator) for _ in range(1000)]
    >>> drawn.count("dog")  # about three of four, though one file of ten
    761
    """

    def __init__(self, noise):
        weights = _weights(noise)
        # Sorted: the draw must not depend on the manifest's order.
        groups = {}
        for item in sorted(noise):
            corpus = noise[item]["corpus"] if weights else None
            groups.setdefault(corpus, []).append(item)
        corpora = sorted(groups) if weights else list(groups)
        self._groups = [groups[corpus] for corpus in corpora]
        self._bounds = list(accumulate(weights.get(c, 1.0) for c in corpora))

    def draw(self, generator):
        """Draw a file.

        Arguments
        ---------
        generator : random.Random
            Two draws of it with several weighted corpora, one otherwise.

        Returns
        -------
        str
            The file's key in the manifest.
        """
        group = self._groups[0]
        if len(self._groups) > 1:
            point = generator.random() * self._bounds[-1]
            group = self._groups[self._group_at(point)]
        return group[uniform_below(generator, len(group))]

    def _group_at(self, point):
        """Return the index of the group whose share a point falls into."""
        for index, bound in enumerate(self._bounds[:-1]):
            if point < bound:
                return index
        return len(self._bounds) - 1


def _weights(noise):
    """Return ``{corpus: weight}``, empty if the manifest states none."""
    weights = {}
    if not any("weight" in entry for entry in noise.values()):
        return weights
    for item, entry in noise.items():
        weight, corpus = entry.get("weight"), entry.get("corpus")
        if not is_weight(weight) or corpus is None:
            raise InputError(
                f"noise {item!r}: expected a corpus and its weight above 0, "
                "as other noises of this manifest have them, got corpus "
                f"{corpus!r}, weight {weight!r}"
            )
        if weights.setdefault(corpus, weight) != weight:
            raise InputError(
                f"noise {item!r}: expected one weight per corpus, got "
                f"{weights[corpus]!r} and {weight!r} for {corpus!r}"
            )
    return weights


def is_weight(value):
    """Say whether a value can be the weight of a corpus.

    Arguments
    ---------
    value : object
        Whatever a YAML or JSON file held.

    Returns
    -------
    bool
        True for finite numbers above 0.

    Example
    -------
    >>> is_weight(0.5), is_weight(0), is_weight(True), is_weight("1")
    (True, False, False, False)
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < float("inf")

"""Two-way renaming of tensors by templates.

A template is a parameter's name with fields: ``{n}`` stands for a number,
``{p}`` for ``weight`` or ``bias``, ``{x}`` for a letter and ``{r}`` for the
rest of the name. On our side ``name[{n}]`` is a row of a tensor that the
authors keep as several, and ``name[*]`` one that they keep as a column.
"""

import re
from collections import Counter

import torch

from merit_modules.errors import InputError

_FIELDS = {
    "n": r"0|[1-9]\d*",  # no leading zeros: one name, one number
    "p": r"weight|bias",
    "x": r"[a-z]",
    "r": r"[a-z0-9_]+",
}


def template_pattern(template):
    """Compile a template.

    Arguments
    ---------
    template : str
        Name with fields.

    Returns
    -------
    re.Pattern
        Matches names of that form; the fields are its groups.

    Example
    -------
    >>> template_pattern("norms.{n}.{p}").fullmatch("norms.3.bias").groupdict()
    {'n': '3', 'p': 'bias'}
    """
    pattern = re.sub(
        r"\\{([a-z])\\}",
        lambda field: f"(?P<{field[1]}>{_FIELDS[field[1]]})",
        re.escape(template),
    )
    return re.compile(pattern)


class Renaming:
    """Names of the released files and of this package, both ways.

    Arguments
    ---------
    pairs : sequence of tuple of str
        Template of the released name, template of ours.
    aliases : sequence of tuple of str
        Other released names of the same thing: template of the other name,
        template of the one used in ``pairs``.

    Example
    -------
    >>> names = Renaming([("fc{n}.{p}", "linear[{n}].{p}")])
    >>> names.to_ours("fc2.bias"), names.to_theirs("linear[2].bias")
    ('linear[2].bias', 'fc2.bias')
    """

    def __init__(self, pairs, aliases=()):
        self._to_ours = [(template_pattern(a), b) for a, b in pairs]
        self._to_theirs = [(template_pattern(b), a) for a, b in pairs]
        self._aliases = [(template_pattern(a), b) for a, b in aliases]

    def to_ours(self, name):
        """Give our name of a released tensor; None if there is none."""
        return _translate(self._to_ours, self.canonical(name))

    def to_theirs(self, name):
        """Give the released name of our tensor; None if there is none."""
        return _translate(self._to_theirs, name)

    def canonical(self, name):
        """Give the released name that ``pairs`` uses."""
        return _translate(self._aliases, name) or name

    def rename(self, state):
        """Rename released tensors.

        Arguments
        ---------
        state : dict
            Released name to tensor. None in place of a tensor stays None, so
            that gradients can be renamed.

        Returns
        -------
        dict
            Our name to tensor.

        Raises
        ------
        InputError
            If a name is unknown, or some rows of a tensor are missing.

        Example
        -------
        >>> names = Renaming([("norms.{n}.{p}", "{p}[{n}]")])
        >>> state = {f"norms.{n}.bias": torch.ones(2) for n in range(3)}
        >>> names.rename(state)["bias"].shape
        torch.Size([3, 2])
        """
        renamed, rows = {}, {}
        for name, tensor in state.items():
            ours = self.to_ours(name)
            if ours is None:
                raise InputError(f"{name}: no released tensor has this name")
            base, _, index = ours.partition("[")
            if not index:
                renamed[ours] = tensor
            elif index == "*]":
                renamed[base] = None if tensor is None else tensor.squeeze(-1)
            else:
                rows.setdefault(base, {})[int(index[:-1])] = tensor
        return renamed | {base: _stack(base, r) for base, r in rows.items()}

    def restore(self, state):
        """Give our tensors their released names.

        Arguments
        ---------
        state : dict
            Our name to tensor.

        Returns
        -------
        dict
            Released name to tensor, in the released shape.

        Raises
        ------
        InputError
            If a name is unknown.

        Example
        -------
        >>> names = Renaming([("norms.{n}.{p}", "{p}[{n}]")])
        >>> sorted(names.restore({"bias": torch.ones(2, 4)}))
        ['norms.0.bias', 'norms.1.bias']
        """
        restored = {}
        for name, tensor in state.items():
            if whole := self.to_theirs(name):
                restored[whole] = tensor
            elif column := self.to_theirs(f"{name}[*]"):
                restored[column] = tensor.unsqueeze(-1)
            elif self.to_theirs(f"{name}[0]"):
                for number, row in enumerate(tensor):
                    restored[self.to_theirs(f"{name}[{number}]")] = row
            else:
                raise InputError(f"{name}: has no place in a released file")
        return restored


def _translate(pairs, name):
    for pattern, template in pairs:
        if found := pattern.fullmatch(name):
            return template.format(**found.groupdict())
    return None


def _stack(name, rows):
    if sorted(rows) != list(range(len(rows))):
        raise InputError(
            f"{name}: expected rows 0 to {len(rows) - 1}, got {sorted(rows)}"
        )
    given = [row for row in rows.values() if row is not None]
    if not given:
        return None
    # Gradients: a row that none reached has the gradient zero.
    zero = torch.zeros_like(given[0])
    ordered = [rows[number] for number in sorted(rows)]
    return torch.stack([zero if row is None else row for row in ordered])


def count_numbered(state, prefix, limit=1000):
    """Count the items of a numbered list by its highest number.

    Arguments
    ---------
    state : dict
        Names are its keys.
    prefix : str
        What stands before the number.
    limit : int
        Numbers from here on are not counted: a name alone must not make a
        model huge.

    Returns
    -------
    int
        Number of items.

    Example
    -------
    >>> count_numbered({"norms.0.bias": 0, "norms.2.bias": 0}, "norms.")
    3
    """
    pattern = re.compile(re.escape(prefix) + rf"({_FIELDS['n']})\b")
    matches = [pattern.match(name) for name in state]
    numbers = [int(found[1]) for found in matches if found]
    return 1 + max((n for n in numbers if n < limit), default=-1)


class ReleaseError(InputError):
    """Released files that cannot be used, with all reasons at once.

    Arguments
    ---------
    lines : sequence of str
        One reason each, naming file and key.

    Example
    -------
    >>> raise ReleaseError(["a.pt: w: missing", "b.pt: v: missing"])
    Traceback (most recent call last):
    merit_modules.released.naming.ReleaseError: a.pt: w: missing; b.pt: ...
    """

    def __init__(self, lines):
        super().__init__("; ".join(lines))
        self.lines = list(lines)


def read_size(state, *candidates):
    """Read a size off all tensors that have it.

    The most common value counts, so that one tensor of a wrong shape is told
    apart from the others.

    Arguments
    ---------
    state : dict
        Name to tensor.
    *candidates : tuple
        Template of names and the axis that has the size.

    Returns
    -------
    int
        The size.

    Raises
    ------
    ReleaseError
        If there is no such tensor.

    Example
    -------
    >>> import torch
    >>> state = {f"fc{n}.weight": torch.ones(2, 5) for n in range(3)}
    >>> read_size(state | {"fc3.weight": torch.ones(2, 7)}, ("fc{n}.{p}", 1))
    5
    """
    sizes = Counter()
    for template, axis in candidates:
        pattern = template_pattern(template)
        for name, tensor in state.items():
            if tensor.dim() > axis and pattern.fullmatch(name):
                sizes[tensor.shape[axis]] += 1
    del sizes[0]  # an empty tensor says nothing
    if not sizes:
        template = candidates[0][0].replace("{n}", "0").replace("{p}", "weight")
        raise ReleaseError([f"{template}: missing"])
    return sizes.most_common(1)[0][0]

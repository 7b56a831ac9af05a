"""Sizes of a model, read off its tensors."""

from collections import Counter

from merit_modules.errors import InputError
from merit_modules.released.naming import template_pattern


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
    merit_modules.released.sizes.ReleaseError: a.pt: w: missing; b.pt: ...
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

"""What each process of a distributed run has, known to all of them."""

import torch.distributed as dist


def gathered(own, to_all=True):
    """Collect an object of every process.

    Arguments
    ---------
    own : object
        This process's; it is pickled.
    to_all : bool
        Whether all processes need the list, or the first one alone.

    Returns
    -------
    list or None
        Each process's object, in the order of their ranks; ``[own]`` where
        there is one process. None on a process that does not need it.

    Example
    -------
    >>> gathered({"n": 3})
    [{'n': 3}]
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [own]
    found = [None] * dist.get_world_size()
    if to_all:
        dist.all_gather_object(found, own)
        return found
    is_first = dist.get_rank() == 0
    dist.gather_object(own, found if is_first else None)
    return found if is_first else None

"""Which weights of a run are exported: the best, or a mean of the best."""

from typing import NamedTuple

import torch

from merit_modules.errors import InputError
from merit_modules.pretrained.weights import check_fit
from merit_modules.training.checkpoints import (
    SCORES,
    find_best,
    first_whole,
    scores_of,
)

#: The name under which a checkpoint holds the system.
SYSTEM = "system"


class ChosenWeights(NamedTuple):
    """What was loaded.

    Arguments
    ---------
    score : str
        What the checkpoints were picked by.
    epochs : list of int
        Epochs of the checkpoints that were averaged, the best one first.
    validation : dict
        Validation scores of the best one.
    last_epoch : int
        The last epoch of the run.
    """

    score: str
    epochs: list
    validation: dict
    last_epoch: int


def load_chosen(system, checkpointer, score, average=1):
    """Load the weights that a run is exported with.

    Arguments
    ---------
    system : torch.nn.Module
        Takes the weights.
    checkpointer : AtomicCheckpointer
        Holds the run's checkpoints.
    score : str
        What picks the best ones: the run's ``checkpoint_score``.
    average : int
        How many of them are averaged.

    Returns
    -------
    ChosenWeights
        What was loaded.

    Raises
    ------
    InputError
        If there are fewer checkpoints, or they are of another system.

    Example
    -------
    >>> from merit_modules.training.checkpoints import AtomicCheckpointer
    >>> layer, folder = torch.nn.Linear(1, 1), getfixture("tmp_path")
    >>> checkpointer = AtomicCheckpointer(folder, {"system": layer})
    >>> for epoch, bias in [(1, 2.0), (2, 3.0)]:
    ...     _ = torch.nn.init.constant_(layer.bias, bias)
    ...     _ = checkpointer.save_checkpoint({"epoch": epoch, "uar": bias})
    >>> chosen = load_chosen(layer, checkpointer, "uar", average=2)
    >>> chosen.epochs, layer.bias.item()
    ([2, 1], 2.5)
    """
    if average < 1:
        raise InputError(f"average: expected 1 or more, got {average}")
    every = find_best(checkpointer, score, SCORES[score])
    folder = checkpointer.checkpoints_dir
    if not every:
        raise InputError(
            f"{folder}: no checkpoint of a finished epoch with the score "
            f"{score!r}: nothing to export"
        )
    whole, _ = first_whole(every, average)
    if len(whole) < average:
        raise InputError(
            f"{folder}: asked to average {average} checkpoints, found "
            f"{len(whole)}: train with --keep_checkpoints {average} to keep "
            "that many"
        )
    state = mean_state([_read(checkpoint) for checkpoint in whole])
    check_fit(whole[0].path, state, system.state_dict())
    system.load_state_dict(state)
    return ChosenWeights(
        score=score,
        epochs=[checkpoint.meta["epoch"] for checkpoint in whole],
        validation=scores_of(whole[0]),
        last_epoch=max(checkpoint.meta["epoch"] for checkpoint in every),
    )


def _read(checkpoint):
    if SYSTEM not in checkpoint.paramfiles:
        raise InputError(f"{checkpoint.path}: it holds no {SYSTEM}")
    # Mapped: of several checkpoints only a tensor at a time is in memory.
    return torch.load(
        checkpoint.paramfiles[SYSTEM],
        map_location="cpu",
        weights_only=True,
        mmap=True,
    )


def mean_state(states):
    """Average the tensors of several states of one system.

    Arguments
    ---------
    states : list of dict
        Name to tensor.

    Returns
    -------
    dict
        Means of floating-point tensors; all else is that of the first state.

    Raises
    ------
    InputError
        If names or shapes differ.

    Example
    -------
    >>> states = [{"w": torch.tensor([v]), "n": torch.tensor(int(v))}
    ...           for v in (1.0, 4.0)]
    >>> mean_state(states)
    {'w': tensor([2.5000]), 'n': tensor(1)}
    """
    first = states[0]
    for number, state in enumerate(states[1:], 2):
        check_fit(f"checkpoint {number} of the average", state, first)

    def mean(name):
        if not first[name].is_floating_point():
            return first[name]
        total = sum(state[name].double() for state in states)
        return (total / len(states)).to(first[name].dtype)

    return {name: mean(name) for name in first}

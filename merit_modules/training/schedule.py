"""The learning rate over time: SpeechBrain's schedulers, each by its kind."""

import inspect

from merit_modules.errors import InputError

#: Arguments of a scheduler's call to what it follows.
KINDS = {
    ("current_epoch",): "epoch",
    ("metric_value",): "loss",
    ("optim_list", "current_epoch", "current_loss"): "plateau",
    ("opt",): "step",
    ("opt", "num_updates"): "update",
}


class Schedule:
    """Drives a scheduler of ``speechbrain.nnet.schedulers``.

    Per epoch (Linear, Step), on the validation loss (NewBob,
    ReduceLROnPlateau) or per step of the optimiser (Noam, WarmCoolDecay,
    CyclicCosine...). The scheduler knows of one rate; each group of parameters
    learns at that rate times its own ``lr_factor``.

    Arguments
    ---------
    scheduler : object or None
        The scheduler; None for a constant rate.

    Raises
    ------
    InputError
        If it is none of these kinds.

    Example
    -------
    >>> import torch
    >>> from speechbrain.nnet.schedulers import NewBobScheduler
    >>> parameters = [torch.nn.Parameter(torch.ones(1))]
    >>> groups = [{"params": parameters, "lr_factor": 0.5}]
    >>> schedule = Schedule(NewBobScheduler(initial_value=0.1))
    >>> schedule.optimizer = torch.optim.SGD(groups, lr=0.1)
    >>> for loss in (1.0, 0.5, 0.5):
    ...     schedule.end_epoch(1, loss)
    >>> schedule.optimizer.param_groups[0]["lr"]
    0.025
    """

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.kind = None if scheduler is None else _kind_of(scheduler)
        self._optimizer = None

    @property
    def optimizer(self):
        """The optimiser, whose groups state ``lr_factor``."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer):
        self._optimizer = optimizer
        self._set(optimizer.defaults["lr"])

    @property
    def rate(self):
        """The rate of a group whose factor is 1."""
        groups = self._optimizer.param_groups
        group = next((g for g in groups if g["lr_factor"] == 1.0), groups[0])
        return group["lr"] / group["lr_factor"]

    def _set(self, rate):
        for group in self._optimizer.param_groups:
            group["lr"] = float(rate) * group["lr_factor"]

    def start_epoch(self, epoch):
        """Set the rate of an epoch, counted from 1."""
        if self.kind == "epoch":
            # SpeechBrain's count from 0.
            self._set(self.scheduler(epoch - 1)[1])

    def end_step(self, n_steps):
        """Set the rate after a step of the optimiser, counted from 1."""
        if self.kind not in ("step", "update"):
            return
        stand_in = _OneRate(self.rate)
        if self.kind == "update":
            self.scheduler(stand_in, n_steps)
        else:
            self.scheduler(stand_in)
        self._set(stand_in.param_groups[0]["lr"])

    def end_epoch(self, epoch, loss):
        """Set the rate after a validation."""
        if self.kind == "loss":
            self._set(self._annealed(loss))
        elif self.kind == "plateau":
            self._set(self.scheduler([_OneRate(self.rate)], epoch, loss)[1])

    def _annealed(self, loss):
        seen = getattr(self.scheduler, "metric_values", None)
        if not seen or seen[-1] >= 0:
            return self.scheduler(loss)[1]
        # NewBob divides its progress by the last loss: by its size alone.
        last = seen[-1]
        seen[-1] = -last
        _, rate = self.scheduler(loss - 2 * last)
        seen[-2:] = [last, loss]
        return rate


class _OneRate:
    """What a scheduler sees of an optimiser."""

    def __init__(self, rate):
        self.param_groups = [{"lr": rate}]


def _kind_of(scheduler):
    name = type(scheduler).__name__
    arguments = ()
    if callable(scheduler):
        arguments = tuple(inspect.signature(scheduler).parameters)
    if arguments not in KINDS:
        raise InputError(
            f"lr_annealing: {name} cannot be driven: expected one of "
            "speechbrain.nnet.schedulers that is called with "
            + ", or ".join("(" + ", ".join(kind) + ")" for kind in KINDS)
        )
    return KINDS[arguments]

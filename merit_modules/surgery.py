"""Gradient surgery in a training loop: collect, average, project, set."""

import torch
import torch.distributed as dist

from merit_modules.gradients import project_conflicting, task_gradients


class GradientSurgery:
    """PCGrad (Yu et al., NeurIPS 2020) around accumulation and processes.

    Conflicts are looked for on the gradient of a whole step, over all batches
    and processes, and only where both tasks reach: the heads and routers,
    which serve one task, keep their gradient.

    Example
    -------
    >>> shared = torch.nn.Parameter(torch.zeros(2))
    >>> surgery = GradientSurgery()
    >>> surgery.accumulate({"se": shared[0], "ser": -shared[0]}, [shared])
    >>> surgery.set_gradients(seed=0)
    >>> shared.grad  # opposite gradients: nothing is left of either
    tensor([0., 0.])
    """

    def __init__(self):
        self._gradients = {}  # task to parameter to gradient or None

    def accumulate(self, losses, parameters):
        """Add the gradients of a batch to those that wait for a step.

        Arguments
        ---------
        losses : dict
            Task name to scalar loss.
        parameters : list of torch.nn.Parameter
            All that is trained. More may come with a later batch: a step can
            begin in one stage of the training and end in the next.
        """
        for task, new in task_gradients(losses, parameters).items():
            waiting = self._gradients.setdefault(task, {})
            for parameter, gradient in zip(parameters, new):
                waiting[parameter] = _add(waiting.get(parameter), gradient)

    def set_gradients(self, seed):
        """Project the gradients of a step and set every ``.grad``.

        Arguments
        ---------
        seed : int
            Draws the order of projections.
        """
        self._average_over_processes()
        parameters = list(next(iter(self._gradients.values())))
        gradients = project_conflicting(
            {task: list(g.values()) for task, g in self._gradients.items()},
            torch.Generator().manual_seed(seed),
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._gradients = {}

    def _average_over_processes(self):
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        for gradients in self._gradients.values():
            for gradient in gradients.values():
                # Which are None hangs on the system alone (an idle expert has
                # a gradient of zeros), so all processes meet here.
                if gradient is not None:
                    dist.all_reduce(gradient)
                    gradient /= dist.get_world_size()


def _add(first, second):
    if first is None or second is None:
        return second if first is None else first
    return first + second

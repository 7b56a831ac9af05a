"""What of a batch this process holds, where several train as one.

Distributed training averages the gradients of its processes. For the average
to be the gradient of the whole batch's loss, each term, a mean, counts by how
much of what it is a mean of a process holds.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F

#: In place of the name of a term that is a mean over frames.
FRAMES = "frames"


class Share:
    """The part of a step's batch that this process holds.

    What processes must know of each other is added up in one go where the
    tensors are, so that no host waits for its device.

    Arguments
    ---------
    weights : dict
        Term of the loss to how many entries (or what weight) its mean is over
        on this process: numbers, or scalars (torch.Tensor). That of
        ``FRAMES`` holds for the others.
    routing : dict
        Task name to its RoutingDecision on this process.
    counts : bool
        False: the batch is a repeated one, and counts nowhere.
    device : torch.device, optional
        Where the loss is computed; the CPU by default.

    Attributes
    ----------
    loads : dict
        Task name to the share of the whole batch's decisions that each expert
        received (E,).

    Example
    -------
    >>> share = Share({"ser_ce": 2, FRAMES: 90}, {})
    >>> share.weigh({"ser_ce": torch.tensor(3.0)})  # one process has it all
    {'ser_ce': tensor(3.)}
    """

    def __init__(self, weights, routing, counts=True, device=None):
        self.counts = float(counts)
        self.n_processes = dist.get_world_size() if dist.is_initialized() else 1
        decisions = [_count_decisions(d) for d in routing.values()]
        held = [
            torch.as_tensor(weight, device=device).double().view(1)
            for weight in weights.values()
        ]
        held = torch.cat(held + decisions)
        whole = self.total(held)
        n_terms = len(weights)
        factors = self.counts * self.n_processes * held / whole
        self._factors = dict(zip(weights, factors))
        sizes = [len(d) for d in decisions]
        loads = [(d / d.sum()).float() for d in whole[n_terms:].split(sizes)]
        self.loads = dict(zip(routing, loads))

    def total(self, sums):
        """Add up what all processes hold.

        Arguments
        ---------
        sums : torch.Tensor
            Sums over this process's part of the batch, of any shape.

        Returns
        -------
        torch.Tensor
            Sums over the whole batch; their gradient is that of this
            process's part.
        """
        sums = self.counts * sums
        if self.n_processes == 1:
            return sums
        whole = sums.detach().clone()
        dist.all_reduce(whole)
        return sums + (whole - sums.detach())

    def weigh(self, terms, of_all=()):
        """Multiply the terms of this process's loss with what they count.

        Arguments
        ---------
        terms : dict
            Term name to its mean over this process's part, a scalar.
        of_all : sequence of str
            Terms that are the whole batch's already, by :meth:`total`.

        Returns
        -------
        dict
            Term name to scalar; averaged over the processes, their gradient is
            that of the means over the whole batch.
        """
        factors = {**self._factors, **dict.fromkeys(of_all, self.n_processes)}
        weighed = {}
        for name, term in terms.items():
            factor = factors.get(name, factors[FRAMES])
            weighed[name] = term * torch.as_tensor(factor).to(term)
        return weighed


def _count_decisions(decision):
    index = decision.expert_index.flatten()
    return F.one_hot(index, decision.probs.shape[-1]).sum(dim=0).double()

"""The objective of joint training, one named term per loss."""

import torch
from torch import nn

from merit_modules.errors import InputError
from merit_modules.losses.enhancement import log1p_l1, negative_si_sdr
from merit_modules.losses.recognition import EmotionLoss
from merit_modules.losses.routing import (
    BALANCE_LOSSES,
    expert_load,
    pool_load,
    router_z,
)
from merit_modules.losses.shares import FRAMES

BALANCE_SCOPES = ("task", "pool")
WEIGHTINGS = ("fixed", "uncertainty")
#: Terms that are no mean: processes that train as one compute them together.
OF_ALL = ("ser_ccc",)


class JointLoss(nn.Module):
    """Weighted sum of the task losses and the routers' (paper Eq. for L).

    Every term's name begins with its task.

    Arguments
    ---------
    ser_ce : float
        Weight of the class-weighted cross entropy (paper: 1).
    ser_ccc : float
        Weight of the concordance loss, where attributes are learned.
    se_l1 : float
        Weight of the L1 distance of log1p features (paper: 1).
    se_si_sdr : float
        Weight of the negative SI-SDR in dB (paper: none).
    load_balance : float
        Weight of each router's load-balancing loss (released code: none).
    router_z : float
        Weight of each router's z-loss (released code: none).
    balance_loss : str
        ``switch`` or ``kl``; see :mod:`merit_modules.losses.routing`.
    balance_scope : str
        What is to be even. ``task``: the load that each router makes.
        ``pool``: the load that all routers make together, so that a task may
        have experts of its own.
    task_weighting : str
        ``fixed``: the weights above. ``uncertainty``: each task's sum of
        weighted terms is weighed by a learned factor; see
        :class:`~merit_modules.losses.joint.UncertaintyWeighting`.

    Raises
    ------
    InputError
        If a choice is unknown, or a loss that can be negative is to be
        weighed by uncertainty.

    Example
    -------
    >>> import torch
    >>> from merit_modules.tiny import tiny_system
    >>> system, wavs = tiny_system(), torch.randn(2, 8000)
    >>> loss = JointLoss(load_balance=0.01)
    >>> terms = loss.terms(system, system(wavs), wavs, torch.tensor([0, 3]))
    >>> sorted(terms)
    ['se_l1', 'se_load_balance', 'ser_ce', 'ser_load_balance']
    >>> loss(terms).shape
    torch.Size([])
    """

    def __init__(
        self,
        ser_ce=1.0,
        ser_ccc=1.0,
        se_l1=1.0,
        se_si_sdr=0.0,
        load_balance=0.0,
        router_z=0.0,
        balance_loss="switch",
        balance_scope="task",
        task_weighting="fixed",
    ):
        super().__init__()
        _check("balance_loss", balance_loss, BALANCE_LOSSES)
        _check("balance_scope", balance_scope, BALANCE_SCOPES)
        _check("task_weighting", task_weighting, WEIGHTINGS)
        self.task_weights = {
            "ser_ce": ser_ce,
            "ser_ccc": ser_ccc,
            "se_l1": se_l1,
            "se_si_sdr": se_si_sdr,
        }
        self.routing_weights = {
            "load_balance": load_balance,
            "router_z": router_z,
        }
        self.balance_loss = BALANCE_LOSSES[balance_loss]
        self.balance_scope = balance_scope
        self.weighting = None
        if task_weighting == "uncertainty":
            if se_si_sdr:
                raise InputError(
                    "task_weighting uncertainty: expected losses that are "
                    f"never negative, se_si_sdr_weight is {se_si_sdr}: set "
                    "it to 0"
                )
            self.weighting = UncertaintyWeighting()

    def weights(self, output, labels, ser_loss):
        """Tell how many entries the mean of each term is over.

        Arguments
        ---------
        output : SystemOutput
            What the system made of a batch.
        labels : torch.Tensor
            What the SER loss compares the SER head's outputs with.
        ser_loss : EmotionLoss or AttributeLoss
            The SER loss.

        Returns
        -------
        dict
            Term name to utterances, their weights, or STFT frames: numbers,
            or scalars (torch.Tensor). For all other terms there is ``FRAMES``.
        """
        weights = {}
        if output.logits is not None:
            weights[ser_loss.term] = ser_loss.weight(labels)
        if output.enhancement is not None:
            weights["se_l1"] = output.enhancement.n_frames.sum()
            weights["se_si_sdr"] = len(labels)
        return weights | {FRAMES: output.mixture.valid.sum()}

    def terms(
        self, system, output, clean_wavs, labels, ser_loss=None, share=None
    ):
        """Compute the terms of the paper, and others that have a weight.

        Arguments
        ---------
        system : JointSystem
            The system, for its spectral domain.
        output : SystemOutput
            What it made of the noisy batch; a task that it lacks has no term.
        clean_wavs : torch.Tensor
            Clean waveforms (B, N).
        labels : torch.Tensor
            What the SER loss compares the SER head's outputs with.
        ser_loss : EmotionLoss or AttributeLoss, optional
            The SER loss; cross entropy without class weights by default.
        share : Share, optional
            What of the batch this process holds, where several train as one.

        Returns
        -------
        dict
            Term name to unweighted scalar loss.
        """
        terms = {}
        if output.logits is not None:
            ser_loss = ser_loss or EmotionLoss()
            shared = {} if share is None else {"total": share.total}
            shared = shared if ser_loss.term in OF_ALL else {}
            terms[ser_loss.term] = ser_loss(output.logits, labels, **shared)
        if output.enhancement is not None:
            terms |= self._se_terms(system, output, clean_wavs)
        return terms | self._routing_terms(output.mixture.routing, share)

    def _routing_terms(self, routing, share):
        terms, loads = {}, {}
        if self.routing_weights["load_balance"] and share is not None:
            loads = share.loads
        elif self.routing_weights["load_balance"]:
            loads = {task: expert_load(d) for task, d in routing.items()}
        if loads and self.balance_scope == "pool":
            loads = dict.fromkeys(loads, pool_load(loads.values()))
        for task, decision in routing.items():
            if self.routing_weights["load_balance"]:
                balance = self.balance_loss(decision, loads[task])
                terms[f"{task}_load_balance"] = balance
            if self.routing_weights["router_z"]:
                terms[f"{task}_router_z"] = router_z(decision)
        return terms

    def _se_terms(self, system, output, clean_wavs):
        enhancement = output.enhancement
        clean_log1p = system.log1p_target(clean_wavs, output)
        terms = {
            "se_l1": log1p_l1(
                enhancement.log1p, clean_log1p, enhancement.n_frames
            )
        }
        if self.task_weights["se_si_sdr"]:
            enhanced_wavs = system.enhanced_wavs(output, clean_wavs.shape[1])
            terms["se_si_sdr"] = negative_si_sdr(
                enhanced_wavs, clean_wavs, output.n_samples
            )
        return terms

    def by_task(self, terms):
        """Weigh the terms and add them up per task.

        Arguments
        ---------
        terms : dict
            What :meth:`terms` returned, or means of it.

        Returns
        -------
        dict
            Task name to its loss: objective and the terms of its router.

        Example
        -------
        >>> JointLoss(ser_ce=2.0).by_task({"ser_ce": 1.5, "se_l1": 0.25})
        {'ser': 3.0, 'se': 0.25}
        """
        losses = {}
        for name, weight in self.task_weights.items():
            if name in terms:
                task = name.partition("_")[0]
                losses[task] = losses.get(task, 0.0) + weight * terms[name]
        if self.weighting is not None:
            losses = {k: self.weighting(k, v) for k, v in losses.items()}
        for name, term in terms.items():
            task, _, kind = name.partition("_")
            if kind in self.routing_weights:
                routing = self.routing_weights[kind] * term
                losses[task] = losses.get(task, 0.0) + routing
        return losses

    def forward(self, terms):
        """Weigh and add all terms.

        Arguments
        ---------
        terms : dict
            What :meth:`terms` returned.

        Returns
        -------
        torch.Tensor
            The loss, a scalar.
        """
        return sum(self.by_task(terms).values())


def _check(key, value, allowed):
    if value not in allowed:
        raise InputError(
            f"{key}: expected one of {', '.join(allowed)}, got {value!r}"
        )


class UncertaintyWeighting(nn.Module):
    """Weigh tasks by their uncertainty (Kendall et al., CVPR 2018).

    Each task has a learned log scale s. Cross entropy L becomes
    ``exp(-s) L + s / 2`` (s: log variance), L1 becomes ``exp(-s) L + s`` (s:
    log scale of a Laplace distribution).

    Arguments
    ---------
    penalties : dict, optional
        Task name to the factor before s; by default that of the two tasks.

    Example
    -------
    >>> weighting = UncertaintyWeighting()
    >>> weighting("ser", torch.tensor(2.0))
    tensor(2., grad_fn=<AddBackward0>)
    """

    def __init__(self, penalties=None):
        super().__init__()
        self.penalties = penalties or {"se": 1.0, "ser": 0.5}
        self.log_scales = nn.ParameterDict(
            {task: nn.Parameter(torch.zeros(())) for task in self.penalties}
        )

    def forward(self, task, loss):
        """Weigh the loss of a task.

        Arguments
        ---------
        task : str
            Task name.
        loss : torch.Tensor
            Its loss, never negative.

        Returns
        -------
        torch.Tensor
            Weighted loss with its penalty.
        """
        log_scale = self.log_scales[task]
        return (-log_scale).exp() * loss + self.penalties[task] * log_scale

    def weights(self):
        """Tell the present weights.

        Returns
        -------
        dict
            Task name to weight, a tensor without gradient.

        Example
        -------
        >>> UncertaintyWeighting().weights()["se"]
        tensor(1.)
        """
        return {k: (-s.detach()).exp() for k, s in self.log_scales.items()}

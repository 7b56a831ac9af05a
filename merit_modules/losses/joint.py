"""The objective of joint training, one named term per loss."""

import torch.nn.functional as F

from merit_modules.losses import routing
from merit_modules.losses.enhancement import log1p_l1, negative_si_sdr


class JointLoss:
    """Weighted sum of the task losses and the routers' (paper Eq. for L).

    Arguments
    ---------
    ser_ce : float
        Weight of the class-weighted cross entropy (paper: 1).
    se_l1 : float
        Weight of the L1 distance of log1p features (paper: 1).
    se_si_sdr : float
        Weight of the negative SI-SDR in dB (paper: none).
    load_balance : float
        Weight of each router's load-balancing loss (released code: none).
    router_z : float
        Weight of each router's z-loss (released code: none).

    Example
    -------
    >>> import torch
    >>> from merit_modules.tiny import tiny_system
    >>> system, wavs = tiny_system(), torch.randn(2, 8000)
    >>> loss = JointLoss(load_balance=0.01)
    >>> terms = loss.terms(system, system(wavs), wavs, torch.tensor([0, 3]))
    >>> sorted(terms)
    ['se_l1', 'se_load_balance', 'ser_ce', 'ser_load_balance']
    >>> loss.total(terms).shape
    torch.Size([])
    """

    def __init__(
        self,
        ser_ce=1.0,
        se_l1=1.0,
        se_si_sdr=0.0,
        load_balance=0.0,
        router_z=0.0,
    ):
        self.task_weights = {
            "ser_ce": ser_ce,
            "se_l1": se_l1,
            "se_si_sdr": se_si_sdr,
        }
        self.routing = {
            "load_balance": (load_balance, routing.load_balance),
            "router_z": (router_z, routing.router_z),
        }

    def terms(self, system, output, clean_wavs, labels, class_weights=None):
        """Compute the terms of the paper, and others that have a weight.

        Arguments
        ---------
        system : JointSystem
            The system, for its spectral domain.
        output : SystemOutput
            What it made of the noisy batch.
        clean_wavs : torch.Tensor
            Clean waveforms (B, N).
        labels : torch.Tensor
            Class indices (B,).
        class_weights : torch.Tensor, optional
            Weight per class (C,).

        Returns
        -------
        dict
            Term name to unweighted scalar loss.
        """
        enhancement, n_samples = output.enhancement, output.n_samples
        clean_log1p = system.log1p_target(clean_wavs, n_samples)
        terms = {
            "ser_ce": F.cross_entropy(output.logits, labels, class_weights),
            "se_l1": log1p_l1(
                enhancement.log1p, clean_log1p, enhancement.n_frames
            ),
        }
        if self.task_weights["se_si_sdr"]:
            enhanced_wavs = system.enhanced_wavs(output, clean_wavs.shape[1])
            terms["se_si_sdr"] = negative_si_sdr(
                enhanced_wavs, clean_wavs, n_samples
            )
        for task, decision in output.mixture.routing.items():
            for name, (weight, function) in self.routing.items():
                if weight:
                    terms[f"{task}_{name}"] = function(decision)
        return terms

    def total(self, terms):
        """Weigh and add the terms.

        Arguments
        ---------
        terms : dict
            What :meth:`terms` returned.

        Returns
        -------
        torch.Tensor
            The loss, a scalar.
        """
        return sum(self.weight(name) * term for name, term in terms.items())

    def weight(self, name):
        """Tell the weight of a term.

        Arguments
        ---------
        name : str
            Term name.

        Returns
        -------
        float
            Its weight; 0 if there is no such term.
        """
        if name in self.task_weights:
            return self.task_weights[name]
        weight, _ = self.routing.get(name.partition("_")[2], (0.0, None))
        return weight

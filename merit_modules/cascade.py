"""Enhance first, classify afterwards: two systems that share nothing."""

import torch
from torch import nn

from merit_modules.errors import InputError

SER_INPUTS = ("noisy", "enhanced")


class CascadeSystem(nn.Module):
    """A finished SE system in front of a SER system (the paper's cascade).

    Only the SER system is trained here; the front end is frozen.

    Arguments
    ---------
    ser_system : JointSystem
        System with a SER head.
    ser_input : str
        What the SER system is trained on: ``noisy`` speech or ``enhanced`` by
        the front end. In validation and test it always sees enhanced speech.
    front_end : JointSystem, optional
        System with a SE head. It can also be set later.

    Raises
    ------
    InputError
        If ``ser_input`` is neither.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> cascade = CascadeSystem(tiny_system(), front_end=tiny_system())
    >>> out = cascade.eval()(torch.randn(2, 8000))
    >>> out.logits.shape, out.enhancement.log1p.shape
    (torch.Size([2, 4]), torch.Size([2, 201, 51]))
    """

    def __init__(self, ser_system, ser_input="noisy", front_end=None):
        super().__init__()
        if ser_input not in SER_INPUTS:
            raise InputError(
                f"ser_input: expected one of {', '.join(SER_INPUTS)}, "
                f"got {ser_input!r}"
            )
        self.ser_system = ser_system
        self.ser_input = ser_input
        self.front_end = front_end

    @property
    def tasks(self):
        """The task that is trained; the front end does the other one."""
        return ["ser"]

    @property
    def ssl_encoder(self):
        """The SSL encoder of the SER system."""
        return self.ser_system.ssl_encoder

    @property
    def normalizer(self):
        """The normaliser of the SER system."""
        return self.ser_system.normalizer

    @property
    def se_head(self):
        """The SE head, that of the front end."""
        return self.front_end and self.front_end.se_head

    @property
    def ser_head(self):
        """The SER head of the SER system."""
        return self.ser_system.ser_head

    @property
    def mixture(self):
        """What makes features for the SER head."""
        return self.ser_system.mixture

    def __setattr__(self, name, value):
        """Freeze a front end that is set."""
        if name == "front_end" and value is not None:
            value.requires_grad_(False)
        super().__setattr__(name, value)

    def train(self, mode=True):
        """Set the training mode; the front end stays in evaluation mode."""
        super().train(mode)
        if self.front_end is not None:
            self.front_end.eval()
        return self

    def forward(self, noisy_wavs, wav_lens=None, tasks=None):
        """Enhance and classify; in training only what that needs.

        Arguments
        ---------
        noisy_wavs : torch.Tensor
            Waveforms (B, N), 16 kHz.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        tasks : sequence of str, optional
            ``se``, ``ser`` or both, the default. For ``se`` alone, only the
            front end is run.

        Returns
        -------
        SystemOutput
            Of the SER system; outside training with the front end's
            enhancement.
        """
        if self.front_end is None:
            raise RuntimeError("the cascade has no front_end yet")
        if self.training and self.ser_input == "noisy":
            return self.ser_system(noisy_wavs, wav_lens, ["ser"])
        with torch.no_grad():
            front = self.front_end(noisy_wavs, wav_lens, ["se"])
            if tasks is not None and "ser" not in tasks:
                return front
            wavs = self.front_end.enhanced_wavs(front, noisy_wavs.shape[1])
        output = self.ser_system(wavs, wav_lens, ["ser"])
        if self.training:
            return output
        return output._replace(enhancement=front.enhancement)

    def enhanced_wavs(self, output, n_max):
        """Turn an output into waveforms; see ``JointSystem``."""
        return self.front_end.enhanced_wavs(output, n_max)

    def log1p_target(self, clean_wavs, output):
        """Compute the SE target; see ``JointSystem``."""
        return self.front_end.log1p_target(clean_wavs, output)

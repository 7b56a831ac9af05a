"""One object that composes finished parts. It knows no loss and no file."""

from typing import NamedTuple

import torch
from torch import nn

from merit_modules.errors import InputError
from merit_modules.heads.se import Enhancement
from merit_modules.lengths import (
    TaskLengths,
    absolute_lengths,
    task_lengths,
    valid_mask,
)
from merit_modules.moe.mixture import MixtureOutput


class SystemOutput(NamedTuple):
    """What a system made of a batch; absent for tasks not asked for.

    Arguments
    ---------
    logits : torch.Tensor, optional
        Class logits (B, C).
    enhancement : Enhancement, optional
        Enhanced spectrum.
    mixture : MixtureOutput
        Features and routing decisions.
    n_samples : torch.Tensor
        Lengths in samples (B,).
    """

    logits: torch.Tensor | None
    enhancement: Enhancement | None
    mixture: MixtureOutput
    n_samples: torch.Tensor


class Encoded(NamedTuple):
    """A batch before the heads.

    Arguments
    ---------
    wavs : torch.Tensor
        Normalised waveforms (B, N); zero in padding.
    n_samples : torch.Tensor
        Lengths in samples (B,).
    mixture : MixtureOutput
        Features (B, T, R) of the tasks asked for, and routing decisions.
    lengths : TaskLengths
        What counts for routers and heads.
    """

    wavs: torch.Tensor
    n_samples: torch.Tensor
    mixture: MixtureOutput
    lengths: TaskLengths


class JointSystem(nn.Module):
    """Noisy waveforms to emotion logits and enhanced spectra (paper Fig. 1).

    A system for one task has only that task's head.

    Arguments
    ---------
    normalizer : WaveformNormalizer
        Normalises waveforms.
    ssl_encoder : SSLEncoder
        Waveforms to layer representations.
    mixture : ExpertMixture or TaskLayerSums
        Layer representations to features for the tasks ``se`` and ``ser``.
    se_head : SEHead, optional
        Features and noisy waveform to enhanced spectrum.
    ser_head : SERHead, optional
        Features to class logits.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system = tiny_system()
    >>> wavs, wav_lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    >>> out = system(wavs, wav_lens)
    >>> out.logits.shape, out.enhancement.log1p.shape
    (torch.Size([2, 4]), torch.Size([2, 201, 51]))
    >>> system.enhanced_wavs(out, wavs.shape[1]).shape
    torch.Size([2, 8000])
    >>> system(wavs, wav_lens, tasks=["ser"]).enhancement is None
    True
    """

    def __init__(
        self, normalizer, ssl_encoder, mixture, se_head=None, ser_head=None
    ):
        super().__init__()
        self.normalizer = normalizer
        self.ssl_encoder = ssl_encoder
        self.mixture = mixture
        self.se_head = se_head
        self.ser_head = ser_head

    @property
    def tasks(self):
        """Names of the tasks that there is a head for."""
        heads = {"se": self.se_head, "ser": self.ser_head}
        return [task for task, head in heads.items() if head is not None]

    def forward(self, noisy_wavs, wav_lens=None, tasks=None):
        """Run the tasks asked for.

        Arguments
        ---------
        noisy_wavs : torch.Tensor
            Waveforms (B, N), 16 kHz, as they come from a file.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        tasks : sequence of str, optional
            ``se``, ``ser`` or both; all that there are by default. What
            another task alone needs is not computed.

        Returns
        -------
        SystemOutput
            Logits, enhancement, routing and lengths.
        """
        tasks = self.tasks if tasks is None else tasks
        wavs, n_samples, mixture, lengths = self.encode(
            noisy_wavs, wav_lens, tasks
        )
        logits = enhancement = None
        if "ser" in tasks:
            logits = self.ser_head(
                mixture.features["ser"], n_frames=lengths.pooled
            )
        if "se" in tasks:
            enhancement = self.se_head(
                mixture.features["se"],
                wavs,
                n_frames=lengths.routed,
                n_samples=lengths.enhanced,
            )
        return SystemOutput(logits, enhancement, mixture, n_samples)

    def encode(self, noisy_wavs, wav_lens=None, tasks=None):
        """Do all that comes before the heads.

        Arguments
        ---------
        noisy_wavs : torch.Tensor
            Waveforms (B, N), 16 kHz, as they come from a file.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        tasks : sequence of str, optional
            ``se``, ``ser`` or both; all that there are by default.

        Returns
        -------
        Encoded
            What the heads take.
        """
        if wav_lens is None:
            wav_lens = torch.ones(len(noisy_wavs))
        elif wav_lens.shape != noisy_wavs.shape[:1]:
            raise InputError(
                f"wav_lens: expected {len(noisy_wavs)} relative lengths, got "
                f"a tensor of shape {tuple(wav_lens.shape)}"
            )
        wav_lens = wav_lens.cpu()  # once: a GPU's host waits for it
        tasks = self.tasks if tasks is None else tasks
        n_padded = noisy_wavs.shape[1]
        n_samples = absolute_lengths(wav_lens, n_padded)
        wavs = self.normalize(noisy_wavs, n_samples)
        # One after another: the mixture keeps no layer that it has read.
        layers = self.ssl_encoder.layers(wavs, wav_lens, packed=True)
        lengths = task_lengths(
            self.ssl_encoder.padding_rule,
            n_samples,
            layers.n_frames,
            n_padded,
            layers.n_rows,
            self.ssl_encoder.hop_length,
        )
        mixture = self.mixture.route(
            layers.reps, lengths.routed, tasks, layers.n_rows
        )
        return Encoded(wavs, n_samples, mixture, lengths)

    def normalize(self, wavs, n_samples):
        """Normalise waveforms and keep their padding at zero.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N).
        n_samples : torch.Tensor
            Lengths in samples (B,).

        Returns
        -------
        torch.Tensor
            Normalised waveforms (B, N).
        """
        samples = valid_mask(n_samples, wavs.shape[1], wavs.device)
        return torch.where(samples, self.normalizer(wavs), 0.0)

    def log1p_target(self, clean_wavs, output):
        """Compute the SE target: clean speech in the noisy set's scale.

        Arguments
        ---------
        clean_wavs : torch.Tensor
            Clean waveforms (B, N).
        output : SystemOutput
            What :meth:`forward` made of the noisy ones.

        Returns
        -------
        torch.Tensor
            Log1p feature (B, F, S).
        """
        if self.ssl_encoder.padding_rule == "exact":
            wavs = self.normalize(clean_wavs, output.n_samples)
        else:
            # Their code normalises the clean set, pads it with zeros and then
            # goes over to the noisy set's statistics.
            samples = valid_mask(
                output.n_samples, clean_wavs.shape[1], clean_wavs.device
            )
            wavs = torch.where(samples, clean_wavs, self.normalizer.clean_mean)
            wavs = self.normalizer(wavs)
        lengths = output.enhancement.n_samples
        return self.se_head.log1p_target(wavs, lengths)

    def enhanced_wavs(self, output, n_max):
        """Turn an output into enhanced waveforms.

        Arguments
        ---------
        output : SystemOutput
            What :meth:`forward` returned.
        n_max : int
            Padded length N.

        Returns
        -------
        torch.Tensor
            Waveforms (B, N) in the scale of the input; zero in padding.
        """
        return self._to_wavs(output.enhancement, n_max)

    def enhance_features(self, features, noisy_wavs):
        """Enhance recordings whose features are known.

        Arguments
        ---------
        features : torch.Tensor
            Features of the SE task (B, T, R), without padding.
        noisy_wavs : torch.Tensor
            Waveforms (B, N) that they were made of, without padding.

        Returns
        -------
        torch.Tensor
            Waveforms (B, N) in the scale of the input.
        """
        n_max = noisy_wavs.shape[1]
        wavs = self.normalizer(noisy_wavs)
        enhancement = self.se_head(features, wavs)
        return self._to_wavs(enhancement, n_max)

    def _to_wavs(self, enhancement, n_max):
        wavs = self.se_head.to_wavs(enhancement, n_max)
        samples = valid_mask(enhancement.n_samples, n_max, wavs.device)
        return torch.where(samples, self.normalizer.inverse(wavs), 0.0)


STD_EPS = 1e-8  # released code


def _ask_again(normalizer, incompatible_keys):
    normalizer._is_fitted = False


class WaveformNormalizer(nn.Module):
    """Normalise with ONE mean and ONE standard deviation, and undo it.

    The statistics are those of all samples of the noisy training set. They
    are buffers: saved, loaded and moved with the model.

    Example
    -------
    >>> normalizer = WaveformNormalizer()
    >>> normalizer.set_statistics(mean=0.5, std=2.0)
    >>> normalizer(torch.tensor([[2.5]]))
    tensor([[1.]])
    >>> normalizer.inverse(torch.tensor([[1.0]]))
    tensor([[2.5000]])
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(0.0))
        # Only the released padding rule asks for it: what their code puts
        # where a clean target is padded.
        self.register_buffer("clean_mean", torch.tensor(0.0))
        self._is_fitted = False
        self.register_load_state_dict_post_hook(_ask_again)

    @property
    def is_fitted(self):
        """Whether statistics were set or loaded."""
        # A GPU is asked once: its host waits for the answer.
        if not self._is_fitted or self.std.device.type == "cpu":
            self._is_fitted = bool(self.std > 0)
        return self._is_fitted

    def set_statistics(self, mean, std, clean_mean=0.0):
        """Set the statistics.

        Arguments
        ---------
        mean : float
            Mean over all samples.
        std : float
            Standard deviation over all samples, above 0.
        clean_mean : float
            Mean over all samples of the clean training set.

        Raises
        ------
        ValueError
            If ``std`` is not a positive number.
        """
        if not 0 < std < float("inf"):
            raise ValueError(f"std: expected a positive number, got {std}")
        self.mean.fill_(mean)
        self.std.fill_(std)
        self.clean_mean.fill_(clean_mean)
        self._is_fitted = True

    def forward(self, wavs):
        """Normalise waveforms of any shape."""
        if not self.is_fitted:
            raise RuntimeError(
                "the normaliser has no statistics: call set_statistics() or "
                "load a trained model"
            )
        return (wavs - self.mean) / (self.std + STD_EPS)

    def inverse(self, wavs):
        """Bring normalised waveforms back to the scale of the input."""
        return wavs * (self.std + STD_EPS) + self.mean


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

"""Run a released system on waveforms."""

from typing import NamedTuple

import torch
from torch import nn

from merit_modules.errors import InputError
from merit_modules.pretrained import HPARAMS_FILE, load_folder
from merit_modules.released.converter import (
    build_system,
    choose_labels,
    read_release,
)
from merit_modules.released.files import local_folder


class Routing(NamedTuple):
    """One value per frame for each task.

    Arguments
    ---------
    se : torch.Tensor or None
        For speech enhancement; None in a system without this router.
    ser : torch.Tensor or None
        For emotion recognition.
    """

    se: torch.Tensor | None
    ser: torch.Tensor | None


class ReleasedOutput(NamedTuple):
    """What a system made of a batch.

    Arguments
    ---------
    logits : torch.Tensor
        Class logits (B, C).
    enhanced_wavs : torch.Tensor
        Enhanced waveforms (B, N) in the scale of the input.
    enhanced_log1p : torch.Tensor
        Enhanced log1p feature (B, F, S).
    routing : Routing
        Best expert per frame (B, T), int64; -1 in padding.
    router_probs : Routing
        Probability of each expert per frame (B, T, E); zero in padding.
    """

    logits: torch.Tensor
    enhanced_wavs: torch.Tensor
    enhanced_log1p: torch.Tensor
    routing: Routing
    router_probs: Routing


class ReleasedSystem(nn.Module):
    """A trained system for both tasks, ready to run.

    Arguments
    ---------
    system : JointSystem
        With both heads.
    labels : sequence of str
        Emotions in the order of the logits.
    sample_rate_hz : int
        Sampling rate of the waveforms that it takes.

    Raises
    ------
    InputError
        If the system lacks a part or the statistics.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> labels = ["angry", "sad", "happy", "neutral"]
    >>> released = ReleasedSystem(tiny_system(), labels)
    >>> out = released(torch.randn(2, 8000), torch.tensor([1.0, 0.5]))
    >>> out.enhanced_wavs.shape, out.routing.se[1].eq(-1).sum()
    (torch.Size([2, 8000]), tensor(12))
    """

    def __init__(self, system, labels, sample_rate_hz=16000):
        super().__init__()
        missing = [
            name
            for name in ("ssl_encoder", "mixture", "se_head", "ser_head")
            if getattr(system, name) is None
        ]
        if not system.normalizer.is_fitted:
            missing.append("statistics of the training set")
        if missing:
            raise InputError(
                f"this system cannot run: it lacks {', '.join(missing)}; "
                "training can start from the parts that it has"
            )
        self.system = system
        self.labels = list(labels)
        self.sample_rate_hz = sample_rate_hz
        self.eval()

    @torch.no_grad()
    def forward(self, wavs, wav_lens=None):
        """Enhance and classify.

        Arguments
        ---------
        wavs : torch.Tensor
            Noisy waveforms (B, N), as they come from a file.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.

        Returns
        -------
        ReleasedOutput
            Logits, enhanced speech and routing.

        Raises
        ------
        ValueError
            If the waveforms are not (B, N).
        """
        if wavs.dim() != 2:
            raise ValueError(
                f"wavs: expected (batch, samples), got {tuple(wavs.shape)}"
            )
        output = self.system(wavs, wav_lens)
        mixture = output.mixture
        maps = {task: mixture.expert_map(task) for task in mixture.routing}
        probs = {task: _lay_out(mixture, task) for task in mixture.routing}
        return ReleasedOutput(
            output.logits,
            self.system.enhanced_wavs(output, wavs.shape[1]),
            output.enhancement.log1p,
            Routing(maps.get("se"), maps.get("ser")),
            Routing(probs.get("se"), probs.get("ser")),
        )


def _lay_out(mixture, task):
    probs = mixture.routing[task].probs
    frames = probs.new_zeros(*mixture.valid.shape, probs.shape[-1])
    frames[mixture.valid] = probs
    return frames


def load_release(folder, padding_rule="exact"):
    """Load a trained system from the authors' files or a converted folder.

    Arguments
    ---------
    folder : str or Path
        Either, or ``owner/name`` on the hub; the published sparse models are
        what the authors' files are taken for.
    padding_rule : str
        ``exact``: an utterance's result is the same in any batch.
        ``released``: as in the authors' code.

    Returns
    -------
    ReleasedSystem
        On the CPU, in evaluation mode.

    Raises
    ------
    InputError
        Listing what is missing or does not fit, by file and name.

    Example
    -------
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> load_release(folder)(torch.randn(1, 8000)).logits.shape
    torch.Size([1, 4])
    """
    folder = local_folder(folder)
    if (folder / HPARAMS_FILE).is_file():
        hparams = load_folder(folder, padding_rule=padding_rule)
        rate = hparams["sample_rate_hz"]
        system, labels = hparams["system"], hparams["labels"]
        return ReleasedSystem(system, labels, rate)
    system = build_system(read_release(folder), padding_rule=padding_rule)
    return ReleasedSystem(system, choose_labels(system))

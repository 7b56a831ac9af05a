"""Which expert served which frame: noted in a test, saved, read again."""

import os
import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from speechbrain.processing.vocal_features import compute_autocorr_features

from merit_modules.errors import InputError

FRAMES_PER_S = 50.0
_UNREADABLE = (OSError, ValueError, EOFError, BadZipFile, zlib.error)


class Routing(NamedTuple):
    """The routing decisions of one test condition.

    All frames of all utterances stand one after another, utterances sorted by
    id.

    Arguments
    ---------
    utt_ids : np.ndarray
        Ids of the U utterances.
    n_frames : np.ndarray
        Frames of each (U,), M in all.
    voicing : np.ndarray
        uint8 (M,), see :mod:`merit_modules.evaluation.routing_log`.
    experts : dict
        Task to the best expert of every frame, uint8 (M,).
    probs : dict
        Task to the router's probabilities, float16 (M, E).
    """

    utt_ids: np.ndarray
    n_frames: np.ndarray
    voicing: np.ndarray
    experts: dict
    probs: dict

    def of(self, utt_id):
        """Take one utterance out.

        Arguments
        ---------
        utt_id : str
            Its id.

        Returns
        -------
        Routing or None
            None if it is not there.
        """
        (found,) = np.nonzero(self.utt_ids == utt_id)
        if not len(found):
            return None
        at = found[0]
        start = int(self.n_frames[:at].sum())
        frames = slice(start, start + int(self.n_frames[at]))
        return Routing(
            self.utt_ids[at : at + 1],
            self.n_frames[at : at + 1],
            self.voicing[frames],
            {task: x[frames] for task, x in self.experts.items()},
            {task: x[frames] for task, x in self.probs.items()},
        )


class RoutingLog:
    """Collects routing decisions batch by batch.

    Arguments
    ---------
    sample_rate_hz : int
        Sample rate of the clean speech.
    """

    def __init__(self, sample_rate_hz):
        self.sample_rate_hz = sample_rate_hz
        self._utterances = {}

    def add(self, utt_ids, mixture, clean):
        """Add a batch.

        Arguments
        ---------
        utt_ids : list of str
            Ids of the B utterances.
        mixture : MixtureOutput
            Decisions on its valid frames.
        clean : list of torch.Tensor
            Clean waveforms (N,), for voicing.
        """
        n_frames = mixture.valid.sum(dim=1).tolist()
        entries = [{} for _ in utt_ids]
        for entry, wav, n in zip(entries, clean, n_frames):
            entry["voicing"] = frame_voicing(
                wav, self.sample_rate_hz, n
            ).numpy()
        for task, decision in mixture.routing.items():
            experts = decision.expert_index[:, 0].cpu().split(n_frames)
            probs = decision.probs.detach().float().cpu().split(n_frames)
            for entry, one, p in zip(entries, experts, probs):
                entry[f"expert_{task}"] = one.numpy().astype(np.uint8)
                entry[f"probs_{task}"] = p.numpy().astype(np.float16)
        self._utterances.update(zip(utt_ids, entries))

    def merge(self, other):
        """Add what another log collected.

        Arguments
        ---------
        other : RoutingLog
            That of another process, say.
        """
        self._utterances |= other._utterances

    def save(self, path):
        """Write what was collected, atomically.

        Arguments
        ---------
        path : str or Path
            NumPy archive; no pickle in it.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = sorted(self._utterances)
        entries = [self._utterances[utt_id] for utt_id in ids]
        arrays = {
            name: np.concatenate([entry[name] for entry in entries])
            for name in entries[0]
        }
        temporary = path.with_name(f"{path.name}.tmp")
        with open(temporary, "wb") as stream:
            np.savez_compressed(
                stream,
                utt_ids=np.array(ids),
                n_frames=np.array([len(e["voicing"]) for e in entries]),
                frames_per_s=FRAMES_PER_S,
                **arrays,
            )
        os.replace(temporary, path)


def read_routing(path):
    """Read what :class:`RoutingLog` saved.

    Arguments
    ---------
    path : str or Path
        NumPy archive.

    Returns
    -------
    Routing
        The decisions.

    Raises
    ------
    InputError
        If the file is missing or is none, or an array has a wrong length.

    Example
    -------
    >>> read_routing("nowhere.npz")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere.npz: expected routing decisions...
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        utt_ids, n_frames = arrays["utt_ids"], arrays["n_frames"]
        voicing = arrays["voicing"]
    except (*_UNREADABLE, KeyError) as error:
        raise InputError(
            f"{path}: expected routing decisions: {error}"
        ) from None
    tasks = [
        n.removeprefix("expert_") for n in arrays if n.startswith("expert_")
    ]
    if len(utt_ids) != len(n_frames):
        raise InputError(
            f"{path}: n_frames: expected {len(utt_ids)} utterances, "
            f"got {len(n_frames)}"
        )
    total = int(n_frames.sum())
    for name, array in arrays.items():
        by_frame = name.startswith(("voicing", "expert_", "probs_"))
        if by_frame and len(array) != total:
            raise InputError(
                f"{path}: {name}: expected {total} frames, got {len(array)}"
            )
    return Routing(
        utt_ids,
        n_frames,
        voicing,
        {task: arrays[f"expert_{task}"] for task in tasks},
        {task: arrays[f"probs_{task}"] for task in tasks},
    )


SILENT, UNVOICED, VOICED = range(3)
NAMES = ("silent", "unvoiced", "voiced")

WINDOW_S = 0.04  # two periods of the lowest voice
LOWEST_HZ, HIGHEST_HZ = 75, 400  # pitch of speech
MIN_HARMONICITY = 0.5  # autocorrelation at the period, relative to lag 0
SILENCE_DB = -40.0  # below the loudest frame


def frame_voicing(wav, sample_rate_hz, n_frames, hop=320, receptive_field=400):
    """Tell voiced from unvoiced and silent frames.

    A frame is silent if it is 40 dB below the utterance's loudest one, and
    voiced if its autocorrelation has a peak of at least half its energy at a
    period of 75 to 400 Hz.

    Arguments
    ---------
    wav : torch.Tensor
        Clean speech (N,).
    sample_rate_hz : int
        Its sample rate.
    n_frames : int
        Number of frames T of the SSL encoder.
    hop : int
        Samples from one frame to the next.
    receptive_field : int
        Samples that a frame sees.

    Returns
    -------
    torch.Tensor
        uint8 (T,): 0 silent, 1 unvoiced, 2 voiced.

    Example
    -------
    >>> time = torch.arange(16000) / 16000
    >>> wav = sum(torch.sin(2 * torch.pi * 120 * k * time) for k in (1, 2, 3))
    >>> wav[8000:] = 0
    >>> frame_voicing(wav, 16000, 49)[[10, 40]]
    tensor([2, 0], dtype=torch.uint8)
    """
    window = round(WINDOW_S * sample_rate_hz)
    margin = (window - receptive_field) // 2
    # So that each window has the middle of the SSL encoder's frame.
    n_padded = (n_frames - 1) * hop + window
    padded = wav.new_zeros(max(n_padded, len(wav) + margin))
    padded[margin : margin + len(wav)] = wav
    frames = padded[:n_padded].unfold(0, window, hop)
    energy_db = 10 * (frames.square().mean(dim=-1) + 1e-12).log10()
    harmonicity, _ = compute_autocorr_features(
        frames.unsqueeze(0),
        min_lag=sample_rate_hz // HIGHEST_HZ,
        max_lag=sample_rate_hz // LOWEST_HZ,
    )
    voicing = torch.full((n_frames,), UNVOICED, dtype=torch.uint8)
    voicing[harmonicity[0] >= MIN_HARMONICITY] = VOICED
    voicing[energy_db < energy_db.max() + SILENCE_DB] = SILENT
    return voicing

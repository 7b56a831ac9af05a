"""Run a system on waveforms of any lengths, and give each its own result."""

import threading
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from merit_modules.data.kinds import list_of, one_of
from merit_modules.errors import InputError
from merit_modules.inference.windows import Piece
from merit_modules.system import CascadeSystem


class WholeResult(NamedTuple):
    """What a system made of a whole recording.

    Arguments
    ---------
    enhanced : torch.Tensor or None
        Enhanced samples (n,); None if not asked for.
    piece : Piece
        Features and routing.
    """

    enhanced: torch.Tensor | None
    piece: Piece


class Engine:
    """A system on its device, safe to be used by several threads.

    Arguments
    ---------
    system : JointSystem or CascadeSystem
        In evaluation mode.
    device : str
        Where it is.
    context : contextmanager, optional
        Entered around each call, such as an autocast.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> engine = Engine(tiny_system())
    >>> wavs = [torch.randn(8000), torch.randn(4000)]
    >>> [len(piece.features["ser"]) for piece in engine.encode(wavs, ["ser"])]
    [24, 12]
    """

    def __init__(self, system, device="cpu", context=None):
        self.system = system
        self.device = device
        self.context = context
        # One call at a time: side by side they are slower, and an encoder
        # that listens to its layers would mix them up.
        self._lock = threading.Lock()

    @property
    def tasks(self):
        """Names of the tasks that the system can do."""
        heads = {"se": self.system.se_head, "ser": self.system.ser_head}
        return [task for task, head in heads.items() if head is not None]

    def check_tasks(self, tasks):
        """Raise unless the system can do what is asked for.

        Arguments
        ---------
        tasks : sequence of str
            ``se``, ``ser`` or both.

        Raises
        ------
        InputError
            If there is no such task, or it lacks a head.

        Example
        -------
        >>> from merit_modules.tiny import tiny_system
        >>> Engine(tiny_system()).check_tasks(["se", "ser"])
        """
        spoken = {"se": "enhance speech", "ser": "recognise emotions"}
        some = list_of("tasks out of se, ser", one_of(*spoken), 1)
        for task in some.check("tasks", tasks):
            if task not in self.tasks:
                can = " and ".join(spoken[t] for t in self.tasks)
                raise InputError(
                    f"this model cannot {spoken[task]}; it can {can}"
                )

    @property
    def frame_hop(self):
        """Samples from one SSL frame to the next."""
        return self.system.ssl_encoder.hop_length

    @property
    def batches_are_exact(self):
        """Whether a result is the same in any batch."""
        return self.system.ssl_encoder.padding_rule == "exact"

    @property
    def is_cascade(self):
        """Whether one system enhances and another one listens to that."""
        return isinstance(self.system, CascadeSystem)

    def forward(self, wavs, wav_lens, tasks):
        """Run a padded batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N).
        wav_lens : torch.Tensor
            Relative lengths (B,).
        tasks : sequence of str
            What to compute.

        Returns
        -------
        output : SystemOutput
            The system's output, on its device.
        enhanced : torch.Tensor or None
            Enhanced waveforms (B, N), if that was asked for.
        """
        wavs, wav_lens = wavs.to(self.device), wav_lens.to(self.device)
        with self._computing():
            output = self.system(wavs, wav_lens, tasks)
            enhanced = None
            if "se" in tasks:
                enhanced = self.system.enhanced_wavs(output, wavs.shape[1])
        return output, enhanced

    @contextmanager
    def _computing(self):
        context = self.context or nullcontext()
        with self._lock, torch.no_grad(), context:
            yield

    def run_whole(self, wavs, tasks):
        """Run whole recordings of different lengths.

        Arguments
        ---------
        wavs : list of torch.Tensor
            B waveforms (n,), each at least a frame long.
        tasks : sequence of str
            What to compute.

        Returns
        -------
        list of WholeResult
            One per waveform, on the CPU.
        """
        if len(wavs) > 1 and not self.batches_are_exact:
            return [r for wav in wavs for r in self.run_whole([wav], tasks)]
        batch, wav_lens = _pad(wavs)
        output, enhanced = self.forward(batch, wav_lens, tasks)
        pieces = _pieces(wavs, output.mixture)
        if enhanced is None:
            return [WholeResult(None, piece) for piece in pieces]
        enhanced = enhanced.float().cpu()
        return [
            WholeResult(row[: len(wav)], piece)
            for row, wav, piece in zip(enhanced, wavs, pieces)
        ]

    def encode(self, wavs, tasks):
        """Do for windows all that comes before the heads.

        Of a cascade, that is what the front end does.

        Arguments
        ---------
        wavs : list of torch.Tensor
            B windows (n,), each at least a frame long.
        tasks : sequence of str
            What features are for.

        Returns
        -------
        list of Piece
            One per window, on the CPU.
        """
        system = self.system
        if self.is_cascade:
            system, tasks = system.front_end, ["se"]
        return self._encode(system, wavs, tasks)

    def encode_behind(self, wav):
        """Do the same for a window of enhanced speech in a cascade.

        Arguments
        ---------
        wav : torch.Tensor
            The window (n,).

        Returns
        -------
        Piece
            Features of the SER head and routing, on the CPU.
        """
        (piece,) = self._encode(self.system.ser_system, [wav], ["ser"])
        return piece

    def _encode(self, system, wavs, tasks):
        if len(wavs) > 1 and not self.batches_are_exact:
            return [
                p for wav in wavs for p in self._encode(system, [wav], tasks)
            ]
        batch, wav_lens = _pad(wavs)
        with self._computing():
            encoded = system.encode(
                batch.to(self.device), wav_lens.to(self.device), tasks
            )
        return _pieces(wavs, encoded.mixture)

    def enhance(self, features, wav):
        """Run the SE head on a stretch of a recording.

        Arguments
        ---------
        features : torch.Tensor
            Features of its frames (T, R).
        wav : torch.Tensor
            Its noisy samples (n,).

        Returns
        -------
        torch.Tensor
            Enhanced samples (n,), on the CPU.
        """
        system = self.system.front_end if self.is_cascade else self.system
        with self._computing():
            (enhanced,) = system.enhance_features(
                features[None].to(self.device), wav[None].to(self.device)
            )
        return enhanced.float().cpu()


def _pad(wavs):
    lengths = torch.tensor([len(wav) for wav in wavs])
    batch = pad_sequence(wavs, batch_first=True)
    return batch, lengths / batch.shape[1]


def _pieces(wavs, mixture):
    """Take the results of a batch apart."""
    features = {task: f.float().cpu() for task, f in mixture.features.items()}
    maps = {
        task: mixture.expert_map(task).to(torch.int8).cpu()
        for task in mixture.routing
    }
    return [
        Piece(
            wav,
            {task: f[i, :n] for task, f in features.items()},
            {task: experts[i, :n] for task, experts in maps.items()},
        )
        for i, (wav, n) in enumerate(
            zip(wavs, mixture.valid.sum(dim=1).tolist())
        )
    ]

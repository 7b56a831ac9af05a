"""Run a system on waveforms of any lengths, and give each its own result."""

import threading

import torch
from torch.nn.utils.rnn import pad_sequence

from merit_modules.errors import InputError
from merit_modules.inference.joiner import WindowResult


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
    >>> results = engine.run([torch.randn(8000), torch.randn(4000)], ["ser"])
    >>> [result.features.shape[0] for result in results]
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
            If it lacks a head.

        Example
        -------
        >>> from merit_modules.tiny import tiny_system
        >>> Engine(tiny_system()).check_tasks(["se", "ser"])
        """
        spoken = {"se": "enhance speech", "ser": "recognise emotions"}
        for task in tasks:
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
        SystemOutput
            The system's output, on its device.
        """
        context = self.context or torch.autocast("cpu", enabled=False)
        wavs, wav_lens = wavs.to(self.device), wav_lens.to(self.device)
        with self._lock, torch.no_grad(), context:
            return self.system(wavs, wav_lens, tasks)

    def run(self, wavs, tasks):
        """Run waveforms of different lengths.

        Arguments
        ---------
        wavs : list of torch.Tensor
            B waveforms (n,), each at least a frame long.
        tasks : sequence of str
            What to compute.

        Returns
        -------
        list of WindowResult
            One per waveform, on the CPU.
        """
        if len(wavs) > 1 and not self.batches_are_exact:
            return [result for wav in wavs for result in self.run([wav], tasks)]
        batch = pad_sequence(wavs, batch_first=True)
        lengths = torch.tensor([len(wav) for wav in wavs])
        n_max = batch.shape[1]
        output = self.forward(batch, lengths / n_max, tasks)
        enhanced = features = None
        if "se" in tasks:
            with torch.no_grad():
                enhanced = self.system.enhanced_wavs(output, n_max).float()
            enhanced = enhanced.cpu()
        mixture = output.mixture
        if "ser" in tasks:
            features = mixture.features["ser"].float().cpu()
        n_frames = mixture.valid.sum(dim=1).tolist()
        maps = {
            task: mixture.expert_map(task).to(torch.int8).cpu()
            for task in mixture.routing
        }
        return [
            WindowResult(
                None if enhanced is None else enhanced[i, :n],
                None if features is None else features[i, :t],
                {task: experts[i, :t] for task, experts in maps.items()},
            )
            for i, (n, t) in enumerate(zip(lengths.tolist(), n_frames))
        ]

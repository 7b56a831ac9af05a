"""Audio that is still going on: blocks in, results out, one session each."""

import torch

from merit_modules.errors import InputError
from merit_modules.inference.assembler import Update
from merit_modules.inference.audio import ArraySource
from merit_modules.inference.windows import WindowFeeder


class LiveSession:
    """One recording that arrives block by block.

    Gives what the same recording gives from a file with the same chunking.

    Arguments
    ---------
    engine : Engine
        Runs the windows.
    tasks : sequence of str
        What to compute.
    windowing : Windowing
        How the recording is cut.
    assembler : Assembler
        Puts it together again.
    to_system : BlockResampler
        From the blocks' sample rate to the system's.
    sample_rate_hz : int
        Sample rate of the blocks.
    latency_s : float
        Seconds from a sample to its enhanced one, at the most, not counting
        the time to compute.

    Example
    -------
    >>> from merit_modules.inference import SparseMERIT
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> session = SparseMERIT.from_hparams(source=folder).live()
    >>> blocks = torch.randn(60000).split(20000)
    >>> [len(session.push(block).enhanced) for block in blocks]
    [0, 23200, 16000]
    >>> len(session.finish().enhanced), session.latency_s
    (20800, 1.55)
    """

    def __init__(
        self,
        engine,
        tasks,
        windowing,
        assembler,
        to_system,
        sample_rate_hz,
        latency_s,
    ):
        self.engine = engine
        self.tasks = list(tasks)
        self.sample_rate_hz = sample_rate_hz
        self.latency_s = latency_s
        self._to_system = to_system
        self._feeder = WindowFeeder(windowing)
        self._assembler = assembler
        self._n_samples = 0
        self._n_out = 0
        self._over = False

    def push(self, block):
        """Take the next block.

        Arguments
        ---------
        block : torch.Tensor or numpy.ndarray
            Samples (n,) or (channels, n), of any number.

        Returns
        -------
        Update
            What became known; nothing, mostly, until a window is full.

        Raises
        ------
        InputError
            If the block holds NaN, or the session is over.
        """
        if self._over:
            raise InputError("this live session is over: start another one")
        samples = torch.zeros(0)
        if len(block):
            source = ArraySource(block, self.sample_rate_hz, "block")
            samples = torch.cat(list(source.blocks()))
        self._n_samples += len(samples)
        update = self._run(self._feeder.feed(self._to_system(samples)))
        if update.enhanced is not None:
            self._n_out += len(update.enhanced)
        return update

    def finish(self):
        """End the recording.

        Returns
        -------
        Update
            The rest, and the emotion of the whole recording.

        Raises
        ------
        InputError
            If there was no block, or the session is over.
        """
        if self._over or not self._n_samples:
            raise InputError("this live session has no audio to finish")
        self._over = True
        updates = [
            self._run(self._feeder.feed(self._to_system.finish())),
            self._run(self._feeder.close()),
            self._assembler.finish(self._n_samples / self.sample_rate_hz),
        ]
        last = _merge(updates)
        if last.enhanced is not None:
            wanted = self._n_samples - self._n_out
            last = last._replace(enhanced=last.enhanced[:wanted])
        return last

    def _run(self, windows):
        silence = torch.zeros(0) if "se" in self.tasks else None
        updates = [Update(silence, [], {}, None)]
        for window, wav in windows:
            whole = window.is_whole
            run = self.engine.run_whole if whole else self.engine.encode
            (result,) = run([wav], self.tasks)
            updates.append(self._assembler.add(window, result))
        return _merge(updates)


def _merge(updates):
    enhanced = [u.enhanced for u in updates if u.enhanced is not None]
    routing = {}
    for update in updates:
        for task, experts in update.routing.items():
            routing.setdefault(task, []).append(experts)
    return Update(
        torch.cat(enhanced) if enhanced else None,
        [segment for update in updates for segment in update.segments],
        {task: torch.cat(parts) for task, parts in routing.items()},
        updates[-1].emotion,
    )

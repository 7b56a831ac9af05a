"""SpeechBrain's augmentation of noisy speech; targets stay aligned."""

import torch

from merit_modules.errors import InputError

#: What would make other batches of a batch, for which there are no labels.
EXPECTED = {
    "parallel_augment": False,
    "concat_original": False,
    "repeat_augment": 1,
    "augment_start_index": 0,
    "augment_end_index": None,
}


#: Nothing that a system is to undo: the target follows, whatever the length.
FOLLOWED = ("SignFlip", "ChannelSwap")
#: What has no aligned target.
REFUSED = {
    "CutCat": "mixes utterances, whose labels differ",
    "RandAmp": "brings each waveform to a level of its own",
}


class AlignedAugmenter:
    """Augments noisy waveforms; the clean ones follow a change of time.

    Noise, reverberation, dropped frequencies and chunks are what the system is
    to undo: the clean target stays as it is. Where an augmentation changes the
    length (speed) or the sign, the same draw is applied to the clean waveforms,
    too.

    Arguments
    ---------
    augmenter : speechbrain.augment.augmenter.Augmenter
        As in SpeechBrain's recipes (``wav_augment``).

    Raises
    ------
    InputError
        If it would add copies to the batch, augment a part of it, or leave no
        aligned target.

    Example
    -------
    >>> from speechbrain.augment.augmenter import Augmenter
    >>> from speechbrain.augment.time_domain import SpeedPerturb
    >>> speed = SpeedPerturb(16000, speeds=[50])
    >>> augment = AlignedAugmenter(Augmenter(augmentations=[speed]))
    >>> wavs = torch.randn(2, 8000)
    >>> noisy, clean, lengths = augment(wavs, wavs, torch.ones(2))
    >>> noisy.shape, torch.equal(noisy, clean)
    (torch.Size([2, 16000]), True)
    """

    def __init__(self, augmenter):
        for key, expected in EXPECTED.items():
            found = getattr(augmenter, key, expected)
            if found != expected:
                raise InputError(
                    f"wav_augment: {key}: expected {expected}, got {found}"
                )
        self.augmenter = augmenter
        self._calls = None
        for part in augmenter.augmentations.values():
            name = type(part).__name__
            if name in REFUSED:
                raise InputError(f"wav_augment: {name} {REFUSED[name]}")
            part.register_forward_pre_hook(self._before)
            part.register_forward_hook(self._after)

    def __call__(self, noisy, clean, lengths):
        """Augment a batch.

        Arguments
        ---------
        noisy : torch.Tensor
            Noisy waveforms (B, N).
        clean : torch.Tensor
            Clean waveforms (B, N).
        lengths : torch.Tensor
            Relative lengths (B,).

        Returns
        -------
        noisy : torch.Tensor
            Augmented waveforms (B, N').
        clean : torch.Tensor
            Clean waveforms (B, N') at the same times.
        lengths : torch.Tensor
            Relative lengths (B,).
        """
        self._calls = []
        noisy, lengths = self.augmenter(noisy, lengths)
        changes, self._calls = self._calls, None
        with torch.random.fork_rng(enabled=bool(changes)):
            for part, states in changes:
                _set_states(states)
                clean = part(clean)
        missing = noisy.shape[1] - clean.shape[1]
        return noisy, torch.nn.functional.pad(clean, (0, missing)), lengths

    def _before(self, part, _):
        if self._calls is not None:
            self._calls.append((part, _states()))

    def _after(self, part, inputs, output):
        if self._calls is None:
            return
        wavs = output[0] if isinstance(output, tuple) else output
        is_followed = type(part).__name__ in FOLLOWED
        if wavs.shape[1] == inputs[0].shape[1] and not is_followed:
            self._calls.pop()


def _states():
    """What is drawn next, on the CPU and on the GPU in use."""
    cuda = torch.cuda.is_initialized()
    return torch.get_rng_state(), torch.cuda.get_rng_state() if cuda else None


def _set_states(states):
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])

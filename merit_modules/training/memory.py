"""What helps where the memory of a GPU is too small for a batch."""

import shlex
from contextlib import contextmanager

import speechbrain as sb
import torch

from merit_modules.errors import InputError
from merit_modules.training.checkpoints import last_checkpoint


class TellsWhatFits:
    """A Brain that says what to change where a batch is too large."""

    def fit_batch(self, batch):
        """Train on a batch; see ``speechbrain.Brain``.

        Raises
        ------
        InputError
            If the GPU's memory is too small.
        """
        with self._told(batch, sb.Stage.TRAIN):
            return super().fit_batch(batch)

    def evaluate_batch(self, batch, stage):
        """Validate or test on a batch; see ``speechbrain.Brain``.

        Raises
        ------
        InputError
            If the GPU's memory is too small.
        """
        with self._told(batch, stage):
            return super().evaluate_batch(batch, stage)

    @contextmanager
    def _told(self, batch, stage):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise InputError(self._too_large(batch, stage, error)) from error

    def _too_large(self, batch, stage, error):
        n_utterances, n_samples = batch.noisy_wav.data.shape
        seconds = n_utterances * n_samples / self.hparams.sample_rate_hz
        told = str(error).partition(" Including")[0]
        half = (
            f"--max_batch_size {max(1, n_utterances // 2)} "
            f"--batch_length_s {self.hparams.batch_length_s / 2:g}"
        )
        ways = [
            f"begin anew (--start_over) with {half} "
            f"--grad_accumulation_factor {self.grad_accumulation_factor * 2}"
        ]
        last = last_checkpoint(self.checkpointer)
        kept = f"The last good checkpoint is {last}."
        if self.precision == "fp32":
            ways[0] += " or --precision bf16"
        if stage == sb.Stage.TEST:
            folder = shlex.quote(str(self.hparams.output_folder))
            ways = [f"merit evaluate {folder} {half}"]
            kept = "Conditions that were tested are kept."
        elif stage == sb.Stage.TRAIN and not getattr(
            self.hparams, "ssl_checkpointing", True
        ):
            ways.insert(0, "go on with --ssl_checkpointing True (slower)")
        return (
            f"the memory of {self.device} is too small for a batch of "
            f"{n_utterances} utterances, {seconds:.0f} s with padding: {told} "
            f"What helps: {'; or '.join(ways)}. {kept}"
        )

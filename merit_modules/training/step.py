"""A training step for which the host never makes a GPU wait."""

import math
import shlex

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from merit_modules.data.gathering import gathered
from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError

logger = get_logger(__name__)


class Later:
    """Numbers that the host can ask for without draining the device.

    A GPU copies it when it has computed it, and works on at what was given to
    it since. On other devices it is copied at once.

    Arguments
    ---------
    numbers : torch.Tensor
        What to read later.

    Example
    -------
    >>> Later(torch.tensor(0.5)).value()
    tensor(0.5000)
    """

    def __init__(self, numbers):
        # PyTorch pins the memory that a GPU copies to behind our back.
        self._copy = numbers.detach().to("cpu", non_blocking=numbers.is_cuda)
        self._is_there = None
        if numbers.is_cuda:
            self._is_there = torch.cuda.Event()
            self._is_there.record()

    def value(self):
        """Return it (torch.Tensor, on the CPU), when all before it is done."""
        if self._is_there is not None:
            self._is_there.synchronize()
        return self._copy


class StepsWithoutWaiting:
    """What a Brain does with a batch of training.

    SpeechBrain's Brain reads the loss before the backward pass and after the
    step, and an idle GPU has to be filled again each time. Here the loss is on
    its way while the backward pass is given to the GPU; the host reads it
    before the step, which changes weights.
    """

    _norm = None  # of the gradients that the last step may have left out

    def make_dataloader(self, dataset, stage, **kwargs):
        """Make a loader from whose memory a GPU copies by itself."""
        kwargs.setdefault("pin_memory", self.device_type == "cuda")
        return super().make_dataloader(dataset, stage, **kwargs)

    def fit_batch(self, batch):
        """Train on a batch; see ``speechbrain.Brain``.

        Raises
        ------
        InputError
            If the loss is not a number, or the GPU's memory too small.
        """
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        try:
            outputs, loss, value = self._accumulate(batch, should_step)
            if should_step:
                if self.surgery is not None:
                    epoch = self.hparams.epoch_counter.current
                    seed = keyed_seed(self.hparams.seed, epoch, self.step)
                    self.surgery.set_gradients(seed)
                self.optimizers_step()
        except torch.OutOfMemoryError as error:
            ways = self._lighter_trainings(batch)
            raise InputError(self._too_large(batch, error, ways)) from error
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step:
            self.schedule.end_step(self.optimizer_step)
        return value

    def evaluate_batch(self, batch, stage):
        """Validate or test on a batch; see ``speechbrain.Brain``.

        Raises
        ------
        InputError
            If the GPU's memory is too small.
        """
        try:
            return super().evaluate_batch(batch, stage)
        except torch.OutOfMemoryError as error:
            if stage != sb.Stage.TEST:  # there are no gradients either
                ways = self._lighter_trainings(batch)[-1:]
                told = self._too_large(batch, error, ways)
                raise InputError(told) from error
            folder = shlex.quote(str(self.hparams.output_folder))
            ways = [f"merit evaluate {folder} {self._half_as_much(batch)}"]
            kept = "Conditions that were tested are kept."
            told = self._too_large(batch, error, ways, kept)
            raise InputError(told) from error

    def _accumulate(self, batch, should_step):
        """Add the gradients of a batch to those that wait for a step."""
        # With surgery, processes meet when all gradients of a step are there.
        apart = not should_step or self.surgery is not None
        # A batch that may be left out must not spoil those before it.
        asks_first = self.nonfinite_patience and (
            self.grad_accumulation_factor > 1
        )
        with self.no_sync(apart):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            later = Later(torch.stack([self._worst(loss), loss]))
            if not asks_first or later.value()[0].isfinite():
                self._backward(loss)
        value, own = later.value()
        to_track, self._to_track = self._to_track, None
        self.check_loss_isfinite(value, own)
        if value.isfinite():
            if self._counts():
                self._track(*to_track)
        elif not asks_first:
            self.zero_grad(set_to_none=True)
            if self.surgery is not None:
                self.surgery.forget()
        return outputs, loss, value

    def _backward(self, loss):
        share = 1 / self.grad_accumulation_factor
        if self.surgery is None:
            scaled = self.scaler.scale(loss / self.grad_accumulation_factor)
            scaled.backward()
            return
        self.surgery.accumulate(
            {
                task: self.scaler.scale(share * loss)
                for task, loss in self._task_losses.items()
            },
            [p for p in self.modules.parameters() if p.requires_grad],
        )

    def _worst(self, loss):
        """Return a loss that is NaN if a process has one that is no number.

        What one process leaves out, the others must not wait for.
        """
        if not (self.distributed_launch and self.nonfinite_patience):
            return loss
        bad = (~torch.isfinite(loss)).int()
        torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        return torch.where(bad > 0, math.nan, loss)

    def check_loss_isfinite(self, loss, own=None):
        """Stop at a loss that is not a number.

        With ``--nonfinite_patience N``, the first N batches of an epoch whose
        loss is none are left out.

        Arguments
        ---------
        loss : torch.Tensor
            The loss of a batch, on the CPU; NaN if that of any process is no
            number.
        own : torch.Tensor, optional
            That of this process; the same by default.

        Raises
        ------
        InputError
            Naming the utterances of the batch. The checkpoints stay.
        """
        if loss.isfinite():
            return
        self.nonfinite_count += 1
        loss = (loss if own is None else own).item()
        bad = not math.isfinite(loss) and (loss, self._batch_ids)
        # Without patience, others may well have a number.
        found = gathered(bad) if self.nonfinite_patience else [bad]
        found = [one for one in found if one]
        loss = found[0][0]
        names = ", ".join(name for _, names in found for name in names)
        if self.nonfinite_count <= self.nonfinite_patience:
            logger.warning(f"the loss became {loss}: left out {names}")
            return
        raise InputError(
            f"the loss became {loss} in epoch "
            f"{self.hparams.epoch_counter.current}, step {self.step}, on the "
            f"utterances {names}. Try a lower lr or max_grad_norm, or "
            f"--precision fp32; the last good checkpoint is "
            f"{self._last_checkpoint()}."
        )

    def _last_checkpoint(self):
        last = self.checkpointer and self.checkpointer.find_checkpoint()
        return last.path if last else "not there yet"

    def _half_as_much(self, batch):
        n_utterances = max(1, len(batch.noisy_wav.data) // 2)
        length_s = self.hparams.batch_length_s / 2
        return f"--max_batch_size {n_utterances} --batch_length_s {length_s:g}"

    def _lighter_trainings(self, batch):
        ways = [
            f"begin anew (--start_over) with {self._half_as_much(batch)} "
            f"--grad_accumulation_factor {self.grad_accumulation_factor * 2}"
        ]
        if self.precision == "fp32":
            ways[0] += " or --precision bf16"
        if not getattr(self.hparams, "ssl_checkpointing", True):
            ways.insert(0, "go on with --ssl_checkpointing True (slower)")
        return ways

    def _too_large(self, batch, error, ways, kept=None):
        n_utterances, n_samples = batch.noisy_wav.data.shape
        seconds = n_utterances * n_samples / self.hparams.sample_rate_hz
        told = str(error).partition(" Including")[0]
        if kept is None:
            kept = f"The last good checkpoint is {self._last_checkpoint()}."
        return (
            f"the memory of {self.device} is too small for a batch of "
            f"{n_utterances} utterances, {seconds:.0f} s with padding: {told} "
            f"What helps: {'; or '.join(ways)}. {kept}"
        )

    def optimizers_step(self):
        """Clip over all parameter groups (SpeechBrain: the first), step."""
        self._tell_left_out()
        groups = self.optimizer.param_groups
        parameters = [p for group in groups for p in group["params"]]
        if any(p.grad is not None for p in parameters):
            self.scaler.unscale_(self.optimizer)
            skips = self.skip_nonfinite_grads and not self.scaler.is_enabled()
            clips = self.max_grad_norm > 0
            if clips or skips:
                norm = torch.nn.utils.clip_grad_norm_(
                    parameters, self.max_grad_norm if clips else math.inf
                )
            if skips:
                self._leave_out_unless(norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if skips:
                self.optimizer.found_inf = None
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def _leave_out_unless(self, norm):
        """Leave the step out if the norm of the gradients is no number."""
        self._norm = self.optimizer_step + 1, Later(norm)
        if getattr(self.optimizer, "_step_supports_amp_scaling", False):
            # What PyTorch's GradScaler tells a fused optimizer.
            self.optimizer.found_inf = (~torch.isfinite(norm)).float()
        elif not torch.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)

    def _tell_left_out(self):
        """Warn of the step before, whose norm is known by now."""
        (step, norm), self._norm = self._norm or (0, None), None
        if norm is not None and not norm.value().isfinite():
            logger.warning(f"gradients are not finite: step {step} left out")

    def _fit_train(self, *args, **kwargs):
        super()._fit_train(*args, **kwargs)
        self._tell_left_out()

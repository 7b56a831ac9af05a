"""A training step for which the host never makes a GPU wait."""

import math

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger

from merit_modules.data.gathering import gathered
from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError
from merit_modules.training.checkpoints import last_checkpoint

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
            If the loss is not a number.
        """
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        outputs, loss, value = self._accumulate(batch, should_step)
        if should_step:
            if self.surgery is not None:
                epoch = self.hparams.epoch_counter.current
                seed = keyed_seed(self.hparams.seed, epoch, self.step)
                self.surgery.set_gradients(seed)
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step:
            self.schedule.end_step(self.optimizer_step)
        return value

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
            f"{last_checkpoint(self.checkpointer)}."
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

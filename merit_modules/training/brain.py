"""The training of a joint system on SpeechBrain's Brain."""

from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.enhancement import MetricError, si_sdr_db
from merit_modules.training.checkpoints import SCORES, scores_of
from merit_modules.training.conflict import ConflictLog, conflict
from merit_modules.training.gradients import (
    GradientSurgery,
    parameter_groups,
    task_gradients,
)
from merit_modules.training.tracking import EpochTracker, readable

logger = get_logger(__name__)


#: What can be done where the gradients of the tasks conflict.
SURGERIES = ("none", "pcgrad")


class JointBrain(sb.Brain):
    """Trains and evaluates a :class:`~merit_modules.system.JointSystem`.

    Stage 1 trains everything but the SSL encoder, stage 2 everything but its
    convolutional front end (unless the encoder asks for that, too).

    Hyperparameters that it reads: ``seed``, ``stage_1_epochs``,
    ``ssl_lr_factor``, ``lr_annealing``, ``loss``, ``checkpoint_score``,
    ``keep_checkpoints``, ``epoch_counter``, ``train_logger``,
    ``tensorboard_logger``, ``gradient_surgery``,
    ``gradient_conflict_interval``, ``output_folder``.

    Arguments
    ---------
    target : EmotionTarget or AttributeTarget
        What the SER head learns.
    train_mixer : NoiseMixer
        Told of every epoch, so that it draws new noise.
    **kwargs : dict
        Arguments of ``speechbrain.Brain``; ``modules`` must hold ``system``
        and ``loss``.

    Raises
    ------
    InputError
        If ``checkpoint_score``, ``keep_checkpoints`` or ``gradient_surgery``
        is no allowed value, or the last is asked for with fewer than two
        tasks.
    """

    def __init__(self, target, train_mixer, **kwargs):
        super().__init__(**kwargs)
        self.target = target
        self.target.to(self.device)
        self.train_mixer = train_mixer
        self.tracker = EpochTracker()
        self.condition = None  # collects the scores of a test condition
        self._records = []
        self._batch_ids = []
        score = self.hparams.checkpoint_score
        if score not in SCORES:
            raise InputError(
                f"checkpoint_score: expected one of {', '.join(SCORES)}, "
                f"got {score!r}"
            )
        n_kept = self.hparams.keep_checkpoints
        if not (isinstance(n_kept, int) and n_kept >= 1):
            raise InputError(
                f"keep_checkpoints: expected 1 or more, got {n_kept!r}"
            )
        self._set_up_gradients()
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("tracker", self.tracker)
            if self.hparams.loss.weighting is not None:
                self.checkpointer.add_recoverable("loss", self.hparams.loss)

    @property
    def system(self):
        """The system itself, without a wrapper for distributed training."""
        module = self.modules.system
        return getattr(module, "module", module)

    def _set_up_gradients(self):
        several = len(self.system.tasks) > 1
        kind = self.hparams.gradient_surgery
        if kind not in SURGERIES:
            raise InputError(
                f"gradient_surgery: expected one of {', '.join(SURGERIES)}, "
                f"got {kind!r}"
            )
        if kind != "none" and not several:
            raise InputError(
                f"gradient_surgery {kind}: expected a system with two tasks, "
                f"this one has {', '.join(self.system.tasks)}"
            )
        self.surgery = GradientSurgery() if kind == "pcgrad" else None
        self.conflict_log = None
        if several and self.hparams.gradient_conflict_interval:
            self.conflict_log = ConflictLog(
                Path(self.hparams.output_folder) / "gradient_conflict.json",
                self.hparams.tensorboard_logger,
            )

    # ---- one batch ----------------------------------------------------

    def compute_forward(self, batch, stage):
        """Run the system on the noisy waveforms.

        Arguments
        ---------
        batch : PaddedBatch
            With ``noisy_wav``, see :mod:`merit_modules.data.pipelines`.
        stage : speechbrain.Stage
            Not used: training and test go the same way.

        Returns
        -------
        SystemOutput
            What the system made of the batch.
        """
        # As the loader made them: a GPU need not be asked for them.
        _, wav_lens = batch.noisy_wav
        batch.to(self.device)
        wavs, _ = batch.noisy_wav
        return self.modules.system(wavs, wav_lens)

    def fit_batch(self, batch):
        """Train on a batch; see ``speechbrain.Brain``.

        Arguments
        ---------
        batch : PaddedBatch
            See :meth:`compute_objectives`.

        Returns
        -------
        torch.Tensor
            The loss, a scalar without gradient.
        """
        if self.surgery is None:
            return super().fit_batch(batch)
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        # Gradients are averaged over processes when all of a step are there.
        with self.no_sync(), self.training_ctx:
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
        self.check_loss_isfinite(loss)
        scale = self.scaler.get_scale() / self.grad_accumulation_factor
        self.surgery.accumulate(
            {task: scale * loss for task, loss in self._task_losses.items()},
            [p for p in self.modules.parameters() if p.requires_grad],
        )
        if should_step:
            epoch = self.hparams.epoch_counter.current
            seed = keyed_seed(self.hparams.seed, epoch, self.step)
            self.surgery.set_gradients(seed)
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach().cpu()

    def compute_objectives(self, predictions, batch, stage):
        """Compute the loss and keep what the epoch's statistics need.

        Arguments
        ---------
        predictions : SystemOutput
            What :meth:`compute_forward` returned.
        batch : PaddedBatch
            With ``clean_wav`` and ``ser_label``.
        stage : speechbrain.Stage
            The stage of the experiment.

        Returns
        -------
        torch.Tensor
            The loss, a scalar.
        """
        labels = self.target.labels(batch)
        terms = self.hparams.loss.terms(
            self.system,
            predictions,
            batch.clean_wav.data,
            labels,
            self.target.loss,
        )
        self._track(terms, predictions, labels)
        if stage != sb.Stage.TRAIN:
            self._keep_predictions(predictions, batch, labels, stage)
            return self.hparams.loss(terms)
        if self._measures_conflict():
            self._log_conflict(self.hparams.loss.by_task(terms))
        if self.surgery is not None:
            self._task_losses = self.hparams.loss.by_task(terms)
            return sum(self._task_losses.values())
        return self.modules.loss(terms)

    def _measures_conflict(self):
        every = self.hparams.gradient_conflict_interval
        return self.conflict_log is not None and (
            self.optimizer_step % every == 0
            and self.step % self.grad_accumulation_factor == 0
        )

    def _log_conflict(self, losses):
        groups = parameter_groups(self.system)
        parameters = [p for group in groups.values() for p in group]
        if not if_main_process() or not parameters:
            return
        gradients = task_gradients(
            losses, parameters, scale=self.scaler.get_scale()
        )
        self.conflict_log.add(
            self.optimizer_step,
            self.hparams.epoch_counter.current,
            conflict(gradients, parameters, groups),
        )

    def _track(self, terms, predictions, labels):
        # Each term is a mean: over utterances (weighted), frames or decisions.
        weights = {
            self.target.loss.term: self.target.loss.weight(labels),
            "se_si_sdr": len(labels),
        }
        if predictions.enhancement is not None:
            weights["se_l1"] = predictions.enhancement.n_frames.sum()
        n_frames = predictions.mixture.valid.sum()
        for name, term in terms.items():
            self.tracker.add(name, term, weights.get(name, n_frames))
        self.tracker.add_routing(predictions.mixture)
        weighting = self.hparams.loss.weighting
        for task, weight in weighting.weights().items() if weighting else ():
            self.tracker.add(f"{task}_task_weight", weight)

    def _keep_predictions(self, predictions, batch, labels, stage):
        records, enhanced = [{} for _ in batch.id], None
        if predictions.logits is not None:
            outputs = self.target.activate(predictions.logits)
            pairs = zip(outputs.tolist(), labels.tolist(), strict=True)
            records = [self.target.record(*pair) for pair in pairs]
            self._records += records
        if predictions.enhancement is not None:
            wavs = self.system.enhanced_wavs(
                predictions, batch.noisy_wav.data.shape[1]
            )
            enhanced = cut(wavs, predictions.n_samples)
        clean = cut(batch.clean_wav.data, predictions.n_samples)
        noisy = cut(batch.noisy_wav.data, predictions.n_samples)
        if stage == sb.Stage.TEST:
            self.condition.add(
                batch.id,
                records,
                (clean, noisy, enhanced),
                batch.recipe,
                predictions.mixture,
            )
        elif enhanced is not None:
            self._track_gains(clean, noisy, enhanced)

    def _track_gains(self, clean, noisy, enhanced):
        for reference, before, after in zip(clean, noisy, enhanced):
            try:
                gain = si_sdr_db(after, reference) - si_sdr_db(
                    before, reference
                )
            except MetricError:  # noisy is clean, or silence came out
                continue
            self.tracker.add("si_sdr_gain_db", gain)

    def on_fit_batch_start(self, batch, should_step):
        """Seed all that is drawn in this step by its place in the run."""
        self._batch_ids = batch.id
        epoch = self.hparams.epoch_counter.current
        torch.manual_seed(keyed_seed(self.hparams.seed, epoch, self.step))

    def check_loss_isfinite(self, loss):
        """Stop at the first loss that is not a number.

        Raises
        ------
        InputError
            Naming the utterances of the batch. The checkpoints stay.
        """
        if torch.isfinite(loss):
            return
        last = self.checkpointer and self.checkpointer.find_checkpoint()
        raise InputError(
            f"the loss became {loss.item()} in epoch "
            f"{self.hparams.epoch_counter.current}, step {self.step}, on the "
            f"utterances {', '.join(self._batch_ids)}. Try a lower lr or "
            "max_grad_norm, or --precision fp32; the last good checkpoint is "
            f"{last.path if last else 'not there yet'}."
        )

    # ---- optimisation -------------------------------------------------

    def init_optimizers(self):
        """Make the optimiser: the SSL encoder at its own learning rate."""
        ssl = set(self.system.ssl_encoder.parameters())
        groups = [
            {"params": [], "lr_factor": 1.0},
            {"params": [], "lr_factor": float(self.hparams.ssl_lr_factor)},
        ]
        for parameter in self.modules.parameters():
            if parameter.requires_grad:
                groups[parameter in ssl]["params"].append(parameter)
        self.optimizer = self.opt_class([g for g in groups if g["params"]])
        self.optimizers_dict = {"optimizer": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def optimizers_step(self):
        """Clip over all parameter groups (SpeechBrain: the first), step."""
        self.scaler.unscale_(self.optimizer)
        if self.max_grad_norm > 0:
            groups = self.optimizer.param_groups
            torch.nn.utils.clip_grad_norm_(
                [p for group in groups for p in group["params"]],
                self.max_grad_norm,
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    def _should_save_intra_epoch_ckpt(self, last_ckpt_time, steps_since_ckpt):
        # Gradients that wait for their step are in no checkpoint.
        waiting = self.step % self.grad_accumulation_factor != 0
        return not waiting and super()._should_save_intra_epoch_ckpt(
            last_ckpt_time, steps_since_ckpt
        )

    def make_dataloader(self, dataset, stage, **kwargs):
        """Make a loader; see ``speechbrain.Brain``."""
        loader = super().make_dataloader(dataset, stage, **kwargs)
        if stage == sb.Stage.TRAIN and self.train_sampler is None:
            # SpeechBrain tells a batch sampler of the epoch only in DDP.
            self.train_sampler = kwargs.get("batch_sampler")
        return loader

    # ---- epochs -------------------------------------------------------

    def on_stage_start(self, stage, epoch=None):
        """Prepare an epoch.

        Arguments
        ---------
        stage : speechbrain.Stage
            The stage of the experiment.
        epoch : int, optional
            The epoch, from 1; None in the test.
        """
        # In the middle of an epoch the tracker was loaded, not started.
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.tracker.reset()
        self._records = []
        if stage == sb.Stage.TRAIN:
            self.train_mixer.set_epoch(epoch)
            self._set_frozen(epoch <= self.hparams.stage_1_epochs)
            self._set_lr(epoch)

    def _set_frozen(self, frozen):
        encoder = self.system.ssl_encoder
        if encoder.frozen == frozen:
            return
        logger.info(f"SSL encoder {'frozen' if frozen else 'trained'} from now")
        encoder.set_frozen(frozen)
        if self.distributed_launch:  # DDP must know what has gradients
            self.modules["system"] = self.system
            self._wrap_distributed()

    def _set_lr(self, epoch):
        # SpeechBrain's epoch schedulers count from 0.
        _, lr = self.hparams.lr_annealing(epoch - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = float(lr) * group["lr_factor"]

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log an epoch; after validation, save it.

        Arguments
        ---------
        stage : speechbrain.Stage
            The stage of the experiment.
        stage_loss : float
            SpeechBrain's running mean over batches.
        epoch : int, optional
            The epoch, from 1; None in the test.
        """
        stats = self.tracker.means()
        if stage == sb.Stage.TEST:
            return
        with torch.no_grad():
            stats["loss"] = float(self.hparams.loss(stats))
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        if self._records:
            scores = self.target.scores(self._records)
            stats |= {name: scores[name] for name in self.target.score_names}
        self._log_epoch(epoch, stats)
        self._save_epoch({**stats, "epoch": epoch})

    def _log_epoch(self, epoch, valid_stats):
        meta = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        self.hparams.train_logger.log_stats(
            {**meta, "lr": f"{meta['lr']:.2e}"},
            train_stats=readable(self.train_stats),
            valid_stats=readable(valid_stats),
        )
        board = self.hparams.tensorboard_logger
        if board is None:
            return
        # It counts its own calls, from 0 again in a resumed run.
        board.global_step["meta"] = epoch - 1
        for split, stats in (
            ("train", self.train_stats),
            ("valid", valid_stats),
        ):
            board.global_step[split] = dict.fromkeys(stats, epoch - 1)
        board.log_stats(meta, self.train_stats, valid_stats)

    def _save_epoch(self, stats):
        if self.checkpointer is None:
            return
        score = self.hparams.checkpoint_score
        if score not in stats:
            raise InputError(
                f"checkpoint_score {score!r} was not computed in validation; "
                f"there are {', '.join(k for k in SCORES if k in stats)}"
            )
        self.checkpointer.save_and_keep_best(
            {k: stats[k] for k in SCORES if k in stats},
            score,
            SCORES[score],
            self.hparams.keep_checkpoints,
        )

    # ---- test ---------------------------------------------------------

    def load_best(self):
        """Load the best checkpoint of the run.

        Returns
        -------
        dict
            Its validation scores and its epoch; empty without a checkpoint.
        """
        score = self.hparams.checkpoint_score
        found = self.checkpointer.find_best(score, SCORES[score], 1)
        if not found:
            logger.warning("No checkpoint: the system is tested as it is.")
            return {}
        self.checkpointer.load_checkpoint(found[0])
        return scores_of(found[0])

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Keep the weights: :meth:`load_best` loads them, once for all sets."""


def cut(wavs, n_samples):
    """Take the padding off a batch.

    Arguments
    ---------
    wavs : torch.Tensor
        Waveforms (B, N).
    n_samples : torch.Tensor
        Lengths in samples (B,).

    Returns
    -------
    list of torch.Tensor
        B waveforms on the CPU.

    Example
    -------
    >>> [len(wav) for wav in cut(torch.zeros(2, 9), torch.tensor([9, 4]))]
    [9, 4]
    """
    wavs = wavs.detach().float().cpu()
    return [wav[:n] for wav, n in zip(wavs, n_samples.tolist())]

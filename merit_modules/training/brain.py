"""The training of a joint system on SpeechBrain's Brain."""

import random
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedData
from speechbrain.utils.checkpoints import (
    DEFAULT_SAVE_HOOKS,
    get_default_hook,
)
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from merit_modules.data.gathering import gathered
from merit_modules.data.kinds import numbered
from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError
from merit_modules.losses.joint import OF_ALL
from merit_modules.losses.shares import FRAMES
from merit_modules.ssl.compiled import CompilesParts
from merit_modules.training.augmentation import AlignedAugmenter
from merit_modules.training.checkpoints import (
    KEPT,
    SCORES,
    check_selection,
    find_best,
    first_whole,
    save_best,
    scores_of,
)
from merit_modules.training.conflict import ConflictLog, conflict
from merit_modules.training.defaults import DEFAULTS
from merit_modules.training.gradients import (
    make_surgery,
    optimizer_groups,
    parameter_groups,
    task_gradients,
)
from merit_modules.training.memory import TellsWhatFits
from merit_modules.training.pace import TellsItsPace
from merit_modules.training.ranks import TrainsAsOne
from merit_modules.training.schedule import Schedule
from merit_modules.training.step import StepsWithoutWaiting
from merit_modules.training.stopping import SavesWhenAsked
from merit_modules.training.tracking import (
    EpochTracker,
    cut,
    log_epoch,
    track_gains,
)

logger = get_logger(__name__)


class JointBrain(
    CompilesParts,
    SavesWhenAsked,
    TellsItsPace,
    TellsWhatFits,
    StepsWithoutWaiting,
    TrainsAsOne,
    sb.Brain,
):
    """Trains and evaluates a :class:`~merit_modules.system.JointSystem`.

    Stage 1 trains everything but the SSL encoder, stage 2 everything but its
    convolutional front end (unless the encoder asks for that, too).

    Hyperparameters that it reads: ``loss``, ``epoch_counter``,
    ``output_folder``; and, with defaults in
    :mod:`merit_modules.training.defaults`, ``seed``, ``stage_1_epochs``,
    ``ssl_lr_factor``, ``expert_lr_factor``, ``lr_annealing``,
    ``wav_augment``, ``checkpoint_score``, ``keep_checkpoints``,
    ``train_logger``, ``tensorboard_logger``, ``gradient_surgery``,
    ``gradient_conflict_interval``.

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
        If ``checkpoint_score``, ``keep_checkpoints``, ``gradient_surgery``,
        ``lr_annealing`` or ``wav_augment`` is nothing that can be done.
    """

    def __init__(self, target, train_mixer, **kwargs):
        hparams = {**DEFAULTS, **kwargs["hparams"]}
        run_opts = numbered(kwargs.get("run_opts"), hparams) or {}
        given = getattr(run_opts, "overridden_args", run_opts)
        if "ckpt_interval_steps" in given:  # SpeechBrain: one of the two
            hparams["ckpt_interval_minutes"] = 0
        super().__init__(**{**kwargs, "hparams": hparams, "run_opts": run_opts})
        if "nonfinite_patience" not in {*given, *kwargs["hparams"]}:
            self.nonfinite_patience = 0
        self.target = target
        self.target.to(self.device)
        self.train_mixer = train_mixer
        self.tracker = EpochTracker()
        self.condition = None  # collects the scores of a test condition
        self._records = []
        self._batch_ids = []
        check_selection(
            self.hparams.checkpoint_score, self.hparams.keep_checkpoints
        )
        tasks = self.system.tasks
        self.surgery = make_surgery(self.hparams.gradient_surgery, tasks)
        self.conflict_log = None
        if len(tasks) > 1 and self.hparams.gradient_conflict_interval:
            self.conflict_log = ConflictLog(
                Path(self.hparams.output_folder) / "gradient_conflict.json",
                self.hparams.tensorboard_logger,
            )
        self.schedule = Schedule(self.hparams.lr_annealing)
        augment = self.hparams.wav_augment
        self.augment = None if augment is None else AlignedAugmenter(augment)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("tracker", self.tracker)
            scheduler = self.hparams.lr_annealing
            if get_default_hook(scheduler, DEFAULT_SAVE_HOOKS) is not None:
                self.checkpointer.add_recoverable("lr_annealing", scheduler)
            if self.hparams.loss.weighting is not None:
                self.checkpointer.add_recoverable("loss", self.hparams.loss)

    # ---- one batch ----------------------------------------------------

    def compute_forward(self, batch, stage):
        """Run the system on the noisy waveforms.

        Arguments
        ---------
        batch : PaddedBatch
            With ``noisy_wav``, see :mod:`merit_modules.data.pipelines`.
        stage : speechbrain.Stage
            In training, waveforms are augmented where that is asked for.

        Returns
        -------
        SystemOutput
            What the system made of the batch.
        """
        # As the loader made them: a GPU need not be asked for them. (It copies
        # the rest while the host goes on; on Apple's that is not safe.)
        _, wav_lens = batch.noisy_wav
        batch.to(self.device, non_blocking=self.device_type != "mps")
        wavs, _ = batch.noisy_wav
        if self.augment is not None and stage == sb.Stage.TRAIN:
            clean = batch.clean_wav.data
            lens = wav_lens.to(self.device)  # where its parts compute
            wavs, clean, wav_lens = self.augment(wavs, clean, lens)
            batch.noisy_wav = PaddedData(wavs, wav_lens)
            batch.clean_wav = PaddedData(clean, wav_lens)
        if stage != sb.Stage.TRAIN:  # a process may have fewer batches
            return self.system(wavs, wav_lens)
        return self.modules.system(wavs, wav_lens)

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
        labels, share = self.target.labels(batch), None
        weights = self.hparams.loss.weights(
            predictions, labels, self.target.loss
        )
        if stage == sb.Stage.TRAIN:
            share = self._share_of(weights, predictions)
        terms = self.hparams.loss.terms(
            self.system,
            predictions,
            batch.clean_wav.data,
            labels,
            self.target.loss,
            share,
        )
        self._to_track = terms, weights, predictions
        if stage != sb.Stage.TRAIN:
            self._track(*self._to_track)
            self._keep_predictions(predictions, batch, labels, stage)
            return self.hparams.loss(terms)
        if self._measures_conflict():
            self._log_conflict(self.hparams.loss.by_task(terms))
        if share is not None:
            terms = share.weigh(terms, OF_ALL)
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
        scaled = {t: self.scaler.scale(loss) for t, loss in losses.items()}
        gradients = task_gradients(scaled, parameters, self.scaler.get_scale())
        self.conflict_log.add(
            self.optimizer_step,
            self.hparams.epoch_counter.current,
            conflict(gradients, parameters, groups),
        )

    def _track(self, terms, weights, predictions):
        for name, term in terms.items():
            weight = weights.get(name, weights[FRAMES])
            self.tracker.add(name, term, weight)
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
            track_gains(self.tracker, clean, noisy, enhanced)

    def on_fit_batch_start(self, batch, should_step):
        """Seed all that is drawn in this step by its place in the run."""
        self._batch_ids = batch.id
        epoch = self.hparams.epoch_counter.current
        place = [self.rank] if self.distributed_launch else []
        seed = keyed_seed(self.hparams.seed, epoch, self.step, *place)
        torch.manual_seed(seed)
        if self.augment is not None:
            random.seed(seed)  # SpeechBrain's Augmenter draws from it, too

    # ---- optimisation -------------------------------------------------

    def init_optimizers(self):
        """Make the optimiser: SSL encoder and experts at their own rates."""
        rates = [(self.system.ssl_encoder, self.hparams.ssl_lr_factor)]
        factor = self.hparams.expert_lr_factor
        if factor != 1.0:  # else a group fewer, as in earlier checkpoints
            experts = getattr(self.system.mixture, "experts", None)
            if experts is None:
                raise InputError(
                    f"expert_lr_factor {factor}: expected a system with "
                    "experts, this one has none"
                )
            rates.append((experts, factor))
        groups = optimizer_groups(
            self.modules, rates, self.remove_vector_weight_decay
        )
        self.optimizer = self.schedule.optimizer = self.opt_class(groups)
        self.optimizers_dict = {"optimizer": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    # ---- epochs -------------------------------------------------------

    def on_stage_start(self, stage, epoch=None):
        """Prepare an epoch, counted from 1; see ``speechbrain.Brain``."""
        # In the middle of an epoch the tracker was loaded, not started.
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.tracker.reset()
        self._records = []
        if stage == sb.Stage.TRAIN:
            self.train_mixer.set_epoch(epoch)
            self._set_frozen(epoch <= self.hparams.stage_1_epochs)
            self.schedule.start_epoch(epoch)

    def _set_frozen(self, frozen):
        encoder = self.system.ssl_encoder
        if encoder.frozen == frozen:
            return
        logger.info(f"SSL encoder {'frozen' if frozen else 'trained'} from now")
        encoder.set_frozen(frozen)
        if self.distributed_launch:  # DDP must know what has gradients
            self._wrap_distributed()

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
        self.tracker.gather()
        stats = self.tracker.means()
        if stage == sb.Stage.TEST:
            return
        with torch.no_grad():
            stats["loss"] = float(self.hparams.loss(stats))
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        self._records = sum(gathered(self._records), [])
        if self._records:
            scores = self.target.scores(self._records)
            stats |= {name: scores[name] for name in self.target.score_names}
            stats |= self.target.calibration(self._records)
        log_epoch(
            self.hparams,
            {"epoch": epoch, "lr": self.schedule.rate},
            self.train_stats,
            stats,
            self.pace_stats,
        )
        self.schedule.end_epoch(epoch, stats["loss"])
        self._save_epoch({**stats, "epoch": epoch})

    def _save_epoch(self, stats):
        score = self.hparams.checkpoint_score
        if score not in stats:
            raise InputError(
                f"checkpoint_score {score!r} was not computed in validation; "
                f"there are {', '.join(k for k in SCORES if k in stats)}"
            )
        counter = self.hparams.epoch_counter
        if hasattr(counter, "update_metric"):  # EpochCounterWithStopper
            counter.update_metric(stats[score])
        if self.checkpointer is not None:
            save_best(
                self.checkpointer,
                {k: stats[k] for k in KEPT if k in stats},
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

        Raises
        ------
        InputError
            If there is none with ``--test_only``, unless all weights were
            given by ``init_from``.
        """
        score, found = self.hparams.checkpoint_score, []
        if self.checkpointer is not None:
            found = find_best(self.checkpointer, score, SCORES[score])
        if not found:
            given = self.hparams.init_from and self.hparams.init_parts == "all"
            if self.test_only and not given:
                raise InputError(
                    f"test_only: expected a checkpoint in "
                    f"{self.checkpointer.checkpoints_dir}, found none: train "
                    "first, without --test_only"
                )
            logger.warning("No checkpoint: the system is tested as it is.")
            return {}
        (best,), _ = first_whole(found)
        self.checkpointer.load_checkpoint(best)
        return scores_of(best)

    def on_evaluate_start(self, max_key=None, min_key=None):
        """Keep the weights: :meth:`load_best` loads them, once for all sets."""

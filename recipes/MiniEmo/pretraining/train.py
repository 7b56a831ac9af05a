#!/usr/bin/env python3
"""Recipe for pretraining a small WavLM on synthetic speech, without labels.

> python train.py hparams/mini.yaml

Masked prediction of random-projection targets (BEST-RQ,
https://arxiv.org/abs/2202.01855) of the clean speech, from speech with noise
or another voice mixed in (WavLM, https://arxiv.org/abs/2110.13900).

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from draws import Draws
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.data.manifest import read_manifest
from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError
from merit_modules.lengths import absolute_lengths, valid_mask
from merit_modules.pretrained.weights import compare_shapes
from merit_modules.ssl import PretrainedSSLEncoder
from merit_modules.training.tracking import EpochTracker

logger = get_logger(__name__)


class PretrainingBrain(sb.Brain):
    """Predicts the codes of masked frames, and, with less weight, of others."""

    def compute_forward(self, batch, stage):
        """Encode masked, noisy speech; code the clean speech."""
        batch = batch.to(self.device)
        noisy_wavs, wav_lens = batch.noisy_wav
        clean_wavs, _ = batch.clean_wav
        codes = self.modules.targets(clean_wavs, wav_lens)
        encoder = self.modules.encoder
        n_rows = encoder.count_frames(torch.tensor(noisy_wavs.shape[1])).item()
        n_samples = absolute_lengths(wav_lens, noisy_wavs.shape[1])
        n_frames = encoder.count_frames(n_samples)
        masked = draw_mask(
            n_frames,
            n_rows,
            self.hparams.mask_start_prob,
            self.hparams.mask_length,
        ).to(self.device, non_blocking=True)
        layers = encoder.layers(
            self.modules.normalizer(noisy_wavs), wav_lens, masked=masked
        )
        *_, last = layers.reps
        last = encoder.model.encoder.layer_norm(last)
        seen = valid_mask(n_frames, n_rows, self.device) & ~masked
        return self.modules.heads(last), codes[:, :n_rows], masked, seen

    def compute_objectives(self, predictions, batch, stage):
        """Cross entropy of masked frames, and of the others as weighted."""
        logits, codes, masked, seen = predictions
        logits = logits.unflatten(-1, (codes.shape[-1], -1))
        hits = logits[masked].detach().argmax(-1) == codes[masked]
        self.tracker.add("masked_accuracy", hits.double().mean(0), len(hits))
        loss = _cross_entropy(logits[masked], codes[masked])
        if self.hparams.seen_weight:
            loss_seen = _cross_entropy(logits[seen], codes[seen])
            loss = loss + self.hparams.seen_weight * loss_seen
        return loss

    def on_fit_batch_start(self, batch, should_step):
        """Seed the masks by the step's place in the run."""
        epoch = self.hparams.epoch_counter.current
        torch.manual_seed(keyed_seed(self.hparams.seed, epoch, self.step))

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Follow the schedule; tell of the progress now and then."""
        if not should_step:
            return
        self.hparams.lr_schedule(self.optimizer, self.optimizer_step)
        if self.optimizer_step % self.hparams.log_interval == 0:
            told = ", ".join(
                f"{name} {value:.3f}"
                for name, value in self.tracker.means().items()
            )
            logger.info(f"step {self.optimizer_step}: this epoch's {told}")

    def init_optimizers(self):
        """Make the optimizer; what the epoch found is saved with it."""
        super().init_optimizers()
        self.tracker = EpochTracker()
        self.checkpointer.add_recoverable("tracker", self.tracker)

    def on_stage_start(self, stage, epoch=None):
        """Begin an epoch, or go on with it."""
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.tracker.reset()
        if stage == sb.Stage.TRAIN:
            self.hparams.draws.set_epoch(epoch)
        else:
            torch.manual_seed(self.hparams.seed)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log the epoch; save after validation."""
        self.tracker.gather()
        stats = {"loss": stage_loss, **self.tracker.means()}
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
            return
        meta = {"epoch": epoch, "steps": self.optimizer_step}
        self.hparams.train_logger.log_stats(meta, self.train_stats, stats)
        self.checkpointer.save_and_keep_only(meta=stats, min_keys=["loss"])


def draw_mask(n_frames, n_rows, start_prob, length):
    """Draw what is hidden: stretches of frames, at least one of each utterance.

    Arguments
    ---------
    n_frames : torch.Tensor
        Frames of each utterance (B,).
    n_rows : int
        Padded number of frames T.
    start_prob : float
        How often a stretch begins with a frame.
    length : int
        Frames of a stretch.

    Returns
    -------
    torch.Tensor
        Mask (B, T), bool; False in padding.

    Example
    -------
    >>> draw_mask(torch.tensor([2, 1]), 3, start_prob=0.0, length=2).sum(1) > 0
    tensor([True, True])
    """
    starts = torch.rand(len(n_frames), n_rows) < start_prob
    one = (torch.rand(len(n_frames)) * n_frames).long()
    starts.scatter_(1, one.unsqueeze(1), True)
    before = torch.nn.functional.pad(starts.float(), (length - 1, 0))
    masked = torch.nn.functional.max_pool1d(before, length, stride=1) > 0
    return masked & valid_mask(n_frames, n_rows)


def _cross_entropy(logits, codes):
    """Average over frames and codebooks; 0 where there is no frame."""
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), codes.flatten(), reduction="sum"
    )
    return total / max(1, codes.numel())


def dataio_prepare(hparams):
    """Make the datasets: chunks of clean speech, and their noisy versions."""
    noise = read_manifest(
        hparams["noise_annotation"], hparams["noise_root"], "noise"
    )
    datasets = {}
    for split in ("train", "valid"):
        dataset = DynamicItemDataset.from_json(
            hparams[f"{split}_annotation"],
            replacements={"data_root": hparams["speech_root"]},
        )
        draws = Draws(
            dataset.data,
            noise,
            hparams["chunk_s"],
            hparams["noise_prob"],
            hparams["voice_prob"],
            hparams["snr_db"],
            hparams["seed"],
        )
        dataset.add_dynamic_item(
            draws, takes=["id", "wav"], provides=["noisy_wav", "clean_wav"]
        )
        dataset.set_output_keys(["id", "noisy_wav", "clean_wav"])
        datasets[split] = dataset
        if split == "train":
            hparams["draws"] = draws
    return datasets


def fit_statistics(hparams, dataset):
    """Learn the scale of waveforms and mel bands from some utterances."""
    step = max(1, len(dataset) // 200)
    heard = [dataset[i] for i in range(0, len(dataset), step)]
    noisy = torch.cat([item["noisy_wav"] for item in heard])
    hparams["normalizer"].set_statistics(
        noisy.mean().item(), noisy.std().item()
    )
    hparams["targets"].fit(item["clean_wav"] for item in heard)


def main(argv):
    """Pretrain what the YAML file describes, then write the encoder."""
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    sb.utils.distributed.ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    run_on_main(hparams["prepare"])
    datasets = dataio_prepare(hparams)
    fit_statistics(hparams, datasets["train"])
    encoder = hparams["encoder"]
    if hparams["init_source"]:
        take_weights(encoder.model, hparams["init_source"])
    # What pretraining alone uses.
    encoder.model.masked_spec_embed.requires_grad_(True)
    encoder.model.encoder.layer_norm.requires_grad_(True)
    brain = PretrainingBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs=hparams["train_dataloader_opts"],
        valid_loader_kwargs=hparams["valid_dataloader_opts"],
    )
    brain.checkpointer.recover_if_possible(min_key="loss")
    folder = Path(hparams["output_folder"]) / "encoder"
    run_on_main(write_encoder, args=(encoder.model, folder))
    logger.info(f"The encoder: {folder}")


def take_weights(model, source):
    """Start from the weights of an encoder of the same sizes.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        What is to start.
    source : str
        ``mini``, a folder in transformers' form, or a hub name.

    Raises
    ------
    InputError
        If the source cannot be loaded, or has other sizes.
    """
    start = PretrainedSSLEncoder(source).model.state_dict()
    problems = compare_shapes(start, model.state_dict())
    if problems:
        raise InputError(
            f"init_source {source!r}: its sizes are not those of the YAML "
            f"file: {'; '.join(problems[:3])}"
        )
    model.load_state_dict(start)


def write_encoder(model, folder):
    """Write a model in half precision, in transformers' form."""
    halved = type(model)(model.config)
    halved.load_state_dict(model.state_dict())
    halved.half().save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1:])

#!/usr/bin/env python3
"""Recipe for joint speech enhancement and emotion recognition
on MSP-Podcast.

> python train.py hparams/sparse_merit.yaml \
      --data_folder /corpora/MSP-PODCAST-Publish-1.11 \
      --noise_folder /corpora/noise

Sparse MERIT and the systems it is compared with:
https://arxiv.org/abs/2509.08470

Authors
 * The contributors of Sparse MERIT for SpeechBrain 2026
"""

import sys

import speechbrain as sb
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.distributed import run_on_main

from merit_modules.data.manifest import files_of, read_manifest
from merit_modules.data.mixing import NoiseMixer
from merit_modules.data.offline.read import PairedFolders
from merit_modules.data.pipelines import make_dataset
from merit_modules.evaluation.conditions import noise_grid
from merit_modules.evaluation.evaluation import evaluate_conditions
from merit_modules.training.brain import JointBrain
from merit_modules.training.datasets import Data, check_audio
from merit_modules.training.defaults import with_defaults
from merit_modules.training.experiment import as_command, begin_run
from merit_modules.training.keys import checked
from merit_modules.training.start import first_experiment, set_weights
from merit_modules.training.targets import make_target


def dataio_prepare(hparams):
    """Make the datasets: noisy speech, clean speech and labels."""
    rate_hz = hparams["sample_rate_hz"]

    # 1. Utterances and noises, by their manifests
    tests = files_of(
        hparams["test_annotation"], "test_set", hparams["test_sets"]
    )
    names = ["train", "valid", *hparams["test_noise_sets"]]
    noises = files_of(hparams["noise_annotation"], "noise_set", names)
    speech = {
        name: read_manifest(path, hparams["speech_root"])
        for name, path in {
            "train": hparams["train_annotation"],
            "valid": hparams["valid_annotation"],
            **tests,
        }.items()
    }

    def noise_of(noise_set):
        return read_manifest(noises[noise_set], hparams["noise_root"], "noise")

    # 2. Mixers: noise, offset and SNR of an utterance. New ones in every epoch
    # of training, always the same ones in validation and test.
    def mixer_of(noise, snr_db, seed):
        about_mean = hparams["snr_about_mean"]
        return NoiseMixer(noise, snr_db, seed, rate_hz, about_mean=about_mean)

    if hparams["train_mixtures"]:
        train_mixer = PairedFolders(hparams["train_mixtures"], rate_hz)
        speech["train"] = train_mixer.manifest
    else:
        train_mixer = mixer_of(
            noise_of("train"), hparams["train_snr_db"], hparams["seed"]
        )
    seed = hparams["mixture_seed"]
    valid_mixer = mixer_of(noise_of("valid"), hparams["valid_snr_db"], seed)

    # 3. Labels: emo, or what ser_target asks for, to what the SER head learns
    target = make_target(
        hparams["ser_target"],
        speech,
        hparams["ser_outputs"],
        hparams["attribute_scale"],
    )

    # 4. The pipeline: wav to noisy_wav and clean_wav, emo to ser_label. What
    # comes back is a DynamicItemDataset: add_dynamic_item() adds to it.
    def dataset_of(name, mixer):
        return make_dataset(
            speech[name],
            mixer,
            target.reader,
            rate_hz,
            hparams["max_duration_s"],
        )

    # 5. All audio is read once, before training can stumble over a file.
    mixers = dict.fromkeys(speech, mixer_of(None, None, 0))
    mixers |= {"train": train_mixer, "valid": valid_mixer}
    statistics = check_audio(
        speech,
        mixers,
        dataset_of,
        hparams["output_folder"],
        save_folder=hparams["save_folder"],
        settings=[hparams["max_duration_s"], rate_hz],
        num_workers=hparams["num_workers"],
        skip_broken=hparams["skip_broken_audio"],
        manifest=hparams["train_annotation"],
    )
    hparams["system"].normalizer.set_statistics(**statistics)

    # 6. The test: every test set with every noise at every SNR, and clean
    conditions = noise_grid(
        hparams["test_sets"],
        {name: noise_of(name) for name in hparams["test_noise_sets"]},
        hparams["test_snrs_db"],
        lambda name, noise, snr_db: dataset_of(
            name, mixer_of(noise, snr_db, seed)
        ),
        clean=hparams["test_clean"],
    )
    return Data(
        train=dataset_of("train", train_mixer),
        valid=dataset_of("valid", valid_mixer),
        conditions=conditions,
        train_mixer=train_mixer,
        target=target,
    )


def loader_kwargs(hparams, dataset, shuffle=False):
    """Make the arguments of a loader: batches of like lengths, by duration."""
    longest_s = hparams["max_duration_s"] or float("inf")
    sampler = DynamicBatchSampler(
        dataset,
        max_batch_length=hparams["batch_length_s"],
        num_buckets=hparams["n_length_buckets"],
        length_func=lambda entry: min(entry["duration"], longest_s),
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "descending",
        max_batch_ex=hparams["max_batch_size"],
        seed=hparams["seed"],
    )
    return {"batch_sampler": sampler, "num_workers": hparams["num_workers"]}


def make_brain(hparams, run_opts, data, brain_class=JointBrain):
    """Make the Brain: forward pass, loss and epochs are in its class.

    To change one of them, write a subclass here. It finds all keys of the YAML
    file as attributes: hparams.ssl_lr_factor, hparams.expert_lr_factor,
    hparams.lr_annealing, hparams.wav_augment, hparams.gradient_surgery,
    hparams.gradient_conflict_interval, hparams.checkpoint_score,
    hparams.keep_checkpoints, hparams.train_logger, hparams.tensorboard_logger.
    """
    return brain_class(
        target=data.target,
        train_mixer=data.train_mixer,
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )


def fit(brain, hparams, data):
    """Train, or go on where an earlier start of this run was stopped."""
    data.train_mixer.keep_noise()
    brain.fit(
        hparams["epoch_counter"],
        data.train,
        data.valid,
        train_loader_kwargs=loader_kwargs(hparams, data.train, shuffle=True),
        valid_loader_kwargs=loader_kwargs(hparams, data.valid),
    )


def evaluate(brain, hparams, data):
    """Test the best checkpoint, write results.json, print its table.

    The folder keeps hparams.corpus_about for the card of an exported model.
    """
    about = {
        "corpus": hparams["corpus_name"],
        "system": hparams["system_name"],
        "seed": hparams["seed"],
    }
    if "fold" in hparams:
        about["fold"] = hparams["fold"]
    settings = ("mixture_seed", "max_duration_s", "sample_rate_hz")
    return evaluate_conditions(
        brain,
        data.conditions,
        hparams["output_folder"],
        about,
        {key: hparams[key] for key in settings},
        loader_kwargs=lambda dataset: loader_kwargs(hparams, dataset),
        metrics=hparams["metrics"],
        num_metric_workers=hparams["num_metric_workers"],
        dnsmos_model=hparams["dnsmos_model"],
        chosen=hparams["test_conditions"],
        n_examples=hparams["n_examples"],
        removal_conditions=hparams["removal_conditions"],
        cost_duration_s=hparams["measure_cost"]
        and min(hparams["batch_length_s"], 64.0),
    )


def train(hparams_file, run_opts, overrides):
    """Train what a YAML file describes; return brain, hparams and data."""
    with checked(hparams_file, run_opts, overrides) as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    hparams = with_defaults(hparams, hparams_file)
    prepare = None if hparams["skip_prep"] else hparams["prepare"]
    run_on_main(begin_run, args=[hparams_file, overrides, hparams, prepare])
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    data = dataio_prepare(hparams)

    def train_first(name):
        path, options = first_experiment(
            hparams_file, name, overrides, hparams["output_folder"]
        )
        brain, _, _ = train(path, run_opts, options)
        brain.load_best()
        return brain.system

    set_weights(
        hparams["system"],
        train_first,
        init_from=hparams["init_from"],
        init_experiment=hparams["init_experiment"],
        init_parts=hparams["init_parts"],
        front_end_experiment=hparams["front_end_experiment"],
    )
    brain = make_brain(hparams, run_opts, data)
    fit(brain, hparams, data)
    return brain, hparams, data


def main(argv):
    """Train and test what the YAML file of the command line describes."""
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    sb.utils.distributed.ddp_init_group(run_opts)
    return evaluate(*train(hparams_file, run_opts, overrides))


if __name__ == "__main__":
    sys.exit(as_command(main))

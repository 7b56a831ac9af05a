"""From an experiment's manifests to datasets, mixers and batches."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.manifest import read_manifest
from merit_modules.data.mixing import NoiseMixer, write_recipes
from merit_modules.data.offline.read import PairedFolders
from merit_modules.data.pipelines import (
    make_dataset,
    scan,
)
from merit_modules.errors import InputError
from merit_modules.evaluation.conditions import TestCondition
from merit_modules.files import write_atomically
from merit_modules.training.targets import make_target

logger = get_logger(__name__)
# It says the same twice an epoch.
get_logger("speechbrain.dataio.sampler").setLevel("WARNING")


class Data(NamedTuple):
    """All data of an experiment.

    Arguments
    ---------
    train : DynamicItemDataset
        Training set, mixed anew in every epoch.
    valid : DynamicItemDataset
        Validation set, with fixed mixtures.
    conditions : list of TestCondition
        The test set under every condition, with fixed mixtures.
    train_mixer : NoiseMixer or PairedFolders
        Mixes the training set.
    target : EmotionTarget or AttributeTarget
        What the SER head learns.
    """

    train: object
    valid: object
    conditions: list
    train_mixer: object
    target: object


def load_data(hparams):
    """Make datasets from the manifests and check every file once.

    Sets the statistics of the system's normaliser from the noisy training set.

    Arguments
    ---------
    hparams : dict
        Hyperparameters.

    Returns
    -------
    Data
        Datasets, mixers and the target.

    Raises
    ------
    InputError
        Naming what is wrong with the corpus. Broken audio is listed whole.
    """
    if isinstance(hparams["test_sets"], str):
        raise InputError(
            "test_sets: expected a list of manifests, such as [test], got "
            f"{hparams['test_sets']!r}"
        )
    manifests = {
        split: _manifest(hparams, split, "speech_root")
        for split in ["train", "valid", *hparams["test_sets"]]
    }
    train_mixer = _train_mixer(hparams, manifests)
    target = make_target(
        hparams["ser_target"],
        manifests,
        hparams["ser_outputs"],
        hparams["attribute_scale"],
    )
    valid_mixer = NoiseMixer(
        _manifest(hparams, "noise_valid", "noise_root"),
        hparams["valid_snr_db"],
        hparams["mixture_seed"],
        hparams["sample_rate_hz"],
    )
    clean_mixer = NoiseMixer(None, None, 0, hparams["sample_rate_hz"])
    mixers = dict.fromkeys(manifests, clean_mixer)
    mixers |= {"train": train_mixer, "valid": valid_mixer}
    findings = _scan_once(hparams, target, manifests, mixers)
    for split, problems in findings["problems"].items():
        if problems and not hparams["skip_broken_audio"]:
            raise_if_broken(problems, f"{split} set")
        for utt_id in problems:
            logger.warning(f"left out: {problems[utt_id]}")
            del manifests[split][utt_id]
    hparams["system"].normalizer.set_statistics(
        findings["mean"], findings["std"], findings["clean_mean"]
    )
    return Data(
        train=_dataset(hparams, target, manifests["train"], train_mixer),
        valid=_dataset(hparams, target, manifests["valid"], valid_mixer),
        conditions=[
            condition
            for name in hparams["test_sets"]
            for condition in _test_conditions(
                hparams, target, name, manifests[name]
            )
        ],
        train_mixer=train_mixer,
        target=target,
    )


def loader_kwargs(hparams, dataset, shuffle=False):
    """Make the arguments of a loader: batches by duration.

    Arguments
    ---------
    hparams : dict
        Hyperparameters.
    dataset : DynamicItemDataset
        What is to be loaded.
    shuffle : bool
        In another order in every epoch, by seed.

    Returns
    -------
    dict
        Arguments of ``speechbrain.Brain.make_dataloader``.
    """
    longest = hparams["max_duration_s"] or float("inf")
    sampler = DynamicBatchSampler(
        dataset,
        max_batch_length=hparams["batch_length_s"],
        num_buckets=hparams["n_length_buckets"],
        length_func=lambda entry: min(entry["duration"], longest),
        shuffle=shuffle,
        batch_ordering="random" if shuffle else "descending",
        max_batch_ex=hparams["max_batch_size"],
        seed=hparams["seed"],
    )
    return {"batch_sampler": sampler, "num_workers": hparams["num_workers"]}


def _train_mixer(hparams, manifests):
    """Mix as training goes, or read mixtures that were made before."""
    folder = hparams["train_mixtures"]
    if folder:
        mixer = PairedFolders(folder, hparams["sample_rate_hz"])
        manifests["train"] = mixer.manifest
        return mixer
    return NoiseMixer(
        _manifest(hparams, "noise_train", "noise_root"),
        hparams["train_snr_db"],
        hparams["seed"],
        hparams["sample_rate_hz"],
    )


def _manifest(hparams, name, root):
    path = Path(hparams["manifest_folder"]) / f"{name}.json"
    return read_manifest(path, hparams[root])


def _dataset(hparams, target, manifest, mixer):
    return make_dataset(
        manifest,
        mixer,
        target.reader,
        hparams["sample_rate_hz"],
        hparams["max_duration_s"],
    )


def _test_conditions(hparams, target, test_set, manifest):
    several = len(hparams["test_sets"]) > 1
    label = test_set if several else None

    def condition(name, snr_db, noise):
        mixer = NoiseMixer(
            noise,
            snr_db,
            hparams["mixture_seed"],
            hparams["sample_rate_hz"],
        )
        dataset = _dataset(hparams, target, manifest, mixer)
        return TestCondition(name, snr_db, dataset, noise, label)

    conditions = []
    for name in hparams["test_noise_sets"]:
        noise = _manifest(hparams, f"noise_{name}", "noise_root")
        conditions += [
            condition(name, s, noise) for s in hparams["test_snrs_db"]
        ]
    if hparams["test_clean"]:
        conditions.append(condition(None, None, None))
    return conditions


def _scan_once(hparams, target, manifests, mixers):
    """Read all audio; or what an earlier start of this run found in it."""
    path = Path(hparams["save_folder"]) / "audio_scan.json"
    asked = [manifests, hparams["max_duration_s"], hparams["sample_rate_hz"]]
    asked += [(m.seed, m.snr_range_db, m.noise) for m in mixers.values()]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    if path.is_file():
        findings = json.loads(path.read_text(encoding="utf-8"))
        if findings["key"] == key:
            return findings
    findings = {"key": key, "problems": {}}
    for split, manifest in manifests.items():
        dataset = _dataset(hparams, target, manifest, mixers[split])
        found = scan(
            dataset, hparams["num_workers"], desc=f"Reading {split} audio"
        )
        findings["problems"][split] = found.problems
        if split == "train":
            if found.stats is None:
                raise_if_broken(found.problems, "train set")
            findings |= {
                "mean": found.stats.mean,
                "std": found.stats.std,
                "clean_mean": found.clean_stats.mean,
            }
        if split == "valid" and if_main_process():
            write_recipes(
                Path(hparams["output_folder"]) / "mixtures" / "valid.csv",
                found.recipes,
                mixers[split].noise,
            )
    run_on_main(write_atomically, args=(path, json.dumps(findings, indent=2)))
    return findings

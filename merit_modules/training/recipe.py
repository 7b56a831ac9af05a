"""The steps that every recipe takes, from the command line to results.

A recipe's ``train.py`` calls them in turn; what differs between recipes is in
the YAML files.
"""

import errno
import gc
import hashlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

import speechbrain as sb
import torch
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.manifest import read_manifest, write_atomically
from merit_modules.data.mixing import NoiseMixer, write_recipes
from merit_modules.data.offline.read import PairedFolders
from merit_modules.data.pipelines import (
    make_dataset,
    scan,
)
from merit_modules.errors import InputError
from merit_modules.evaluation.evaluation import Evaluation, TestCondition
from merit_modules.evaluation.expert_removal import has_several_experts
from merit_modules.evaluation.metrics.scoring import EnhancementScorer
from merit_modules.evaluation.metrics.table import results_table
from merit_modules.hparams import (
    compose,
    format_overrides,
    keys_of,
    load_hparams,
    parse_overrides,
)
from merit_modules.pretrained import PARTS, load_parts
from merit_modules.pretrained.weights import check_fit
from merit_modules.training.brain import JointBrain
from merit_modules.training.targets import make_target

COMPOSED = "composed.yaml"  # a run's YAML in one piece
OVERRIDES = "overrides.yaml"  # what its command line changed
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


def load_experiment(argv):
    """Read the command line and build what the YAML files describe.

    Arguments
    ---------
    argv : list of str
        ``[HPARAMS.yaml, --key value, ...]``, as SpeechBrain takes it.

    Returns
    -------
    hparams : dict
        Key to value or object.
    run_opts : dict
        SpeechBrain's run options.
    to_save : dict
        Arguments for ``speechbrain.create_experiment_directory``.
    """
    hparams_file, run_opts, overrides = sb.parse_arguments(argv)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams, to_save = _load(hparams_file, parse_overrides(overrides))
    return hparams, run_opts, to_save


def load_run(folder, overrides=None):
    """Build again what a run was made of, wherever its folder is now.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.
    overrides : dict, optional
        Keys to replace, on top of those of its command line.

    Returns
    -------
    dict
        Key to value or object, as :func:`load_experiment` returns it.

    Raises
    ------
    InputError
        If it is no folder of a run.
    """
    folder = Path(folder)
    for name in (COMPOSED, OVERRIDES):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no run: it has no file {name}")
    text = (folder / OVERRIDES).read_text(encoding="utf-8")
    overrides = {
        **parse_overrides(text),
        **(overrides or {}),
        # The manifests are there; what made them may not be.
        "prepare": None,
        "output_folder": str(folder),
    }
    hparams, _ = load_hparams(folder / COMPOSED, overrides)
    return hparams | {"overrides": overrides}


def _load(hparams_file, overrides):
    hparams, text = load_hparams(hparams_file, overrides)
    hparams |= {"hparams_file": hparams_file, "overrides": overrides}
    folder = Path(hparams["output_folder"])
    composed = folder / COMPOSED
    run_on_main(write_atomically, args=(composed, text))
    run_on_main(
        write_atomically, args=(folder / OVERRIDES, format_overrides(overrides))
    )
    to_save = {
        "experiment_directory": hparams["output_folder"],
        "hyperparams_to_save": str(composed),
        "overrides": overrides,
    }
    return hparams, to_save


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


def make_brain(hparams, run_opts, data, trained=False):
    """Make the Brain of an experiment.

    Arguments
    ---------
    hparams : dict
        Hyperparameters.
    run_opts : dict
        SpeechBrain's run options.
    data : Data
        What :func:`load_data` returned.
    trained : bool
        The run is over: its weights come from its checkpoints, so nothing is
        trained before it and no other weights are read.

    Returns
    -------
    JointBrain
        Ready to fit.
    """
    system = hparams["system"]
    if hparams["front_end_experiment"]:
        name = hparams["front_end_experiment"]
        system.front_end = (
            load_run(_first_folder(name, hparams))["system"]
            if trained
            else _train_first(name, hparams, run_opts)
        )
    if trained:
        hparams |= dict.fromkeys(("init_experiment", "init_from"))
    if hparams["init_experiment"]:
        first = _train_first(hparams["init_experiment"], hparams, run_opts)
        _copy_parts(first, system, hparams["init_parts"])
    if hparams["init_from"]:
        load_parts(system, hparams["init_from"], hparams["init_parts"])
    return JointBrain(
        target=data.target,
        train_mixer=data.train_mixer,
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )


def _train_first(name, hparams, run_opts):
    """Train another experiment with the same options; return its system."""
    path = Path(hparams["hparams_file"]).parent / name
    known = keys_of(compose(path))
    overrides = {k: v for k, v in hparams["overrides"].items() if k in known}
    folder = _first_folder(name, hparams)
    first, _ = _load(path, {**overrides, "output_folder": str(folder)})
    logger.info(f"First: {path}")
    run_on_main(first["prepare"])
    data = load_data(first)
    brain = make_brain(first, run_opts, data)
    fit(brain, first, data)
    brain.load_best()
    return brain.system


def _first_folder(name, hparams):
    return Path(hparams["output_folder"]) / Path(name).stem


def _copy_parts(source, system, parts):
    def of(state):
        chosen = PARTS if parts == "all" else parts
        return {k: v for k, v in state.items() if k.split(".")[0] in chosen}

    weights = of(source.state_dict())
    check_fit("init_experiment", weights, of(system.state_dict()))
    system.load_state_dict(weights, strict=False)


def fit(brain, hparams, data):
    """Train, or go on where an earlier start of this run was stopped.

    Arguments
    ---------
    brain : JointBrain
        From :func:`make_brain`.
    hparams : dict
        Hyperparameters.
    data : Data
        What :func:`load_data` returned.
    """
    brain.fit(
        hparams["epoch_counter"],
        data.train,
        data.valid,
        train_loader_kwargs=loader_kwargs(hparams, data.train, shuffle=True),
        valid_loader_kwargs=loader_kwargs(hparams, data.valid),
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


def evaluate(brain, hparams, data):
    """Evaluate the best checkpoint, write the results, print their table.

    What an earlier start evaluated is kept; see
    :class:`~merit_modules.evaluation.evaluation.Evaluation`.

    Arguments
    ---------
    brain : JointBrain
        The trained brain.
    hparams : dict
        Hyperparameters.
    data : Data
        What :func:`load_data` returned.

    Returns
    -------
    dict or None
        The content of ``results.json``; None on processes but the first.
    """
    if not if_main_process():
        return None
    about = {"corpus": "corpus_name", "system": "system_name", "seed": "seed"}
    if "fold" in hparams:
        about["fold"] = "fold"
    settings = ("mixture_seed", "max_duration_s", "sample_rate_hz")
    with EnhancementScorer(
        hparams["sample_rate_hz"],
        hparams["num_metric_workers"],
        hparams["metrics"],
        dnsmos_model=hparams["dnsmos_model"],
    ) as scorer:
        evaluation = Evaluation(
            brain,
            scorer,
            hparams["output_folder"],
            about={name: hparams[key] for name, key in about.items()},
            loader_kwargs=lambda dataset: loader_kwargs(hparams, dataset),
            settings={key: hparams[key] for key in settings},
        )
        results = evaluation.run(
            data.conditions,
            hparams["test_conditions"],
            hparams["n_examples"],
        )
        _beyond_scores(evaluation, hparams, data)
    print(results_table(results))
    print(f"\nAll results: {hparams['output_folder']}/results.json")
    return results


def _beyond_scores(evaluation, hparams, data):
    """Measure cost; take experts away, where that was asked for."""
    results = evaluation.results
    if "cost" not in results and data.conditions:
        evaluation.measure_cost(
            data.conditions[0].dataset, hparams["batch_length_s"]
        )
    names = hparams["removal_conditions"]
    chosen = [c for c in data.conditions if c.name in names]
    if len(chosen) < len(names):
        raise InputError(
            "removal_conditions: expected some of "
            f"{', '.join(c.name for c in data.conditions)}, got {names}"
        )
    done = {entry["condition"] for entry in results.get("expert_removal", [])}
    if set(names) - done and has_several_experts(evaluation.brain.system):
        evaluation.remove_experts(chosen)


def train_and_test(argv):
    """Take all steps: what a recipe's ``train.py`` does.

    Arguments
    ---------
    argv : list of str
        The command line, see :func:`load_experiment`.

    Returns
    -------
    dict or None
        The content of ``results.json``; None on processes but the first.
    """
    hparams, run_opts, to_save = load_experiment(argv)
    sb.create_experiment_directory(**to_save)
    run_on_main(hparams["prepare"])
    data = load_data(hparams)
    brain = make_brain(hparams, run_opts, data)
    fit(brain, hparams, data)
    return evaluate(brain, hparams, data)


def run(main, argv=None):
    """Run a recipe's main function as a command.

    Arguments
    ---------
    main : callable
        Takes the command line's arguments.
    argv : list of str, optional
        Those arguments; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        Exit code: 0 if all went well; 2 after an error that the user can
        mend, told in one message without a traceback; 130 if interrupted.

    Example
    -------
    >>> def main(argv):
    ...     raise InputError(f"{argv[0]}: no such folder")
    >>> run(main, ["there"])
    2
    """
    try:
        main(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        # One that comes from a loader's worker brings its traceback along.
        message = str(error).rsplit("InputError: ", 1)[-1].strip()
        logger.error(f"error: {message}")
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        logger.error(f"error: the disk is full: {error}; nothing saved is lost")
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the run", file=sys.stderr)
        return 130
    finally:
        # A process that leaves its group's threads to the interpreter's exit
        # is now and then aborted there. What holds on to the group goes first.
        if torch.distributed.is_initialized():
            gc.collect()
            torch.distributed.destroy_process_group()
    return 0

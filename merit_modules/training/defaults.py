"""Keys that a YAML file need not state, and those that it must."""

import os

from merit_modules.errors import InputError
from merit_modules.training.keys import problems_of

#: What a file without the key means.
DEFAULTS = {
    # data
    "skip_broken_audio": False,
    "speech_root": "",
    "noise_root": "",
    "sample_rate_hz": 16000,
    "max_duration_s": None,
    "train_snr_db": [-5.0, 20.0],
    "valid_snr_db": [-5.0, 20.0],
    "mixture_seed": 0,
    "snr_about_mean": False,
    "train_mixtures": None,
    "test_sets": ["test"],
    "test_noise_sets": [],
    "test_snrs_db": [-5, 0, 5, 10, 20],
    "test_clean": True,
    "ser_target": "emotion",
    "attribute_scale": [1.0, 7.0],
    "batch_length_s": 24.0,
    "max_batch_size": 16,
    "n_length_buckets": 8,
    "num_workers": 0,
    # start
    "init_from": None,
    "init_experiment": None,
    "init_parts": "all",
    "front_end_experiment": None,
    # training
    "seed": 0,
    "stage_1_epochs": 0,
    "ssl_lr_factor": 1.0,
    "expert_lr_factor": 1.0,
    "lr_annealing": None,
    "gradient_surgery": "none",
    "gradient_conflict_interval": 0,
    "checkpoint_score": "loss",
    "keep_checkpoints": 1,
    "checkpointer": None,
    "train_logger": None,
    "tensorboard_logger": None,
    "wav_augment": None,
    # test
    "corpus_name": None,
    "system_name": None,
    "metrics": ["si_sdr_db"],
    "dnsmos_model": None,
    "num_metric_workers": 0,
    "test_conditions": None,
    "removal_conditions": [],
    "n_examples": 0,
    "measure_cost": True,
}
#: What nobody can guess.
NEEDED = (
    *("output_folder", "save_folder", "system", "modules", "loss"),
    *("opt_class", "epoch_counter", "ser_outputs"),
    *("train_annotation", "valid_annotation", "test_annotation"),
    "noise_annotation",
)


def with_defaults(hparams, path):
    """Complete the keys of a YAML file.

    Arguments
    ---------
    hparams : dict
        Key to value or object.
    path : str or Path
        The file, for messages.

    Returns
    -------
    dict
        The same with ``DEFAULTS`` for what is not stated.

    Raises
    ------
    InputError
        If a key that cannot be guessed is missing, ``prepare`` is with
        nothing to skip it, or a value is none that the key can have.

    Example
    -------
    >>> with_defaults({"output_folder": "results"}, "mine.yaml")
    Traceback (most recent call last):
    merit_modules.errors.InputError: mine.yaml: expected the keys save_folder,
    system, ...
    """
    missing = [key for key in NEEDED if key not in hparams]
    skip_prep = hparams.get("skip_prep", "prepare" not in hparams)
    if not skip_prep and "prepare" not in hparams:
        missing.append("prepare (or skip_prep: True)")
    if missing:
        raise InputError(f"{path}: expected the keys {', '.join(missing)}")
    for key, told in problems_of(hparams).items():
        raise InputError(f"{path}: {key}: {told}")
    hparams = {**DEFAULTS, "skip_prep": skip_prep, **hparams}
    return {**hparams, **workers_of(hparams)}


def workers_of(hparams):
    """Choose the numbers of processes that are left open.

    Two loading processes read and mix about 2,000 seconds of audio per second,
    more than a large GPU takes (docs/performance.md). On two cores one of them
    would already stand in the way of training. Metrics take all cores, 16 at
    most.

    Arguments
    ---------
    hparams : dict
        Key to value.

    Returns
    -------
    dict
        ``num_workers`` and ``num_metric_workers``, as far as they are there:
        the numbers given, and for None what suits this process's share of the
        cores.

    Example
    -------
    >>> workers_of({"num_workers": 3, "num_metric_workers": 0})
    {'num_workers': 3, 'num_metric_workers': 0}
    """
    try:
        n_cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        n_cores = os.cpu_count() or 1
    share = max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    chosen = {
        "num_workers": min(2, max(1, share // 2)),
        "num_metric_workers": min(16, share),
    }
    return {
        key: n if hparams[key] is None else hparams[key]
        for key, n in chosen.items()
        if key in hparams
    }

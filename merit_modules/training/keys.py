"""Every key of the shipped YAML files: what it is and what it has to be.

From here come the checks before a run, the recipes' ``--help`` and
``docs/keys.md``. Keys of one's own are not checked.
"""

import contextlib
import datetime

from merit_modules.data.kinds import (
    DEVICE,
    FLAG,
    FOLDER,
    MAPPING,
    NULL,
    PATH,
    SEED,
    TEXT,
    Kind,
    either,
    list_of,
    number,
    one_of,
    pair,
    whole,
)
from merit_modules.errors import InputError
from merit_modules.hparams import (
    explained,
    parse_overrides,
    plain_values,
    resolved,
)


def _some_of(*names, least=0):
    return list_of(f"names out of {', '.join(names)}", one_of(*names), least)


_DB = number("dB", least=-100, most=100)
_SNR = either(NULL, _DB, pair("dB", _DB))
_RATE = number(least=0)
_WEIGHT = number(least=0)
_SIZE = whole(1)
_COUNT = whole(0)
_WORKERS = either(NULL, _COUNT)
_PART = Kind("a part that the YAML file builds (!new:...)", lambda value: False)
_NO_PART = either(NULL, _PART)
_NAMES = list_of("names, such as [a, b]", TEXT)
_FILE = either(NULL, TEXT)
_PRECISION = one_of("fp32", "fp16", "bf16")

#: Section of the YAML files to key to kind and meaning.
SECTIONS = {
    "This experiment": {
        "system_name": (_FILE, "name in results and folders"),
        "seed": (SEED, "of weights, batches and the noise of training"),
    },
    "Corpus": {
        "corpus_name": (_FILE, "name in results and folders"),
        "corpus_about": (either(NULL, MAPPING), "facts for the model card"),
        "emotions": (
            list_of("names, such as [angry, sad]", TEXT, 2),
            "the classes, in the order of the outputs",
        ),
        "data_folder": (PATH, "folder of the corpus"),
        "noise_folder": (
            either(PATH, MAPPING),
            "folder of noise, or corpora by name",
        ),
        "manifest_csv": (PATH, "table of a corpus of one's own"),
        "speech_root": (PATH, "what {data_root} means in speech manifests"),
        "noise_root": (PATH, "what {data_root} means in noise manifests"),
        "output_folder": (FOLDER, "where the run is written"),
        "fold": (
            either(NULL, _COUNT),
            "which fold is tested; the recipe says of how many",
        ),
        "n_folds": (whole(3), "folds of whole speakers"),
        "protocol": (TEXT, "how the corpus is split; see the recipe"),
        "label_set": (TEXT, "which classes there are; see the recipe"),
    },
    "Folders and manifests": {
        "save_folder": (FOLDER, "checkpoints"),
        "manifest_folder": (FOLDER, "manifests"),
        "skip_prep": (FLAG, "whether the manifests are there already"),
        "train_annotation": (PATH, "manifest of the training set"),
        "valid_annotation": (PATH, "manifest of the validation set"),
        "test_annotation": (PATH, "manifests of test_sets: {test_set}"),
        "noise_annotation": (PATH, "manifests of noise: {noise_set}"),
        "skip_broken_audio": (FLAG, "go on without files that are broken"),
    },
    "Preparation": {
        "n_sentences": (_SIZE, "sentences of MiniEmo per voice and emotion"),
        "split_seed": (SEED, "of the splits that the recipe draws"),
        "labels": (one_of("consensus", "soft"), "soft: also shares of votes"),
        "label_file": (_FILE, "file of labels; null: the release's own"),
        "skip_missing": (FLAG, "go on without recordings that are missing"),
        "test_sets": (
            list_of("names, such as [test]", TEXT, 1),
            "speech manifests to test on",
        ),
        "test_noise_sets": (
            list_of("names, such as [test_unseen]", TEXT),
            "noise manifests to test on",
        ),
        "prepare": (_NO_PART, "the function that makes the manifests"),
    },
    "Audio": {
        "sample_rate_hz": (
            whole(1000, 384000, "a whole number of Hz"),
            "rate of all that is computed",
        ),
        "max_duration_s": (
            either(NULL, number("seconds", above=0)),
            "longer utterances are cut",
        ),
        "normalizer": (_PART, "level of the waveform"),
        "wav_augment": (_NO_PART, "an Augmenter of SpeechBrain"),
    },
    "Noise": {
        "train_snr_db": (_SNR, "SNR of training, drawn evenly; null: clean"),
        "valid_snr_db": (_SNR, "SNR of validation"),
        "mixture_seed": (SEED, "of validation and test mixtures"),
        "snr_about_mean": (FLAG, "whether a constant offset is no power"),
        "train_mixtures": (_FILE, "folder of merit mix"),
        "test_snrs_db": (list_of("dB from -100 to 100", _DB), "SNRs to test"),
        "test_clean": (FLAG, "also test on the clean recordings"),
    },
    "What the SER head learns": {
        "ser_target": (
            one_of("emotion", "soft_emotion", "attributes"),
            "classes, distributions over them, or numbers",
        ),
        "ser_outputs": (_NAMES, "classes or attributes, one per output"),
        "attribute_scale": (
            pair("numbers", number()),
            "ends of the scale of attributes",
        ),
    },
    "SSL encoder": {
        "ssl_source": (TEXT, "mini, or folder or name on the hub"),
        "ssl_pretrained": (FLAG, "False: random weights of its sizes"),
        "padding_rule": (
            one_of("exact", "released"),
            "released: results depend on the batch",
        ),
        "fast_path": (FLAG, "False: as transformers computes"),
        "ssl_checkpointing": (FLAG, "less memory, more time"),
        "ssl_encoder": (_PART, "the encoder"),
    },
    "Mixture": {
        "layer_mix": (_PART, "what the experts see of the layers"),
        "layer_mix_se": (_PART, "the sum of layers for enhancement"),
        "layer_mix_ser": (_PART, "the sum of layers for emotion"),
        "skip_se": (_PART, "what SE experts add to"),
        "skip_ser": (_PART, "what SER experts add to"),
        "n_experts": (_SIZE, "experts"),
        "top_k": (_SIZE, "experts per frame, n_experts at most"),
        "router_gradient": (
            one_of("straight_through", "scaled", "reference"),
            "how routers learn",
        ),
        "expert_hidden": (_SIZE, "hidden width of an expert"),
        "expert_output": (_SIZE, "output width of an expert"),
        "expert_start": (
            one_of("apart", "alike", "zero", "layer_mean"),
            "their start",
        ),
        "expert_lr_factor": (_RATE, "experts learn at lr times this"),
        "experts": (_PART, "the pool of experts"),
        "router_se": (_PART, "the router of enhancement"),
        "router_ser": (_PART, "the router of emotion"),
        "checkpoint_experts": (FLAG, "less memory, more time"),
        "mixture": (_PART, "from layers to the feature of each task"),
    },
    "Heads and system": {
        "se_hidden": (_SIZE, "width of the SE head's BLSTM"),
        "observation_level_db": (
            either(NULL, number("dB", least=-100, most=0)),
            "what the mask took away comes back, up to this",
        ),
        "spectrum": (_PART, "the SE head's STFT"),
        "se_head": (_PART, "the SE head"),
        "ser_hidden": (_SIZE, "hidden width of the SER head"),
        "ser_dropout": (number(least=0, most=1), "dropout of the SER head"),
        "pooling": (_PART, "over time, for the SER head"),
        "ser_head": (_PART, "the SER head"),
        "ser_input": (
            one_of("noisy", "enhanced"),
            "what a cascade's SER part is trained on",
        ),
        "system": (_PART, "all that is trained"),
    },
    "Start": {
        "init_from": (_FILE, "folder of weights to start from"),
        "init_experiment": (_FILE, "YAML file beside this one, trained first"),
        "init_parts": (
            either(
                one_of("all"),
                _some_of(
                    *("ssl_encoder", "mixture", "se_head", "ser_head"),
                    least=1,
                ),
            ),
            "which of its parts are taken",
        ),
        "front_end_experiment": (_FILE, "likewise: front end of a cascade"),
    },
    "Losses": {
        "ser_ce_weight": (_WEIGHT, "weight of the cross entropy"),
        "ser_ccc_weight": (_WEIGHT, "weight of 1 - CCC, of attributes"),
        "se_l1_weight": (_WEIGHT, "weight of L1 on log1p spectra"),
        "se_si_sdr_weight": (_WEIGHT, "weight of the negative SI-SDR"),
        "load_balance_weight": (_WEIGHT, "weight of load balancing"),
        "router_z_weight": (_WEIGHT, "weight of the routers' z loss"),
        "balance_loss": (one_of("switch", "kl"), "which balancing loss"),
        "balance_scope": (one_of("task", "pool"), "whose load is to be even"),
        "task_weighting": (
            one_of("fixed", "uncertainty"),
            "uncertainty: learned weights of the tasks",
        ),
        "loss": (_PART, "the sum of them"),
    },
    "Training": {
        "stage_1_epochs": (_COUNT, "epochs with the SSL encoder frozen"),
        "stage_2_epochs": (_COUNT, "epochs in which it is trained, too"),
        "number_of_epochs": (_COUNT, "epochs in all"),
        "lr": (_RATE, "learning rate in the first epoch"),
        "final_lr": (_RATE, "learning rate in the last epoch"),
        "ssl_lr_factor": (_RATE, "the SSL encoder learns at lr times this"),
        "weight_decay": (_RATE, "of AdamW"),
        "max_grad_norm": (number(), "clipping over all; 0 or less: none"),
        "grad_accumulation_factor": (_SIZE, "batches per step"),
        "precision": (_PRECISION, "of training"),
        "ckpt_interval_minutes": (
            number("minutes"),
            "also save within an epoch; 0 or less: never",
        ),
        "gradient_surgery": (
            one_of("none", "pcgrad"),
            "on what the tasks share",
        ),
        "gradient_conflict_interval": (
            _COUNT,
            "steps between measurements; 0: never",
        ),
        "batch_length_s": (number("seconds", above=0), "audio in a batch"),
        "max_batch_size": (either(NULL, _SIZE), "utterances in a batch"),
        "n_length_buckets": (_SIZE, "groups of utterances of like lengths"),
        "num_workers": (
            _WORKERS,
            "processes that read and mix; null: two, if there are cores",
        ),
        "checkpoint_score": (
            one_of(
                *("epoch", "loss", "ser_ce", "ser_ccc", "ccc_mean", "se_l1"),
                *("f1_macro", "f1_micro", "uar", "si_sdr_gain_db"),
            ),
            "what picks the epoch to test",
        ),
        "keep_checkpoints": (_SIZE, "how many of the best are kept"),
    },
    "Evaluation": {
        "metrics": (
            _some_of(
                *("seg_snr_db", "seg_snr_rescaled_db", "pesq_wb", "stoi"),
                *("estoi", "si_sdr_db", "csig", "cbak", "covl"),
                *("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"),
            ),
            "of enhancement",
        ),
        "dnsmos_model": (_FILE, "Microsoft's sig_bak_ovr.onnx"),
        "num_metric_workers": (
            _WORKERS,
            "processes for metrics; null: one per core, 16 at most",
        ),
        "test_conditions": (
            either(NULL, _NAMES),
            "some of the grid's, such as [unseen_0dB, clean]",
        ),
        "removal_conditions": (
            _NAMES,
            "where each expert is taken away in turn",
        ),
        "n_examples": (_COUNT, "utterances to write per condition"),
        "measure_cost": (FLAG, "time and memory of inference, once per run"),
    },
    "What is trained, saved and logged": {
        "modules": (MAPPING, "what has parameters"),
        "opt_class": (_PART, "the optimiser"),
        "lr_annealing": (_NO_PART, "a scheduler of SpeechBrain"),
        "epoch_counter": (_PART, "SpeechBrain's counter of epochs"),
        "checkpointer": (_NO_PART, "what saves"),
        "train_logger": (_NO_PART, "a logger of SpeechBrain"),
        "tensorboard_logger": (_NO_PART, "likewise"),
    },
    "SpeechBrain's run options": {
        "device": (either(NULL, DEVICE), "where it is computed"),
        "eval_precision": (_PRECISION, "of validation and test"),
        "nonfinite_patience": (_COUNT, "bad batches an epoch may leave out"),
        "ckpt_interval_steps": (whole(), "also save after so many steps"),
        "optimizer_step_limit": (
            either(
                NULL,
                whole(
                    1,
                    told="a whole number in the YAML file (SpeechBrain takes "
                    "text from the command line)",
                ),
            ),
            "steps in all",
        ),
        "debug_batches": (_SIZE, "batches with --debug"),
        "debug_epochs": (whole(), "epochs with --debug; 0 or less: all"),
        "compile_mode": (
            one_of("default", "reduce-overhead", "max-autotune"),
            "of torch.compile",
        ),
        "distributed_backend": (one_of("nccl", "gloo", "mpi"), "of torchrun"),
        "profile_warmup": (_COUNT, "steps before profiling"),
        "profile_steps": (_SIZE, "steps of profiling"),
    },
}
KEYS = {key: row for part in SECTIONS.values() for key, row in part.items()}


def problems_of(values):
    """List what is wrong with the values of known keys.

    Arguments
    ---------
    values : dict
        Key to value; objects pass.

    Returns
    -------
    dict
        Key to what was expected and what came.

    Example
    -------
    >>> problems_of({"lr": "fast", "seed": 1, "my_note": -1})
    {'lr': "expected a number, 0 or more, got 'fast'"}
    """
    plain = (str, int, float, list, tuple, dict, datetime.date, type(None))
    found = {
        key: KEYS[key][0].problem(value)
        for key, value in values.items()
        if key in KEYS and isinstance(value, plain)
    }
    return {key: problem for key, problem in found.items() if problem}


def check_command(hparams_file, run_opts, overrides):
    """Check all that a YAML file and a command line state, building nothing.

    Arguments
    ---------
    hparams_file : str or Path
        The YAML file.
    run_opts : RunOptions or dict or None
        SpeechBrain's options.
    overrides : str or dict
        Keys to replace.

    Returns
    -------
    dict
        Key to plain value: options, and what the file and the line state.

    Raises
    ------
    InputError
        Naming each key whose value is wrong, what was expected and what came.

    Example
    -------
    >>> path = getfixture("tmp_path") / "run.yaml"
    >>> _ = path.write_text("lr: 0.1\\nfinal_lr: !ref <lr> / 10")
    >>> check_command(path, {}, "lr: -1")
    Traceback (most recent call last):
    merit_modules.errors.InputError: lr: expected a number, 0 or more, got -1
    """
    if isinstance(overrides, str):
        overrides = parse_overrides(overrides)
    stated = plain_values(resolved(hparams_file, overrides))
    options = dict(run_opts or {})
    found, wrong = problems_of(options), problems_of(stated)
    # What a command gives makes other keys wrong, which refer to it.
    found |= {key: told for key, told in wrong.items() if key in overrides}
    lines = [f"{key}: {told}" for key, told in found.items()] or [
        f"{hparams_file}: {key}: {told}" for key, told in wrong.items()
    ]
    if lines:
        raise InputError("\n".join(lines))
    given = getattr(run_opts, "overridden_args", options)
    values = {**options, **stated, **{k: options[k] for k in given}}
    _check_hardware(values)
    return values


@contextlib.contextmanager
def checked(hparams_file, run_opts, overrides):
    """Open a YAML file to train by, after :func:`check_command`.

    Arguments
    ---------
    hparams_file, run_opts, overrides
        As of :func:`check_command`.

    Yields
    ------
    file
        The open file; errors in it are explained.
    """
    _check_bf16(check_command(hparams_file, run_opts, overrides))
    with (
        explained(hparams_file),
        open(hparams_file, encoding="utf-8") as stream,
    ):
        yield stream


def _check_hardware(values):
    """Refuse what SpeechBrain cannot do without a GPU."""
    if values.get("data_parallel_backend") and not DEVICE.accepts("cuda"):
        raise InputError("data_parallel_backend: expected a GPU, found none")
    for key in ("precision", "eval_precision"):
        if values.get(key) == "fp16" and _device_of(values).startswith("cpu"):
            raise InputError(
                f"{key}: expected fp32 or bf16 on a CPU, got 'fp16'"
            )


def _device_of(values):
    from speechbrain.utils.distributed import infer_device

    return values.get("device") or infer_device()


def _check_bf16(values):
    """Refuse to train in what an older GPU only imitates, slowly."""
    device = _device_of(values)
    if values.get("precision") != "bf16" or not device.startswith("cuda"):
        return
    import torch

    with torch.cuda.device(device):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise InputError(
                "precision: expected fp16 or fp32, as "
                f"{torch.cuda.get_device_name()} has no bf16, got 'bf16'"
            )

"""The steps that every recipe takes, from settings to results.

A recipe's ``train.py`` calls them in turn; what differs between recipes is in
the YAML files.
"""

from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.errors import InputError
from merit_modules.evaluation.evaluation import Evaluation
from merit_modules.evaluation.expert_removal import has_several_experts
from merit_modules.evaluation.metrics.scoring import EnhancementScorer
from merit_modules.evaluation.metrics.table import results_table
from merit_modules.hparams import (
    compose,
    keys_of,
)
from merit_modules.pretrained import PARTS, load_parts
from merit_modules.pretrained.weights import check_fit
from merit_modules.training.brain import JointBrain
from merit_modules.training.datasets import load_data, loader_kwargs
from merit_modules.training.experiment import (
    as_command,
    load_experiment,
    load_run,
    open_experiment,
)

logger = get_logger(__name__)
run = as_command  # its name in version 0.1, where train.py named it


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
    first, _ = open_experiment(
        path, {**overrides, "output_folder": str(folder)}
    )
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

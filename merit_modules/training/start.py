"""Weights before the first step: from a folder or from another experiment."""

from pathlib import Path

from speechbrain.utils.logger import get_logger

from merit_modules.hparams import (
    format_overrides,
    keys_of,
    parse_overrides,
    read_text,
)
from merit_modules.pretrained import PARTS, load_parts
from merit_modules.pretrained.weights import check_fit

logger = get_logger(__name__)


def first_folder(output_folder, name):
    """Give the folder of an experiment that is trained before a run.

    Arguments
    ---------
    output_folder : str or Path
        The run's own output folder.
    name : str
        The other experiment's YAML file.

    Returns
    -------
    Path
        Its output folder.

    Example
    -------
    >>> str(first_folder("results/cascade", "se_only.yaml"))
    'results/cascade/se_only'
    """
    return Path(output_folder) / Path(name).stem


def first_experiment(hparams_file, name, overrides, output_folder):
    """Say how an experiment is trained before another one.

    Arguments
    ---------
    hparams_file : str or Path
        The other one's YAML file.
    name : str
        YAML file beside it: what is trained first.
    overrides : str
        The other one's overrides, as YAML; those that the first one knows are
        handed on.
    output_folder : str or Path
        The other one's output folder.

    Returns
    -------
    path : Path
        The first one's YAML file.
    overrides : str
        Its overrides, as YAML.
    """
    path = Path(hparams_file).parent / name
    known = keys_of(read_text(path))
    stated = parse_overrides(overrides)
    options = {k: v for k, v in stated.items() if k in known}
    options["output_folder"] = str(first_folder(output_folder, name))
    logger.info(f"First: {path}")
    return path, format_overrides(options)


def set_weights(
    system,
    train_first,
    init_from=None,
    init_experiment=None,
    init_parts="all",
    front_end_experiment=None,
):
    """Set what a system begins with, beside its SSL encoder's own weights.

    Arguments
    ---------
    system : JointSystem or CascadeSystem
        The system that is to be trained.
    train_first : callable
        Trains the experiment of a YAML file and returns its system.
    init_from : str or Path, optional
        Folder with weights.
    init_experiment : str, optional
        YAML file of an experiment whose weights are taken over.
    init_parts : list of str or str
        Which parts to take over; ``all`` by default.
    front_end_experiment : str, optional
        YAML file of the front end of a cascade.
    """
    if front_end_experiment:
        system.front_end = train_first(front_end_experiment)
    if init_experiment:
        _copy_parts(train_first(init_experiment), system, init_parts)
    if init_from:
        load_parts(system, init_from, init_parts)


def _copy_parts(source, system, parts):
    def of(state):
        chosen = PARTS if parts == "all" else parts
        return {k: v for k, v in state.items() if k.split(".")[0] in chosen}

    weights = of(source.state_dict())
    check_fit("init_experiment", weights, of(system.state_dict()))
    system.load_state_dict(weights, strict=False)

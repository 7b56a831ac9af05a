"""A run goes on with the settings that it was begun with, or not at all."""

import ruamel.yaml
from hyperpyyaml import resolve_references
from hyperpyyaml.core import recursive_update

from merit_modules.errors import InputError

#: What no weight and no score depends on, or what scores are kept apart by.
HARMLESS = {
    # where things are
    *("output_folder", "save_folder", "manifest_folder", "data_folder"),
    *("noise_folder", "speech_root", "noise_root", "manifest_csv"),
    *("train_annotation", "valid_annotation", "test_annotation"),
    *("noise_annotation", "skip_prep", "prepare", "corpus_about"),
    # how it is computed
    *("num_workers", "num_metric_workers", "fast_path", "ssl_checkpointing"),
    *("checkpoint_experts", "gradient_conflict_interval"),
    # what is kept and shown
    *("ckpt_interval_minutes", "keep_checkpoints", "checkpointer"),
    *("train_logger", "tensorboard_logger"),
    # the test
    *("test_sets", "test_noise_sets", "test_snrs_db", "test_clean"),
    *("test_conditions", "removal_conditions", "metrics", "dnsmos_model"),
    "n_examples",
}
#: How a test is cut into batches, which no score depends on.
BATCHES = {"batch_length_s", "max_batch_size", "n_length_buckets"}
#: More of them continue a run; fewer would be another run.
GROWING = ("number_of_epochs", "stage_2_epochs")
#: Parts whose arguments other keys state: only their class is compared.
BY_CLASS = {"epoch_counter", "lr_annealing", "emotions", "ser_outputs"}


def settings_of(text, overrides):
    """Read the settings of a HyperPyYAML text without building anything.

    Arguments
    ---------
    text : str
        HyperPyYAML, whose includes have absolute paths.
    overrides : dict
        Keys to replace.

    Returns
    -------
    dict
        Key to plain value. A part that would be built shows its class and its
        arguments as the text has them, references unresolved: a change of a
        key that it refers to is a change of that key alone.

    Example
    -------
    >>> settings_of("a: 1\\nb: !new:torch.nn.Linear [!ref <a>, 2]", {"a": 3})
    {'a': 3, 'b': ['Linear', ['<a>', 2]]}
    """
    yaml = ruamel.yaml.YAML()
    text = text.replace("!PLACEHOLDER", "null")
    stated = yaml.load(text)
    recursive_update(stated, overrides)
    resolved = _plain(yaml.load(resolve_references(text, overrides)))
    return {
        key: _plain(node) if isinstance(node, (dict, list)) else resolved[key]
        for key, node in stated.items()
    }


class _Built(list):
    """A class or function by name, and its arguments."""


def _is_built(value):
    return isinstance(value, _Built)


def _plain(node):
    tag = getattr(getattr(node, "tag", None), "value", None) or ""
    # A class may have moved since; what it is called stays.
    name = tag.rpartition(".")[2] if ":" in tag else ""
    if isinstance(node, dict):
        value = {key: _plain(item) for key, item in node.items()}
    elif isinstance(node, list):
        value = [_plain(item) for item in node]
    else:
        value = node.value if tag else node
    return _Built([name, value]) if name else value


def differences(before, now, harmless=frozenset(HARMLESS)):
    """List the settings in which a run would not be the same.

    Arguments
    ---------
    before : dict
        From :func:`settings_of`: what it was begun with.
    now : dict
        What it is to go on with.
    harmless : set of str
        Keys that may differ.

    Returns
    -------
    dict
        Key to both values; of a part that is built only where no key of its
        own tells what changed.

    Example
    -------
    >>> differences({"lr": 0.1, "metrics": []}, {"lr": 0.2, "metrics": [1]})
    {'lr': (0.1, 0.2)}
    """
    found = {}
    for key in before:
        if key not in now or key in harmless:
            continue
        pair = before[key], now[key]
        if key in BY_CLASS and all(map(_is_built, pair)):
            pair = before[key][0], now[key][0]
        same = pair[0] == pair[1]
        if key in GROWING and not same:
            same = now[key] >= before[key]
        if not same:
            found[key] = pair
    stated = {k: v for k, v in found.items() if not any(map(_is_built, v))}
    return stated or found


def check_same_run(folder, before, now, tested=False):
    """Refuse to go on with a run under other settings.

    Arguments
    ---------
    folder : str or Path
        The run's output folder.
    before : dict
        From :func:`settings_of`: what it was begun with.
    now : dict
        What it is to go on with.
    tested : bool
        Whether it is only tested: then batches may differ, too.

    Raises
    ------
    InputError
        Naming each key with its old and its new value.

    Example
    -------
    >>> check_same_run("results/1", {"top_k": 1}, {"top_k": 2})
    Traceback (most recent call last):
    merit_modules.errors.InputError: results/1 holds a run with other settings:
      top_k: 1 there, 2 now
    ...
    """
    found = differences(before, now, HARMLESS | (BATCHES if tested else set()))
    if found:
        lines = [
            f"  {key}: {_shown(old)} there, {_shown(new)} now"
            for key, (old, new) in found.items()
        ]
        raise InputError(
            f"{folder} holds a run with other settings:\n"
            + "\n".join(lines)
            + "\nNothing was changed. Give this one a folder of its own: "
            "--output_folder FOLDER"
        )


def _shown(value):
    return f"another {value[0]}" if _is_built(value) else repr(value)

"""A run goes on with the settings that it was begun with, or not at all.

``seal.json`` in its folder says what those are: settings, digests of its
manifests, and what no file of the folder tells: labels and roots as they were.
"""

import json
from pathlib import Path, PurePath

import ruamel.yaml
from hyperpyyaml import resolve_references
from hyperpyyaml.core import recursive_update

from merit_modules.data.manifest import files_of, read_manifest
from merit_modules.data.state import digest_of, read_state, write_state
from merit_modules.errors import InputError
from merit_modules.pretrained.description import describe, to_yaml
from merit_modules.ssl.sources import PretrainedSSLEncoder

SEAL = "seal.json"
#: Paths that a test needs, wherever it is started.
PATHS = (
    *("speech_root", "noise_root", "train_mixtures", "dnsmos_model"),
    *("train_annotation", "valid_annotation"),
    *("test_annotation", "noise_annotation"),
)

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
    *("n_examples", "measure_cost"),
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

    def is_value(key, node):
        is_part = isinstance(node, (dict, list))
        return not is_part and not _is_attribute(resolved[key])

    return {
        key: resolved[key] if is_value(key, node) else _plain(node)
        for key, node in stated.items()
    }


class _Built(list):
    """A class or function by name, and its arguments."""


def _is_built(value):
    return isinstance(value, _Built)


def _is_attribute(value):
    # So are references to a part's size, such as <ssl_encoder.dim>, resolved.
    return isinstance(value, list) and value[:1] == ["!apply:getattr"]


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
        if _is_attribute(pair[0]) and str(pair[1]).startswith("<"):
            continue  # sealed when the part itself was written down
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
    harmless = HARMLESS | (BATCHES if tested else set())
    _refuse(folder, "settings", differences(before, now, harmless))


def _refuse(folder, what, found):
    if not found:
        return
    lines = [
        f"  {key}: {_shown(old)} there, {_shown(new)} now"
        for key, (old, new) in found.items()
    ]
    raise InputError(
        f"{folder} holds a run with other {what}:\n"
        + "\n".join(lines)
        + "\nNothing was changed. Train in a folder of its own "
        "(--output_folder FOLDER), or set the old run aside (--start_over)"
    )


def _shown(value):
    return f"another {value[0]}" if _is_built(value) else repr(value)


def read_seal(folder):
    """Read what a run was begun with.

    Arguments
    ---------
    folder : str or Path
        Its output folder.

    Returns
    -------
    dict
        ``settings``, ``values``, ``data`` and ``ssl_encoder`` as
        :func:`write_seal` has them; empty for a run of an earlier version.

    Raises
    ------
    DamagedError
        If the file is not what was written.
    """
    try:
        return read_state(Path(folder) / SEAL)
    except FileNotFoundError:
        return {}


def write_seal(folder, settings, hparams, data):
    """Write down what a run is begun with.

    Arguments
    ---------
    folder : str or Path
        Its output folder.
    settings : dict
        From :func:`settings_of`.
    hparams : dict
        Key to value or object.
    data : dict
        From :func:`check_same_data`.
    """
    values = {
        key: hparams[key]
        for key, value in settings.items()
        if _is_built(value)
        and not key.startswith("__")
        and isinstance(hparams[key], (str, list))
    }
    for key in PATHS:
        path = hparams.get(key)
        if path and not Path(path).is_relative_to(folder):
            values[key] = str(Path(path).absolute())
    encoder = hparams.get("ssl_encoder")
    seal = {
        "settings": _as_json(settings),
        "values": {**values, "ser_outputs": list(hparams["ser_outputs"])},
        "data": data,
    }
    if type(encoder) is PretrainedSSLEncoder:
        # Its folder need not be there again: the weights are in checkpoints.
        seal["ssl_encoder"] = to_yaml({"ssl_encoder": describe(encoder)})
    write_state(Path(folder) / SEAL, seal)


def _as_json(settings):
    # Dates and what is no number become text.
    return json.loads(json.dumps(settings, default=str), parse_constant=str)


def data_of(hparams):
    """Give the manifests of a run names of their own.

    Arguments
    ---------
    hparams : dict
        Key to value or object.

    Returns
    -------
    dict
        Manifest to a text with the number of its entries and a digest. Where
        the audio lies does not count.
    """
    return {
        name: _manifest_digest(path, kind)
        for name, (path, kind) in _manifests_of(hparams).items()
        # What was mixed before is in no manifest.
        if Path(path).is_file() or not hparams["train_mixtures"]
    }


def _manifests_of(hparams):
    """Give each manifest a name: its path, and the kind that it must be of."""
    names = ["train", "valid", *hparams["test_noise_sets"]]
    noises = files_of(hparams["noise_annotation"], "noise_set", names)
    tests = files_of(
        hparams["test_annotation"], "test_set", hparams["test_sets"]
    )
    speech = {
        "train": hparams["train_annotation"],
        "valid": hparams["valid_annotation"],
        **tests,
    }
    found = {f"{name} set": (path, None) for name, path in speech.items()}
    return found | {
        f"noise of {name}": (path, "noise") for name, path in noises.items()
    }


def _manifest_digest(path, kind):
    entries = read_manifest(path, "", kind)
    rows = [
        [item, {**entry, "wav": PurePath(entry["wav"]).name}]
        for item, entry in entries.items()
    ]
    return f"{len(rows)} entries ({digest_of(rows)[:16]})"


def check_same_data(folder, sealed, hparams):
    """Refuse to go on with a run on other data, or with other labels.

    Arguments
    ---------
    folder : str or Path
        Its output folder.
    sealed : dict
        From :func:`read_seal`.
    hparams : dict
        Key to value or object.

    Returns
    -------
    dict
        From :func:`data_of`: what its manifests are now.

    Raises
    ------
    InputError
        Naming each manifest that is another one.
    """
    now = data_of(hparams)
    if not sealed:
        return now
    before, files = sealed["data"], _manifests_of(hparams)
    found = {
        f"{key}, {files[key][0]}": (before[key], now[key])
        for key in before
        if key in now and before[key] != now[key]
    }
    labels = sealed["values"]["ser_outputs"], list(hparams["ser_outputs"])
    if labels[0] != labels[1]:
        found["ser_outputs"] = labels
    _refuse(folder, "data", found)
    return now


def check_unchanged(folder, sealed, settings):
    """Make sure that the YAML files in a run's folder are those it had.

    Arguments
    ---------
    folder : str or Path
        Its output folder.
    sealed : dict
        From :func:`read_seal`.
    settings : dict
        From :func:`settings_of`: what the files say now.

    Raises
    ------
    InputError
        Naming the keys that are others.
    """
    if not sealed:
        return
    before, now = sealed["settings"], _as_json(settings)
    found = differences(before, now)
    changed = [*found, *(before.keys() ^ now.keys())]
    if changed:
        raise InputError(
            f"{folder}: its YAML files are damaged, or were changed by hand: "
            f"they differ from {SEAL} in {', '.join(changed)}"
        )


def sealed_values(sealed, settings, overrides):
    """Say what a run of a given seal is built with.

    Arguments
    ---------
    sealed : dict
        From :func:`read_seal`.
    settings : dict
        From :func:`settings_of`: what its files say, ``overrides`` included.
    overrides : dict
        Keys that somebody replaces now. They and what refers to them are not
        taken from the seal.

    Returns
    -------
    dict
        Key to plain value: labels, roots and what the corpus was asked for.

    Example
    -------
    >>> sealed = {"values": {"root": "/a", "labels": ["x"]}, "settings": {}}
    >>> sealed["settings"] = {"root": "/a", "labels": ["f", ["<csv>"]]}
    >>> settings = {"root": "/b", "labels": ["f", ["<csv>"]]}
    >>> sealed_values(sealed, settings, {"folder": "/b"})
    {'labels': ['x']}
    """
    before, now = sealed["settings"], _as_json(settings)

    def is_replaced(key):
        text = json.dumps(now.get(key))
        return key in overrides or (
            overrides
            and before.get(key) != now.get(key)
            or any(f"<{other}>" in text for other in overrides)
        )

    values = sealed["values"]
    return {key: values[key] for key in values if not is_replaced(key)}

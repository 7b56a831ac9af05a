"""What a run left behind, read without its corpus."""

from pathlib import Path
from typing import NamedTuple

import ruamel.yaml
import torch
from speechbrain.utils.logger import get_logger

from merit_modules.data.manifest import read_manifest
from merit_modules.data.preparation import STAMP
from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import RESULTS, read_results
from merit_modules.export.averaging import load_chosen
from merit_modules.pretrained.weights import fingerprint
from merit_modules.training.experiment import load_run, stated_by
from merit_modules.training.seal import PATHS

logger = get_logger(__name__)

# What only training needs and what would write, or seed, or read the corpus.
_NOT_BUILT = ("__set_seed", "tensorboard_logger", "train_logger")


class FinishedRun(NamedTuple):
    """A run with its chosen weights.

    Arguments
    ---------
    folder : Path
        Its output folder.
    hparams : dict
        Key to value or object; ``system`` holds the chosen weights.
    described : dict
        The same as the YAML states it, nothing built.
    weights : ChosenWeights
        Which checkpoints the weights come from.
    manifests : dict
        Name to manifest, of those that are there.
    results : dict or None
        The content of ``results.json``; None: the run was not tested.
    """

    folder: Path
    hparams: dict
    described: dict
    weights: object
    manifests: dict
    results: dict | None

    @property
    def system(self):
        """The system, in evaluation mode."""
        return self.hparams["system"]

    @property
    def tasks(self):
        """What the system does: ``se``, ``ser`` or both.

        A cascade trains one task and does both.
        """
        heads = {"se": self.system.se_head, "ser": self.system.ser_head}
        return [task for task, head in heads.items() if head is not None]

    @property
    def labels(self):
        """Classes or attributes in the order of the outputs."""
        return list(self.hparams["ser_outputs"]) if "ser" in self.tasks else []


def read_finished_run(folder, average=1, labels=None, trust=False):
    """Read a finished run, wherever its folder is now.

    Arguments
    ---------
    folder : str or Path
        Its output folder.
    average : int
        How many of its best checkpoints are averaged.
    labels : sequence of str, optional
        Classes in the order of the logits, for a run that does not tell.
    trust : bool
        Whether its YAML may build and call whatever it names; see
        :mod:`merit_modules.pretrained.trust`.

    Returns
    -------
    FinishedRun
        The run.

    Raises
    ------
    InputError
        Naming what is missing.

    Example
    -------
    >>> read_finished_run(getfixture("tmp_path"))
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: no run: it has no file composed.yaml
    """
    folder = Path(folder)
    results = _results_if_tested(folder)
    labels = _known_labels(folder, results, labels)
    # The weights to be replaced must not cost the caller random numbers.
    with torch.random.fork_rng(devices=[]):
        hparams = _load(folder, labels, trust)
        if hparams["front_end_experiment"]:
            stem = Path(hparams["front_end_experiment"]).stem
            front_end = _load(folder / stem, labels, trust)["system"]
            hparams["system"].front_end = front_end
    weights = load_chosen(
        hparams["system"],
        hparams["checkpointer"],
        hparams["checkpoint_score"],
        average,
    )
    hparams["system"].eval()
    manifests = _read_manifests(Path(hparams["manifest_folder"]))
    if average == 1 and results:
        measured = results.get("weights", None)
        if measured not in (None, fingerprint(hparams["system"])):
            logger.warning(
                f"{folder / RESULTS}: its scores are of other weights, the "
                "card goes without them; merit evaluate tests these"
            )
            results = None
    described = _described(folder)
    return FinishedRun(folder, hparams, described, weights, manifests, results)


def _load(folder, labels, trust):
    changes = dict.fromkeys(_NOT_BUILT)
    described = _described(folder)
    for key, value in described.items():
        if _is_of_recipe(value):
            changes[key] = "" if key in PATHS else None
    if _is_of_recipe(described.get("emotions")):
        del changes["emotions"]
        if labels is not None:
            changes["emotions"] = labels
    try:
        return load_run(folder, changes, trust)
    except InputError as error:
        if labels is None and _is_of_recipe(described.get("emotions")):
            raise InputError(
                f"{folder}: its labels were read from its corpus and are not "
                f"written down, since it has not been tested ({error}): give "
                "them with --labels, in the order of the training"
            ) from error
        raise


def _described(folder):
    """Read a run's YAML without building anything."""
    text, overrides = stated_by(folder)
    described = dict(ruamel.yaml.YAML().load(text))
    for key, value in overrides.items():
        # A dict changes what there is; anything else takes its place.
        if not (isinstance(value, dict) and tag_of(described.get(key))):
            described[key] = value
    return described


def _is_of_recipe(value):
    """Whether a function of a recipe's own makes a value: of the corpus."""
    tag = tag_of(value)
    if not tag.startswith(("!apply:", "!name:")):
        return False
    package = tag.partition(":")[2].partition(".")[0]
    known = ("merit_modules", "speechbrain", "torch", "builtins", "operator")
    return package not in known


def tag_of(value):
    """Give the tag of a value in a HyperPyYAML file.

    Arguments
    ---------
    value : object
        As ruamel.yaml reads it.

    Returns
    -------
    str
        ``!new:module.Class``, say; empty for a plain value.

    Example
    -------
    >>> tag_of(ruamel.yaml.YAML().load("a: !new:b.C {}")["a"]), tag_of(1)
    ('!new:b.C', '')
    """
    tag = getattr(value, "tag", None)
    return str(getattr(tag, "value", None) or "")


def _results_if_tested(folder):
    if not (folder / RESULTS).is_file():
        return None
    results = read_results(folder)
    return results if results["conditions"] else None


def _known_labels(folder, results, given):
    """Find the classes that a test, or else the caller, wrote down."""
    for condition in results["conditions"] if results else ():
        found = condition.get("ser", {}).get("classes")
        if found and given is not None and list(given) != found:
            raise InputError(
                f"labels: {folder / RESULTS} says {', '.join(found)}, got "
                f"{', '.join(given)}"
            )
        if found:
            return found
    return None if given is None else list(given)


def _read_manifests(folder):
    return {
        path.stem: read_manifest(path, "")
        for path in sorted(folder.glob("*.json"))
        if path.name != STAMP
    }

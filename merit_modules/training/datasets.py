"""What a recipe's dataio_prepare is made of, beside manifests and mixers."""

from pathlib import Path
from typing import NamedTuple

from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.duplicates import shared_recordings
from merit_modules.data.mixing import write_recipes
from merit_modules.data.pipelines import scan
from merit_modules.data.state import digest_of, read_state, write_state
from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import SCAN

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


def check_audio(
    speech,
    mixers,
    dataset_of,
    output_folder,
    save_folder,
    settings,
    num_workers=0,
    skip_broken=False,
):
    """Read all audio once; or take what an earlier start of this run found.

    Arguments
    ---------
    speech : dict
        Split to its manifest; broken utterances are taken out of it.
    mixers : dict
        Split to its mixer.
    dataset_of : callable
        Split and mixer to its dataset.
    output_folder : str or Path
        The run's folder, for the list of the validation mixtures.
    save_folder : str or Path
        Where the findings are kept.
    settings : list
        What else the findings depend on, as plain values.
    num_workers : int
        Processes that read.
    skip_broken : bool
        Leave broken utterances out rather than stop.

    Returns
    -------
    dict
        ``mean`` and ``std`` of the noisy training set and ``clean_mean`` of
        the clean one, for the normaliser.

    Raises
    ------
    InputError
        Listing all broken audio, where that is not left out.
    """
    path = Path(save_folder) / SCAN
    asked = [speech, *settings]
    asked += [
        (m.seed, m.snr_range_db, m.noise, getattr(m, "about_mean", None))
        for m in mixers.values()
    ]
    key = digest_of(asked)
    findings = _earlier(path, key)
    if findings is None:
        findings = {"key": key, "problems": {}, "warnings": {}}
        for split in speech:
            dataset = dataset_of(split, mixers[split])
            found = scan(dataset, num_workers, desc=f"Reading {split} audio")
            findings["problems"][split] = found.problems
            if found.doubts:
                findings["warnings"][split] = found.doubts
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
                    Path(output_folder) / "mixtures" / "valid.csv",
                    found.recipes,
                    mixers[split].noise,
                )
        findings["warnings"] |= _shared(speech, mixers)
        run_on_main(write_state, args=(path, findings))
    for split, problems in findings["problems"].items():
        if problems and not skip_broken:
            raise_if_broken(problems, f"{split} set")
        for utt_id in problems:
            logger.warning(f"left out: {problems[utt_id]}")
            del speech[split][utt_id]
    for split, doubts in findings["warnings"].items():
        for doubt in doubts.values():
            logger.warning(
                f"{split}: {doubt['count']} recordings: {doubt['first']}"
            )
    return {key: findings[key] for key in ("mean", "std", "clean_mean")}


def _shared(speech, mixers):
    """Say which recordings are in two splits, or in speech and noise."""
    sets = {
        name: [entry["wav"] for entry in manifest.values()]
        for name, manifest in speech.items()
    }
    for name, mixer in mixers.items():
        if mixer.noise:
            sets[f"noise of {name}"] = [e["wav"] for e in mixer.noise.values()]
    return {
        f"{one} and {other}": {
            "shared": {
                "count": len(pairs),
                "first": f"{pairs[0][0]} and {pairs[0][1]} are the same audio",
            }
        }
        for (one, other), pairs in shared_recordings(sets).items()
        # Training and validation may well share their noise.
        if not (one.startswith("noise") and other.startswith("noise"))
    }


def _earlier(path, key):
    """Return what an earlier start found; None if it is of no use."""
    if not path.is_file():
        return None
    try:
        findings = read_state(path)
        return findings if findings["key"] == key else None
    except (OSError, InputError, KeyError) as error:
        logger.warning(f"{error}; the audio is read again")
        return None

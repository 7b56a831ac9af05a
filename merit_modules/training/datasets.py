"""What a recipe's dataio_prepare is made of, beside manifests and mixers."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import raise_if_broken
from merit_modules.data.duplicates import shared_recordings
from merit_modules.data.findings import (
    FileFindings,
    findings_folder,
    identities,
    read_findings,
    write_findings,
)
from merit_modules.data.mixing import MixRecipe, NoiseMixer, write_recipes
from merit_modules.data.pipelines import scan
from merit_modules.data.seeding import keyed_seed
from merit_modules.data.state import digest_of, write_state
from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import SCAN

logger = get_logger(__name__)
# It says the same twice an epoch.
get_logger("speechbrain.dataio.sampler").setLevel("WARNING")

#: A training set up to the first size is mixed whole for its statistics; of a
#: larger one, as many utterances as the second says.
MOST_MIXED, N_MIXED = 5000, 1000
MEANS = ("mean", "std", "clean_mean")


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
    manifest=None,
):
    """Read all audio once; or take what an earlier start or run found.

    Where the noise is drawn, statistics of a training set of more than
    ``MOST_MIXED`` utterances are those of ``N_MIXED``, the same for all seeds:
    a new seed has other mixtures, and mixing all anew takes minutes.

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
        Where the run's findings are kept.
    settings : list
        What else the findings depend on, as plain values.
    num_workers : int
        Processes that read.
    skip_broken : bool
        Leave broken utterances out rather than stop.
    manifest : str or Path, optional
        A manifest: where it is shared, so are the findings, beside it.

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
    folder = findings_folder(manifest or path, output_folder)
    check = _Check(speech, mixers, dataset_of, folder, settings, num_workers)
    findings = run_on_main(check.of_this_run, args=[path])
    if findings is None:
        found = {
            split: check.mixtures(split)
            for split in ("train", "valid")
            if split in speech and not (split == "valid" and check.is_clean())
        }
        for split in speech:
            check.read_rest(split)
        findings = run_on_main(check.summary, args=[found])
        if findings["mean"] is None:
            raise_if_broken(findings["problems"]["train"], "train set")
        if "valid" in found and if_main_process():
            recipes = [
                MixRecipe(*recipe) for recipe in found["valid"]["recipes"]
            ]
            write_recipes(
                Path(output_folder) / "mixtures" / "valid.csv",
                recipes,
                mixers["valid"].noise,
            )
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
    return {key: findings[key] for key in MEANS}


class _Check:
    """Finds out what is not known yet; what is kept is the main process's."""

    def __init__(
        self, speech, mixers, dataset_of, folder, settings, num_workers
    ):
        self.speech, self.mixers, self.dataset_of = speech, mixers, dataset_of
        self.folder, self.num_workers = folder, num_workers
        means = [getattr(m, "about_mean", None) for m in mixers.values()]
        about_mean = next((m for m in means if m is not None), True)
        self.clean = NoiseMixer(None, None, 0, about_mean=about_mean)
        self.settings = [*settings, about_mean]
        self.files = self.known = self.key = self.names_key = None

    def of_this_run(self, path):
        """Return what an earlier start of this run found, if it still holds."""
        speech = {
            split: [[utt_id, entry["wav"]] for utt_id, entry in entries.items()]
            for split, entries in self.speech.items()
        }
        paths = {wav for split in speech.values() for _, wav in split}
        paths.update(*(mixer.audio_files() for mixer in self.mixers.values()))
        self.files = identities(sorted(paths))
        mixers = [_about(mixer) for mixer in self.mixers.values()]
        files = list(self.files.values())
        self.key = digest_of([speech, files, self.settings, mixers])
        # A finished run is tested where its training audio is gone, too.
        self.names_key = digest_of([speech, self.settings, mixers])
        keys = ["key", "names_key", "problems", "warnings", *MEANS]
        findings = read_findings(path, keys)
        if findings is None:
            return None
        holds = findings["key"] == self.key
        if None in self.files.values():
            holds = holds or findings["names_key"] == self.names_key
        return findings if holds else None

    def is_clean(self):
        """Whether nothing is mixed into the validation set."""
        mixer = self.mixers["valid"]
        return isinstance(mixer, NoiseMixer) and mixer.snr_range_db is None

    def mixtures(self, split):
        """Return what is known of the mixtures of a split, or mix them."""
        path, ids, found = run_on_main(self._known_mixtures, args=[split])
        if found is not None:
            return found
        dataset = self.dataset_of(split, self.mixers[split])
        desc = f"Reading and mixing {split} audio"
        scanned = scan(dataset, self.num_workers, desc, ids)
        found = {
            "mean": scanned.stats and scanned.stats.mean,
            "std": scanned.stats and scanned.stats.std,
            "clean_mean": scanned.stats and scanned.clean_stats.mean,
            "problems": scanned.problems,
            "doubts": scanned.doubts,
            # Listed in every run's folder.
            "recipes": [list(r) for r in scanned.recipes if split == "valid"],
        }
        run_on_main(write_findings, args=[path, found])
        usable = {recipe.utt_id for recipe in scanned.recipes}
        run_on_main(self._add, args=[split, usable, scanned])
        return found

    def _known_mixtures(self, split):
        mixer, ids = self.mixers[split], list(self.speech[split])
        is_drawn = isinstance(mixer, NoiseMixer) and split == "train"
        if is_drawn and len(ids) > MOST_MIXED:
            ids.sort(key=lambda utt_id: keyed_seed("statistics", utt_id))
            ids = ids[:N_MIXED]
        chosen = sorted(ids)
        wavs = [self.speech[split][utt_id]["wav"] for utt_id in chosen]
        dataset = self.dataset_of(split, mixer)
        try:
            # Of a recipe's own pipeline, its first mixture tells.
            first = dataset[dataset.data_ids.index(chosen[0])]["noisy_wav"]
            first = hashlib.sha256(first.numpy().tobytes()).hexdigest()
        except InputError as error:
            first = str(error)
        key = digest_of(
            [
                [[i, wav, self.files[wav]] for i, wav in zip(chosen, wavs)],
                [[wav, self.files[wav]] for wav in mixer.audio_files()],
                _about(mixer),
                self.settings,
                first,
            ]
        )
        path = self.folder / f"mixtures-{key[:24]}.json"
        needed = ["problems", "doubts", "recipes", *MEANS]
        return path, set(ids), read_findings(path, needed)

    def read_rest(self, split):
        """Read the files of a split of which nothing is known."""
        ids = run_on_main(self._unknown, args=[split])
        if ids:
            dataset = self.dataset_of(split, self.clean)
            desc = f"Reading {split} audio"
            scanned = scan(dataset, self.num_workers, desc, ids)
            run_on_main(self._add, args=[split, ids, scanned])

    def _known_files(self):
        if self.known is None:
            wavs = [e["wav"] for m in self.speech.values() for e in m.values()]
            files = {wav: self.files[wav] for wav in wavs}
            self.known = FileFindings(self.folder, files, self.settings)
        return self.known

    def _unknown(self, split):
        known = self._known_files()
        return {
            utt_id
            for utt_id, entry in self.speech[split].items()
            if known.of(entry["wav"]) is None
        }

    def _add(self, split, ids, scanned):
        wavs = {utt_id: self.speech[split][utt_id]["wav"] for utt_id in ids}
        self._known_files().add(
            {
                wav: (scanned.problems.get(utt_id), scanned.doubts.get(wav, {}))
                for utt_id, wav in wavs.items()
            }
        )

    def summary(self, mixtures):
        """Put together what this run has to know."""
        known, problems, warnings = self._known_files(), {}, {}
        for split, entries in self.speech.items():
            mixed = mixtures.get(split, {"problems": {}, "doubts": {}})
            problems[split], doubts = {}, {}
            for utt_id, entry in entries.items():
                problem, doubts[entry["wav"]] = known.of(entry["wav"])
                problem = problem or mixed["problems"].get(utt_id)
                if problem:
                    problems[split][utt_id] = problem
            warnings[split] = _counted({**mixed["doubts"], **doubts})
        warnings = {split: told for split, told in warnings.items() if told}
        train = {key: mixtures["train"][key] for key in MEANS}
        return {
            "key": self.key,
            "names_key": self.names_key,
            "problems": problems,
            "warnings": {**warnings, **self._shared()},
            **train,
        }

    def _shared(self):
        """Say which recordings are in two splits, or in speech and noise."""
        sets = {
            name: [entry["wav"] for entry in manifest.values()]
            for name, manifest in self.speech.items()
        }
        for name, mixer in self.mixers.items():
            if mixer.noise:
                noise = [entry["wav"] for entry in mixer.noise.values()]
                sets[f"noise of {name}"] = noise
        files = {
            name: [[wav, self.files.get(wav)] for wav in wavs]
            for name, wavs in sets.items()
        }
        path = self.folder / f"shared-{digest_of(files)[:24]}.json"
        found = read_findings(path, ["shared"])
        if found is None:
            found = {
                f"{one} and {other}": {
                    "shared": {
                        "count": len(pairs),
                        "first": f"{pairs[0][0]} and {pairs[0][1]} are the "
                        "same audio",
                    }
                }
                for (one, other), pairs in shared_recordings(sets).items()
                # Training and validation may well share their noise.
                if not (one.startswith("noise") and other.startswith("noise"))
            }
            found = {"shared": found}
            write_findings(path, found)
        return found["shared"]


def _about(mixer):
    """Say what mixtures depend on beside the files, as plain values."""
    about_mean = getattr(mixer, "about_mean", None)
    return [mixer.seed, mixer.snr_range_db, mixer.noise, about_mean]


def _counted(doubts):
    """Return each kind of doubt with its count and its first recording."""
    told = {}
    for path, found in doubts.items():
        for kind, text in found.items():
            first = {"count": 0, "first": f"{path}: {text}"}
            told.setdefault(kind, first)["count"] += 1
    return told

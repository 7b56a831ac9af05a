"""Test conditions: run them, score them, write what was found."""

import csv
import io
import json
import platform
import time
from pathlib import Path
from typing import NamedTuple

import soundfile
import speechbrain
import torch
import torchaudio
import transformers
from speechbrain.utils.logger import get_logger

from merit_modules import __version__
from merit_modules.data.manifest import write_atomically
from merit_modules.data.mixing import write_recipes
from merit_modules.metrics.scoring import summarise
from merit_modules.metrics.table import results_table

logger = get_logger(__name__)

SIDES = ("noisy", "enhanced", "clean")


class TestCondition(NamedTuple):
    """One way in which the test set is made noisy.

    Arguments
    ---------
    noise_set : str or None
        Name of the noise manifest; None for clean speech.
    snr_db : float or None
        Signal-to-noise ratio in dB; None for clean speech.
    dataset : DynamicItemDataset
        The test set under this condition.
    noise : dict or None
        The noise manifest.
    test_set : str or None
        Name of the speech manifest, where there are several.
    """

    noise_set: str | None
    snr_db: float | None
    dataset: object
    noise: dict | None
    test_set: str | None = None

    __test__ = False  # not a test case, whatever its name

    @property
    def name(self):
        """Name for tables and folders, such as ``unseen_-5dB``."""
        name = "clean"
        if self.noise_set is not None:
            noise_set = self.noise_set.removeprefix("test_")
            name = f"{noise_set}_{self.snr_db:g}dB"
        return name if self.test_set is None else f"{self.test_set}_{name}"


class ConditionScores:
    """Collects what the system made of one condition, utterance by utterance.

    Arguments
    ---------
    scorer : EnhancementScorer
        Scores enhancement beside the model.
    folder : str or Path
        Where the first examples are written as WAV files.
    n_examples : int
        Number of utterances to write.
    sample_rate_hz : int
        Sample rate of the audio.
    """

    def __init__(self, scorer, folder, n_examples, sample_rate_hz):
        self.scorer = scorer
        self.folder = Path(folder)
        self.n_examples = n_examples
        self.sample_rate_hz = sample_rate_hz
        self.rows = {}
        self.scores = {}
        self.recipes = []

    def add(self, utt_ids, records, wavs, recipes):
        """Add a batch.

        Arguments
        ---------
        utt_ids : list of str
            Ids of the utterances.
        records : list of dict
            What the target noted of each; empty from a system that does not
            recognise emotions.
        wavs : tuple of list of torch.Tensor
            Clean, noisy and enhanced waveforms (N,) of each utterance; None
            in place of the last from a system that does not enhance.
        recipes : list of MixRecipe
            How the mixtures were made.
        """
        self.recipes += recipes
        for i, (utt_id, record) in enumerate(zip(utt_ids, records)):
            self.rows[utt_id] = record
            clean, noisy, enhanced = (w and w[i] for w in wavs)
            if enhanced is not None:
                self.scorer.submit(utt_id, clean, noisy, enhanced)
            if len(self.rows) <= self.n_examples:
                self._write(utt_id, (noisy, enhanced, clean))

    def _write(self, utt_id, wavs):
        self.folder.mkdir(parents=True, exist_ok=True)
        for side, wav in zip(SIDES, wavs):
            if wav is None:
                continue
            # Float: a peak above 1 is written as it is, not clipped.
            soundfile.write(
                self.folder / f"{utt_id}_{side}.wav",
                wav.numpy(),
                self.sample_rate_hz,
                subtype="FLOAT",
            )

    def finish(self, target):
        """Score the condition.

        Arguments
        ---------
        target : EmotionTarget or AttributeTarget
            Scores what was recorded.

        Returns
        -------
        dict
            ``ser``, ``se`` and ``failures``, as in ``results.json``; without
            the first or the second for a task that the system lacks.
        """
        self.scores, failures = self.scorer.collect()
        found = {"failures": failures}
        recognised = [row for row in self.rows.values() if row]
        if recognised:
            found["ser"] = target.scores(recognised)
        if self.scores:
            found["se"] = summarise(self.scores, failures, self.scorer.metrics)
        return found

    def as_csv(self, target):
        """Write one line per utterance, after :meth:`finish`.

        Arguments
        ---------
        target : EmotionTarget or AttributeTarget
            Names the columns of what was recorded.

        Returns
        -------
        str
            CSV text; what could not be computed is left empty.
        """
        measured = [(s, m) for s in SIDES[:2] for m in self.scorer.metrics]
        header = ["utt_id", *target.columns]
        header += [f"{side}_{metric}" for side, metric in measured]
        stream = io.StringIO()
        writer = csv.DictWriter(stream, header, lineterminator="\n")
        writer.writeheader()
        for utt_id, record in sorted(self.rows.items()):
            scores = self.scores.get(utt_id, {})
            values = {
                f"{side}_{metric}": scores[side][metric]
                for side, metric in measured
                if metric in scores.get(side, {})
            }
            writer.writerow({"utt_id": utt_id, **record, **values})
        return stream.getvalue()


def evaluate_conditions(
    brain, conditions, scorer, output_folder, about, n_examples, loader_kwargs
):
    """Evaluate the best checkpoint of a run under every condition.

    Writes ``results.json`` and ``results.md``; per condition a CSV of scores,
    a CSV of the mixtures and a folder of examples. The results so far are
    written after each condition.

    Arguments
    ---------
    brain : JointBrain
        The trained brain.
    conditions : list of TestCondition
        What to evaluate.
    scorer : EnhancementScorer
        Scores enhancement beside the model.
    output_folder : str or Path
        The run's folder.
    about : dict
        What the run was (corpus, system, seed); goes into the results.
    n_examples : int
        Utterances per condition to write as WAV files.
    loader_kwargs : callable
        Dataset to the arguments of its loader.

    Returns
    -------
    dict
        The content of ``results.json``.
    """
    output_folder = Path(output_folder)
    results = {
        **about,
        "validation": brain.load_best(),
        "n_parameters": sum(p.numel() for p in brain.system.parameters()),
        "versions": versions(),
        "conditions": [],
    }
    for condition in conditions:
        start = time.monotonic()
        logger.info(f"Testing: {condition.name}")
        brain.condition = ConditionScores(
            scorer,
            output_folder / "examples" / condition.name,
            n_examples,
            scorer.sample_rate_hz,
        )
        brain.evaluate(
            condition.dataset,
            test_loader_kwargs=loader_kwargs(condition.dataset),
        )
        results["conditions"].append(
            {
                "name": condition.name,
                "test_set": condition.test_set,
                "noise": condition.noise_set,
                "snr_db": condition.snr_db,
                **brain.condition.finish(brain.target),
                "routing": {
                    name: value
                    for name, value in brain.tracker.means().items()
                    if "load_" in name or "entropy" in name or "same" in name
                },
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        _write_condition(output_folder, condition, brain, results)
    return results


def _write_condition(output_folder, condition, brain, results):
    write_atomically(
        output_folder / "scores" / f"{condition.name}.csv",
        brain.condition.as_csv(brain.target),
    )
    write_recipes(
        output_folder / "mixtures" / f"{condition.name}.csv",
        brain.condition.recipes,
        condition.noise,
    )
    write_atomically(
        output_folder / "results.json",
        json.dumps(results, indent=2, allow_nan=False) + "\n",
    )
    write_atomically(
        output_folder / "results.md", results_table(results, markdown=True)
    )


def versions():
    """Name the software that results depend on.

    Returns
    -------
    dict
        Package to version.

    Example
    -------
    >>> "torch" in versions()
    True
    """
    packages = (speechbrain, torch, torchaudio, transformers)
    found = {package.__name__: package.__version__ for package in packages}
    return {
        "python": platform.python_version(),
        "merit_modules": __version__,
        **found,
    }

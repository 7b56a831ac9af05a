"""One test condition: what it is, and what is noted of its utterances."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import soundfile

from merit_modules.data.gathering import gathered
from merit_modules.data.text import speaker_of
from merit_modules.evaluation.metrics.scoring import summarise
from merit_modules.evaluation.routing_log import RoutingLog

HEARD = ("noisy", "enhanced", "clean")  # what examples are of


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


def noise_grid(test_sets, noises, snrs_db, dataset_of, clean=True):
    """List the conditions: each test set with each noise at each SNR.

    Arguments
    ---------
    test_sets : list of str
        Names of the speech manifests.
    noises : dict
        Name to noise manifest.
    snrs_db : list of float
        Signal-to-noise ratios in dB.
    dataset_of : callable
        Test set, noise manifest and SNR to a dataset; None and None for clean
        speech.
    clean : bool
        Whether clean speech is a condition, too.

    Returns
    -------
    list of TestCondition
        The conditions.

    Example
    -------
    >>> grid = noise_grid(["test"], {"test_unseen": {}}, [0, 5], lambda *x: x)
    >>> [condition.name for condition in grid]
    ['unseen_0dB', 'unseen_5dB', 'clean']
    """
    conditions = []
    for test_set in test_sets:
        label = test_set if len(test_sets) > 1 else None
        cells = [(n, s) for n in noises for s in snrs_db]
        for name, snr_db in cells + [(None, None)] * clean:
            noise = noises.get(name)
            dataset = dataset_of(test_set, noise, snr_db)
            conditions.append(
                TestCondition(name, snr_db, dataset, noise, label)
            )
    return conditions


class ConditionScores:
    """Collects what the system made of one condition, utterance by utterance.

    Arguments
    ---------
    condition : TestCondition
        What is evaluated.
    scorer : EnhancementScorer
        Scores enhancement beside the model.
    folder : str or Path, optional
        Where examples are written as WAV files.
    n_examples : int
        Number of utterances to write.
    routing : bool
        Keep which expert served which frame, if the system has routers.
    """

    def __init__(
        self, condition, scorer, folder=None, n_examples=0, routing=False
    ):
        self.condition = condition
        self.scorer = scorer
        self.folder = folder and Path(folder)
        self.n_examples = n_examples
        self.routing = RoutingLog(scorer.sample_rate_hz) if routing else None
        self.examples = set(_choose(condition, n_examples))
        self.rows = {}
        self.recipes = []

    def add(self, utt_ids, records, wavs, recipes, mixture):
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
        mixture : MixtureOutput
            The routing decisions of the batch.
        """
        self.recipes += recipes
        if self.routing is not None and mixture.routing:
            self.routing.add(utt_ids, mixture, wavs[0])
        for i, (utt_id, record) in enumerate(zip(utt_ids, records)):
            self.rows[utt_id] = {**self._about(utt_id, recipes[i]), **record}
            clean, noisy, enhanced = (w and w[i] for w in wavs)
            if enhanced is not None:
                self.scorer.submit(utt_id, clean, noisy, enhanced)
            if utt_id in self.examples:
                self._write(utt_id, (noisy, enhanced, clean))

    def _about(self, utt_id, recipe):
        entry = self.condition.dataset.data[utt_id]
        noise = (self.condition.noise or {}).get(recipe.noise_id, {})
        return {
            "utt_id": utt_id,
            "spk_id": speaker_of(entry.get("spk_id")),
            "condition": self.condition.name,
            "test_set": self.condition.test_set,
            "noise_set": self.condition.noise_set,
            "snr_db": self.condition.snr_db,
            "noise": recipe.noise_id,
            "noise_type": noise.get("noise_type"),
        }

    def _write(self, utt_id, wavs):
        self.folder.mkdir(parents=True, exist_ok=True)
        for side, wav in zip(HEARD, wavs):
            if wav is None:
                continue
            # Float: a peak above 1 is written as it is, not clipped.
            soundfile.write(
                self.folder / f"{utt_id}_{side}.wav",
                wav.numpy(),
                self.scorer.sample_rate_hz,
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
        dict or None
            ``ser``, ``se`` and ``failures``, as in ``results.json``; without
            the first or the second for a task that the system lacks. On the
            first of several processes, of what all of them collected; None on
            the others.
        """
        own = self.rows, self.recipes, self.routing, *self.scorer.collect()
        parts = gathered(own, to_all=False)
        if parts is None:
            return None
        self.rows, scores, failures, self.recipes = {}, {}, [], []
        for rows, recipes, routing, part, failed in parts:
            self.rows |= rows
            self.recipes += recipes
            scores |= part
            failures += failed
            if self.routing is not None:
                self.routing.merge(routing)
        failures.sort(key=lambda failure: failure["utt_id"])
        found = {"failures": failures}
        rows = [row for _, row in sorted(self.rows.items())]
        if any(target.columns[0] in row for row in rows):
            found["ser"] = target.scores(rows)
        if scores:
            found["se"] = summarise(scores, failures, self.scorer.metrics)
        for utt_id, sides in scores.items():
            for side, values in sides.items():
                self.rows[utt_id] |= {
                    f"{side}_{metric}": value
                    for metric, value in values.items()
                }
        return found

    def table(self):
        """List the rows, after :meth:`finish`, by utterance."""
        return [row for _, row in sorted(self.rows.items())]


def _choose(condition, n_examples):
    """Choose other utterances per condition; the same for all systems."""
    entries = condition.dataset.data

    def by_chance(utt_id):
        return hashlib.sha256(f"{condition.name} {utt_id}".encode()).digest()

    ids = sorted(condition.dataset.data_ids, key=by_chance)
    kinds = {i: (entries[i].get("emo"), entries[i].get("spk_id")) for i in ids}
    return varied(kinds, n_examples)


def varied(kinds, n):
    """Choose items that differ as much as they can.

    Arguments
    ---------
    kinds : dict
        Item to a tuple, such as its emotion and its speaker.
    n : int
        How many; fewer where there are fewer.

    Returns
    -------
    list
        Items: each time the first of those whose kinds came up least.

    Example
    -------
    >>> kinds = {"u1": ("sad", "a"), "u2": ("sad", "b"), "u3": ("calm", "b")}
    >>> varied(kinds, 2)
    ['u1', 'u3']
    """
    left, chosen, seen = dict(kinds), [], Counter()
    while left and len(chosen) < n:
        item = min(left, key=lambda i: sum(seen[k] for k in enumerate(left[i])))
        chosen.append(item)
        seen.update(enumerate(left.pop(item)))
    return chosen

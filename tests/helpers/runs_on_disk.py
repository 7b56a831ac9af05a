"""Finished runs that nobody trained, for tests of reports."""

import json

import numpy as np
import soundfile

from merit_modules.evaluation.metrics.classification import (
    classification_scores,
)
from merit_modules.evaluation.run_folder import read_table, table_as_csv

CLASSES = ("angry", "calm_x", "sad")
GRID = [
    (f"{noise}_{snr}dB", f"test_{noise}", float(snr))
    for noise in ("seen", "unseen")
    for snr in (-5, 5)
] + [("clean", None, None)]


def write_run(
    folder,
    system="base_line",
    seed=1,
    fold=0,
    skill=0.5,
    gain_db=1.0,
    n_speakers=12,
    n_per_speaker=8,
    draw=0,
    attributes=False,
    balanced=False,
):
    """Write ``results.json`` and ``scores.csv`` of a run.

    Runs of one fold share utterances, labels and mixtures; ``draw`` makes
    their decisions differ. A system without skill or gain (None) lacks that
    task. With ``attributes`` emotion is a number and no class; ``balanced``
    classes are equally frequent.
    """
    rng = np.random.default_rng([fold, 7])
    chance = np.random.default_rng([fold, seed, draw])
    n_utterances = n_speakers * n_per_speaker
    labels = rng.integers(3, size=n_utterances)
    if balanced:
        labels = np.arange(n_utterances) // n_speakers % 3
    rows, conditions = [], []
    for name, noise_set, snr_db in GRID:
        here = []
        for number in range(n_utterances):
            label = int(labels[number])
            row = {
                "utt_id": f"f{fold}_u{number:03}",
                "spk_id": f"f{fold}_s{number % n_speakers}",
                "condition": name,
                "noise_set": noise_set,
                "snr_db": snr_db,
                "noise": noise_set and f"n{rng.integers(9)}.wav",
            }
            noisy = (snr_db or 30.0) + float(rng.normal())
            if attributes:
                value = 1.0 + 3.0 * label
                row["label_arousal"] = value
                error = float(chance.normal(0, 1 - (skill or 0)))
                row["prediction_arousal"] = value + error
            elif skill is not None:
                guess = int(chance.integers(3))
                found = label if chance.uniform() < skill else guess
                row |= {
                    "label": CLASSES[label],
                    "prediction": CLASSES[found],
                    **{
                        f"prob_{c}": 0.8 if i == found else 0.1
                        for i, c in enumerate(CLASSES)
                    },
                }
            if gain_db is not None and noise_set:
                row["noisy_si_sdr_db"] = noisy
                row["enhanced_si_sdr_db"] = (
                    noisy + gain_db + 0.1 * float(chance.normal())
                )
            here.append(row)
        rows += here
        entry = {
            "name": name,
            "test_set": None,
            "noise": noise_set,
            "snr_db": snr_db,
            "failures": [],
        }
        if gain_db is not None and not noise_set:
            entry["failures"] = [
                {
                    "utt_id": row["utt_id"],
                    "side": "noisy",
                    "metric": "si_sdr_db",
                    "reason": "infinite",
                }
                for row in here
            ]
        conditions.append(entry)
    folder.mkdir(parents=True)
    columns = ["label", "prediction", *(f"prob_{c}" for c in CLASSES)]
    if attributes:
        columns = ["label_arousal", "prediction_arousal"]
    columns += ["noisy_si_sdr_db", "enhanced_si_sdr_db"]
    (folder / "scores.csv").write_text(table_as_csv(rows, columns))
    results = {
        "corpus": "C",
        "system": system,
        "seed": seed,
        "fold": fold,
        "versions": {"torch": "2"},
        "cost": {"parameters": 10, "active_parameters": 5, "macs_per_s": 3.0},
        "conditions": conditions,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def write_routing(folder, choose, conditions=None, n_frames=49):
    """Write routing decisions of a run, and what removing experts does.

    ``choose`` takes a generator, task, row of the scores and number of frames
    and gives the experts of an utterance.
    """
    _, table = read_table(folder / "scores.csv")
    rng = np.random.default_rng(0)
    (folder / "routing").mkdir()
    for condition in conditions or [name for name, _, _ in GRID]:
        rows = [row for row in table if row["condition"] == condition]
        total = len(rows) * n_frames
        arrays = {
            "utt_ids": np.array([row["utt_id"] for row in rows]),
            "n_frames": np.full(len(rows), n_frames),
            "voicing": rng.integers(3, size=total).astype(np.uint8),
        }
        for task in ("se", "ser"):
            experts = np.concatenate(
                [choose(rng, task, row, n_frames) for row in rows]
            )
            arrays[f"expert_{task}"] = experts.astype(np.uint8)
            arrays[f"probs_{task}"] = np.eye(3, dtype=np.float16)[experts]
        path = folder / "routing" / f"{condition}.npz"
        np.savez(path, frames_per_s=50.0, **arrays)
    results = json.loads((folder / "results.json").read_text())
    results["expert_removal"] = [
        {
            "condition": "clean",
            "expert": expert,
            "f1_macro": 0.6 - (expert or 0) / 10,
            "si_sdr_db": None,
        }
        for expert in (None, 0, 1, 2)
    ]
    (folder / "results.json").write_text(json.dumps(results))


def scores_of(rows):
    """Score rows as a run does."""
    return classification_scores(
        [CLASSES.index(row["prediction"]) for row in rows],
        [CLASSES.index(row["label"]) for row in rows],
        CLASSES,
    )


def write_examples(
    run, condition, utt_ids, sides=("noisy", "enhanced", "clean")
):
    """Write sounds above full scale, which must not clip on a page."""
    rng = np.random.default_rng(0)
    folder = run / "examples" / condition
    folder.mkdir(parents=True)
    for utt_id in utt_ids:
        for side in sides:
            path = folder / f"{utt_id}_{side}.wav"
            wav = rng.normal(0, 0.5, 16000)
            soundfile.write(path, wav, 16000, subtype="FLOAT")


def change_results(run, **values):
    """Change what a run says of itself."""
    path = run / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))

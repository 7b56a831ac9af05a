"""Finished runs of random weights, and what their cards say."""

import json

import torch
from huggingface_hub import ModelCard

from merit_modules.data.manifest import write_manifest
from merit_modules.hparams import (
    format_overrides,
    keys_of,
    load_hparams,
)
from merit_modules.training import experiment
from tests.conftest import ROOT
from tests.helpers.runs_on_disk import scores_of
from tests.helpers.training import SHORT

CLASSES = ("angry", "sad", "happy", "neutral")


TINY = SHORT | {
    "se_hidden": 8,
    "ser_hidden": 8,
    "ssl_pretrained": False,
}


def write_run(
    folder, name="sparse_merit", n_checkpoints=1, corpus=None, **changes
):
    """Write what a training leaves: YAML, checkpoints and manifests.

    Weights are random; those of epoch e have the bias e in the classifier's
    last layer and the score ``uar`` 1 / e.
    """
    path = ROOT / "hparams" / f"{name}.yaml"
    path = path if corpus is None else corpus
    text = path.read_text()
    overrides = TINY | {"checkpoint_score": "uar", **changes}
    overrides = {k: v for k, v in overrides.items() if k in keys_of(text)}
    folder.mkdir(parents=True)
    (folder / "composed.yaml").write_text(text)
    (folder / "overrides.yaml").write_text(format_overrides(overrides))
    torch.manual_seed(len(name))
    hparams = load_hparams(path, overrides | {"output_folder": str(folder)})
    system = hparams["system"]
    if hparams["front_end_experiment"]:
        first = write_run(folder / "se_only", "se_only", **changes)
        system.front_end = experiment.load_run(first)["system"]
        system.front_end.normalizer.set_statistics(0.01, 0.5)
    system.normalizer.set_statistics(0.1, 0.7)
    for epoch in range(1, n_checkpoints + 1):
        if system.ser_head is not None:
            torch.nn.init.constant_(system.ser_head.classifier[-1].bias, epoch)
        hparams["checkpointer"].save_checkpoint(
            {"epoch": epoch, "uar": 1 / epoch}
        )
    write_manifests(folder / "save" / "manifests", hparams["ser_outputs"])
    return folder


def write_manifests(folder, labels):
    for split, speakers in [("train", "abc"), ("valid", "d"), ("test", "e")]:
        entries = {
            f"{speaker}{n}": {
                "wav": "{data_root}/gone.wav",
                "duration": 13.0,
                "emo": labels[n % len(labels)],
                "spk_id": speaker,
            }
            for speaker in speakers
            for n in range(5)
        }
        write_manifest(folder / f"{split}.json", entries)
    for split in ("train", "test_unseen"):
        noise = {"wav": "{data_root}/n.wav", "duration": 30.0}
        noise["noise_type"] = "rain"
        write_manifest(folder / f"noise_{split}.json", {"n": noise})
    # What the preparation of a corpus leaves beside them.
    stamp = {"data_folder": "/gone", "digests": {}}
    (folder / "prepared.json").write_text(json.dumps(stamp))


def write_results(folder, epoch=1, classes=CLASSES, ser=True, se=True):
    rows = [{"prediction": "angry", "label": "angry"}] * 3
    found = scores_of(rows) | {"classes": list(classes), "uar": 0.4321}
    side = {"si_sdr_db": {"mean": 7.654, "n": 3, "n_failed": 0}}
    condition = {
        "name": "unseen_0dB",
        "test_set": None,
        "noise": "test_unseen",
        "snr_db": 0,
        "failures": [],
        **({"ser": found} if ser else {}),
        **({"se": {"n": 3, "noisy": side, "enhanced": side}} if se else {}),
    }
    results = {
        "validation": {"epoch": epoch, "uar": 1 / epoch},
        "versions": {"torch": "9.8.7"},
        "conditions": [condition],
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def card_of(folder):
    card = ModelCard((folder / "README.md").read_text())
    return card.data, " ".join(card.text.split())

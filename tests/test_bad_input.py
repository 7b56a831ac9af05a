"""What a user can get wrong ends in one message, before anything is lost.

Messages about single audio files are tested in ``test_data_audio.py``, about
manifests and labels in ``test_data_pipelines.py``, about EMO-DB's folder in
``test_emodb_prepare.py``.
"""

import json
import logging
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams
from merit_modules.tiny import tiny_system
from merit_modules.training import experiment, recipe
from merit_modules.training.checkpoints import AtomicCheckpointer
from tests.conftest import ROOT, write_tiny_experiment
from tests.helpers.training import last_checkpoint, start, train

SHIPPED = ROOT / "hparams" / "sparse_merit.yaml"


@pytest.mark.parametrize(
    "overrides, words",
    [
        ("numbr_of_epochs: 1", "no key 'numbr_of_epochs'.*'number_of_epochs'"),
        ("router_gradient: magic", "gradient: expected one of .* got 'magic'"),
        ("top_k: 7", "top_k: expected 1 to 3"),
        ("checkpoint_score: wer", "checkpoint_score: expected one of"),
        ("ssl_encoder: {config: {hiden_size: 8}}", "unknown .*hiden_size"),
        ("ssl_encoder: {model_type: bert}", "expected one of wavlm.*'bert'"),
        ("metrics: [psq]", "psq"),
        ("test_sets: test", "test_sets: expected a list"),
        ("train_snr_db: loud", "snr_db: expected .* got 'loud'"),
        ("emotions: [angry, sad, happy]", "expected a label.*'neutral'"),
        (
            "emotions: [angry, sad, happy, neutral, bored]",
            "class 'bored' has no training utterance",
        ),
    ],
)
def test_wrong_values_are_named(miniemo, tmp_path, overrides, words):
    path = write_tiny_experiment(tmp_path / "tiny.yaml", miniemo)
    key, value = overrides.split(": ", 1)
    with pytest.raises(InputError, match=words):
        hparams = start(path, tmp_path, **{key: value})
        data = recipe.dataio_prepare(hparams)
        brain = recipe.make_brain(hparams, {"device": "cpu"}, data)
        recipe.evaluate(brain, hparams, data)


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: !new:merit_modules.moe.routers.Top9Router", "Top9Router"),
        ("a: !new:merit_modules.moe.routers.TopKRouter {sise: 3}", "sise"),
        ("a: !ref <b>", '"b" is not valid'),
        ("a: [1", "not YAML"),
        ("folder: !PLACEHOLDER", "folder needs a value: add --folder VALUE"),
    ],
)
def test_broken_yaml_is_named(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_hparams(path)


def test_a_missing_yaml_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.yaml: No such file"):
        load_hparams(tmp_path / "nothing.yaml")
    (tmp_path / "mine.yaml").write_text("a: !include:gone.yaml")
    with pytest.raises(InputError, match="mine.yaml: .*gone.yaml"):
        load_hparams(tmp_path / "mine.yaml")


def test_the_command_prints_one_line_and_no_traceback(
    capfd, caplog, monkeypatch
):
    # Not to what an earlier test captured and closed since.
    for handler in logging.getLogger().handlers:
        if getattr(getattr(handler, "stream", None), "closed", False):
            monkeypatch.setattr(handler, "stream", sys.stderr)
    with caplog.at_level(logging.ERROR):
        code = experiment.as_command(recipe.main, ["no.yaml"])
    assert code == 2
    (record,) = caplog.records
    assert record.getMessage().startswith("error: hparams file no.yaml")
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.fixture
def broken_corpus(miniemo, tmp_path):
    """A MiniEmo of which two training files are no good."""
    folder = tmp_path / "broken"
    shutil.copytree(miniemo, folder)
    path = write_tiny_experiment(tmp_path / "tiny.yaml", folder)
    hparams = start(path, tmp_path)
    manifest = tmp_path / "run" / "save" / "manifests" / "train.json"
    entries = json.loads(manifest.read_text())
    names = list(entries)[:2]
    files = [
        entries[name]["wav"].replace("{data_root}", str(folder))
        for name in names
    ]
    soundfile.write(files[0], np.zeros(16000), 16000)
    with open(files[1], "wb") as stream:
        stream.write(b"this is no audio")
    return path, hparams, names, files


def test_all_broken_audio_is_listed_before_training(broken_corpus):
    _, hparams, names, files = broken_corpus
    with pytest.raises(InputError) as caught:
        recipe.dataio_prepare(hparams)
    message = str(caught.value)
    assert f"{names[0]!r}: the speech is silent" in message
    assert files[1] in message


def test_broken_audio_can_be_left_out(broken_corpus):
    _, hparams, names, _ = broken_corpus
    n_before = 48
    hparams["skip_broken_audio"] = True
    data = recipe.dataio_prepare(hparams)
    assert len(data.train) == n_before - 2
    assert not set(names) & set(data.train.data_ids)


@pytest.mark.slow
def test_a_nan_loss_stops_by_name_and_keeps_the_checkpoint(
    tiny_experiment, tmp_path, monkeypatch
):
    hparams = start(tiny_experiment, tmp_path)
    loss = hparams["loss"]
    total = loss.forward

    def nan_in_the_second_epoch(terms):
        value = total(terms)
        bad = hparams["epoch_counter"].current == 2
        return value * float("nan") if bad else value

    monkeypatch.setattr(loss, "forward", nan_in_the_second_epoch)
    with pytest.raises(InputError, match="became nan in epoch 2, step 1, on"):
        train(hparams)
    kept = last_checkpoint(tmp_path / "run")
    state = torch.load(kept / "system.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in state.values())


@pytest.mark.slow
def test_a_checkpoint_of_other_sizes_is_refused(tiny_experiment, tmp_path):
    train(start(tiny_experiment, tmp_path, number_of_epochs=1))
    # Else the settings are compared first.
    (tmp_path / "run" / "composed.yaml").unlink()
    other = start(tiny_experiment, tmp_path, expert_output=9)
    words = r"(?s)not of this model.*: expected .*9.*, got .*8.*output_folder"
    with pytest.raises(InputError, match=words):
        train(other)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("zip")]
)
def test_a_full_disk_loses_no_checkpoint(tmp_path, monkeypatch, error):
    system = tiny_system()
    checkpointer = AtomicCheckpointer(tmp_path, {"system": system})
    first = checkpointer.save_checkpoint()

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="could not be saved") as caught:
        checkpointer.save_checkpoint()
    assert str(first.path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [first.path]
    checkpointer.recover_if_possible()


def test_a_half_written_checkpoint_is_not_loaded(tmp_path, monkeypatch):
    checkpointer = AtomicCheckpointer(tmp_path, {"system": tiny_system()})
    first = checkpointer.save_checkpoint()
    monkeypatch.setattr(checkpointer, "_publish", lambda checkpoint: checkpoint)
    checkpointer.save_checkpoint()  # killed before it was renamed
    assert checkpointer.find_checkpoint().path == first.path
    monkeypatch.undo()
    checkpointer.save_checkpoint()
    assert not list(tmp_path.glob("PARTIAL*"))


@pytest.mark.slow
def test_a_test_set_metric_that_fails_is_counted(tiny_experiment, tmp_path):
    hparams = start(tiny_experiment, tmp_path, test_clean=True)
    data = recipe.dataio_prepare(hparams)
    brain = recipe.make_brain(
        hparams, {"device": "cpu", "noprogressbar": True}, data
    )
    results = recipe.evaluate(brain, hparams, data)
    clean = results["conditions"][-1]
    assert clean["name"] == "clean"
    failed = [f for f in clean["failures"] if f["metric"] == "si_sdr_db"]
    assert {f["side"] for f in failed} >= {"noisy"}
    assert "si_sdr_db" not in clean["se"]["noisy"] or (
        "mean" not in clean["se"]["noisy"]["si_sdr_db"]
    )

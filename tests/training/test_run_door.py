"""A run is what its folder says: sealed, held, begun anew, ended by signal."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.epoch_loop import EpochCounter

from merit_modules.commands.evaluate import evaluate_run
from merit_modules.data.state import DamagedError
from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import read_results
from merit_modules.export import export_run
from merit_modules.inference import SparseMERIT
from merit_modules.ssl import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from merit_modules.training import experiment, recipe
from merit_modules.training.checkpoints import (
    DAMAGED_PREFIX,
    DIGESTS,
    AtomicCheckpointer,
)
from merit_modules.training.seal import SEAL, read_seal
from tests.conftest import ROOT, write_tiny_experiment
from tests.helpers import forking
from tests.helpers.training import last_checkpoint, run_train
from tests.helpers.yaml_files import changed

#: Two epochs; gradients that wait for their step are in no checkpoint.
SHORT = ("--stage_2_epochs", 1, "--grad_accumulation_factor", 2)


@pytest.fixture(scope="module")
def trained(miniemo, tmp_path_factory):
    """A YAML file and the folder of a short run that is finished."""
    place = tmp_path_factory.mktemp("trained")
    path = write_tiny_experiment(place / "tiny.yaml", miniemo)
    done = run_train(path, place / "run", *SHORT)
    assert done.returncode == 0, done.stderr
    return path, place / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    path, folder = trained
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    return path, copy


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        # What SpeechBrain's loggers open when YAML is loaded is no state.
        if path.is_file()
        and path.name != "log.txt"
        and "tfevents" not in path.name
    }


def weights_of(folder):
    path = last_checkpoint(folder) / "system.ckpt"
    return torch.load(path, weights_only=True)


def test_a_seal_names_settings_data_labels_and_roots(run):
    _, folder = run
    sealed = read_seal(folder)
    assert sealed["settings"]["top_k"] == 1
    assert {"train set", "test set", "noise of train"} <= set(sealed["data"])
    assert os.path.isabs(sealed["values"]["speech_root"])
    assert sealed["values"]["ser_outputs"] == sealed["settings"]["emotions"]


CHANGES = {
    "fewer": lambda rows: rows.popitem(),
    "label": lambda rows: rows["a"].update(emo="sad"),
    "speaker": lambda rows: rows["a"].update(spk_id="x"),
}


def change_data(folder, how):
    manifest = folder / "save" / "manifests" / "train.json"
    rows = json.loads(manifest.read_text())
    rows = {"a": rows.pop(next(iter(rows))), **rows}
    CHANGES[how](rows)
    manifest.write_text(json.dumps(rows))


@pytest.mark.parametrize("how", sorted(CHANGES))
def test_a_run_with_other_data_is_not_tested(run, how):
    _, folder = run
    change_data(folder, how)
    told = r"train.json: '\d+ entries \(\w+\)' there, '\d+ entries"
    with pytest.raises(InputError, match=told):
        evaluate_run([str(folder)])


def test_other_data_is_refused_and_nothing_changed(run):
    path, folder = run
    change_data(folder, "label")
    before = files_of(folder)
    done = run_train(path, folder, "--skip_prep", "True", *SHORT)
    assert done.returncode == 2
    assert "holds a run with other data" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert files_of(folder) == before


def test_a_corpus_that_changed_leaves_the_manifests(run, monkeypatch):
    path, folder = run
    before = files_of(folder)

    def prepare(manifest_folder, **_):
        manifest = os.path.join(manifest_folder, "train.json")
        rows = json.loads(open(manifest).read())
        rows.popitem()
        with open(manifest, "w") as stream:
            json.dump(rows, stream)

    monkeypatch.setattr("merit_modules.data.miniemo.prepare_miniemo", prepare)
    words = [str(path), "--output_folder", str(folder), *map(str, SHORT)]
    with pytest.raises(InputError, match="other data"):
        recipe.main(words)
    assert files_of(folder) == before


def test_a_run_that_moved_is_tested_from_its_folder_alone(run, tmp_path):
    _, folder = run
    there = tmp_path / "elsewhere" / "moved"
    there.parent.mkdir()
    folder.rename(there)
    before = read_results(there)
    merit = ["-m", "merit_modules.commands.evaluate"]
    done = forking.run([*merit, there], tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_results(there)["conditions"] == before["conditions"]


def test_audio_that_moved_is_asked_for(run, tmp_path):
    _, folder = run
    root = read_seal(folder)["values"]["speech_root"]
    words = [str(folder), "--speech_root", str(tmp_path / "gone")]
    with pytest.raises(InputError, match=r"speech_root: .*--speech_root DIR"):
        evaluate_run(words)
    (tmp_path / "link").symlink_to(root)
    again = evaluate_run([str(folder), "--speech_root", f"{tmp_path}/link"])
    assert again["conditions"] == read_results(folder)["conditions"]


@pytest.mark.parametrize(
    ("old", "new"), [("lr: 0.", "lr: 1."), ("\ntop_k:", "\nutop_k:")]
)
def test_a_yaml_that_was_changed_by_hand(run, old, new):
    _, folder = run
    path = folder / "composed.yaml"
    text = path.read_text()
    assert old in text or "lr" in old
    path.write_text(text.replace("lr: 1.0e-3", "lr: 1.0e-4").replace(old, new))
    with pytest.raises(
        InputError, match="differ from seal.json in|composed.yaml: "
    ):
        evaluate_run([str(folder)])


def test_a_seal_that_was_changed_by_hand(run):
    _, folder = run
    text = (folder / SEAL).read_text()
    (folder / SEAL).write_text(text.replace('"top_k": 1', '"top_k": 2'))
    with pytest.raises(DamagedError, match="seal.json: damaged, or changed"):
        evaluate_run([str(folder)])


def test_beginning_anew_keeps_the_old_run(run):
    path, folder = run
    before = files_of(folder)
    done = run_train(path, folder, "--start_over", "--top_k", 2, *SHORT)
    assert done.returncode == 0, done.stderr
    aside = folder.with_name("run.1")
    assert f"the run there is now {aside}" in done.stdout + done.stderr
    assert files_of(aside) == before
    assert read_seal(folder)["settings"]["top_k"] == 2
    assert read_seal(aside)["settings"]["top_k"] == 1


def test_two_trainings_on_one_folder(tiny_experiment, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", str(tiny_experiment)]
    command += ["--output_folder", str(folder), "--noprogressbar"]
    first, second = (
        subprocess.Popen(
            [*command, *map(str, SHORT)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    )
    told = first.communicate()[0], second.communicate()[0]
    assert sorted([first.returncode, second.returncode]) == [0, 2], told
    refused = told[first.returncode == 0]
    winner = first if first.returncode == 0 else second
    assert f"process {winner.pid} is at work there" in refused
    assert "Traceback" not in refused


END = """
import os, signal, sys
sys.path.insert(0, {root!r})
from merit_modules.training.brain import JointBrain
from merit_modules.training import experiment, recipe

def end_in_the_middle(self, *args):
    if self.optimizer_step == 2 and not hasattr(self, "ended"):
        self.ended = True
        os.kill(os.getpid(), signal.SIGTERM)

JointBrain.on_fit_batch_end = end_in_the_middle
sys.exit(experiment.as_command(recipe.main))
"""


def test_sigterm_saves_and_ends(trained, tmp_path):
    path, whole = trained
    ended = tmp_path / "ended"
    words = [str(path), "--output_folder", str(ended), "--noprogressbar"]
    done = forking.run(["-c", END.format(root=str(ROOT)), *words, *SHORT])
    assert done.returncode == 143, done.stderr
    assert "ended by SIGTERM; the same command goes on" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    about = (last_checkpoint(ended) / "CKPT.yaml").read_text()
    assert INTRA_EPOCH_CKPT_FLAG in about
    assert run_train(path, ended, *SHORT).returncode == 0
    expected, got = weights_of(whole), weights_of(ended)
    for name in expected:
        assert torch.equal(expected[name], got[name]), name


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path):
    path.write_bytes(b"")


def some_checkpoints(folder, number=2):
    """Checkpoints of a layer whose bias is the epoch, and their maker."""
    layer, counter = torch.nn.Linear(2, 2), EpochCounter(9)
    parts = {"layer": layer, "counter": counter}
    parts["optimizer"] = torch.optim.AdamW(layer.parameters())
    checkpointer = AtomicCheckpointer(folder, parts)
    for epoch in range(1, number + 1):
        torch.nn.init.constant_(layer.bias, epoch)
        checkpointer.save_checkpoint({"epoch": epoch}, name=f"{epoch}")
    return checkpointer, layer


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize(
    "name",
    ["layer.ckpt", "optimizer.ckpt", "counter.ckpt", "CKPT.yaml", DIGESTS],
)
def test_a_damaged_checkpoint_gives_way(damage, name, tmp_path, caplog):
    checkpointer, layer = some_checkpoints(tmp_path)
    last = tmp_path / "CKPT+2"
    damage(last / name)
    found = checkpointer.recover_if_possible()
    if (damage, name) == (Path.unlink, DIGESTS):  # as of an earlier version
        assert layer.bias[0] == 2 and "damaged:" not in caplog.text
        return
    assert found.meta["epoch"] == 1 and layer.bias[0] == 1
    assert str(last / name) in caplog.text or str(last) in caplog.text
    aside = last.with_name(DAMAGED_PREFIX + last.name)
    assert aside.is_dir() or name in ("CKPT.yaml", DIGESTS)


@given(
    st.sampled_from(["layer.ckpt", "counter.ckpt", "CKPT.yaml", DIGESTS]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)
def test_no_bit_of_a_checkpoint_changes_unnoticed(name, place, bit):
    with tempfile.TemporaryDirectory() as folder:
        checkpointer, layer = some_checkpoints(Path(folder))
        path = Path(folder) / "CKPT+2" / name
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)
        checkpointer.recover_if_possible()
        assert layer.bias[0] == 1


def test_when_all_are_damaged_nothing_is_loaded(tmp_path):
    checkpointer, layer = some_checkpoints(tmp_path)
    for checkpoint in tmp_path.iterdir():
        flip(checkpoint / "optimizer.ckpt")
    torch.nn.init.constant_(layer.bias, 7)
    with pytest.raises(InputError, match="no checkpoint is whole.*start_over"):
        checkpointer.recover_if_possible()
    assert layer.bias[0] == 7 and (tmp_path / "CKPT+2").is_dir()


def test_damage_of_an_earlier_version_is_told_from_another_model(tmp_path):
    checkpointer, _ = some_checkpoints(tmp_path, 1)
    (tmp_path / "CKPT+1" / DIGESTS).unlink()
    cut(tmp_path / "CKPT+1" / "optimizer.ckpt")
    with pytest.raises(DamagedError, match="CKPT.1: damaged"):
        checkpointer.recover_if_possible()
    other = AtomicCheckpointer(tmp_path, {"layer": torch.nn.Linear(3, 2)})
    with pytest.raises(InputError, match="not of this model"):
        other.recover_if_possible()


def test_a_run_goes_on_from_the_checkpoint_before(run):
    path, folder = run
    expected = weights_of(folder)
    last = last_checkpoint(folder)
    flip(last / "system.ckpt")
    done = run_train(path, folder, *SHORT)
    assert done.returncode == 0, done.stderr
    assert f"{last / 'system.ckpt'}: damaged" in done.stdout
    assert "Traceback" not in done.stderr
    got = weights_of(folder)
    for key in expected:
        assert torch.equal(expected[key], got[key]), key


def test_testing_takes_the_next_best(run):
    _, folder = run
    best = last_checkpoint(folder)
    flip(best / "system.ckpt")
    results = evaluate_run([str(folder)])
    assert results["validation"]["epoch"] == 1
    assert best.is_dir(), "a test sets nothing aside"


@pytest.mark.parametrize("damage", [flip, cut, empty])
@pytest.mark.parametrize("name", ["results.json", "scores.csv"])
def test_damaged_scores_are_made_again(run, damage, name, capfd):
    _, folder = run
    before = read_results(folder)
    damage(folder / name)
    again = evaluate_run([str(folder)])
    for old, new in zip(before["conditions"], again["conditions"]):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}


def test_the_lock_is_given_back(run):
    path, folder = run
    words = [str(path), "--output_folder", str(folder), "--lr", "7"]
    assert experiment.as_command(recipe.main, words) == 2
    assert run_train(path, folder, *SHORT).returncode == 0


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    assert experiment.as_command(lambda argv: None, []) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_neither_ssl_folder_nor_recipe_is_needed_again(miniemo, tmp_path):
    torch.manual_seed(0)
    ssl = tmp_path / "ssl"
    RandomSSLEncoder("wavlm", TINY_SSL).model.save_pretrained(ssl)
    path = write_tiny_experiment(tmp_path / "tiny.yaml", miniemo)
    path.write_text(changed(path, SSL_FROM_FOLDER.format(ssl=ssl)))
    done = run_train(path, tmp_path / "run", *SHORT)
    assert done.returncode == 0, done.stderr
    before = read_results(tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "before")
    shutil.rmtree(ssl)
    path.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    words = [str(tmp_path / "moved"), "--test_snrs_db", "[0, 5]"]
    again = evaluate_run(words)
    assert again["conditions"][0] == before["conditions"][0]
    assert len(again["conditions"]) == 2
    export_run(tmp_path / "moved", tmp_path / "after")
    names = ("model.safetensors", "hyperparams.yaml")
    for name in names:
        files = [tmp_path / side / name for side in ("before", "after")]
        assert files[0].read_bytes() == files[1].read_bytes()
    # What its probabilities are divided by was found in validation.
    temperature = before["validation"]["temperature"]
    assert 0.05 <= temperature <= 20 and temperature != 1
    assert 0 <= before["conditions"][0]["ser"]["ece_calibrated"] <= 1
    card = (tmp_path / "after" / "README.md").read_text()
    assert f"a temperature of {temperature:.2f}, fitted to" in card
    model = SparseMERIT.from_hparams(source=tmp_path / "after")
    assert model.reader.temperature == pytest.approx(temperature, abs=1e-4)


SSL_FROM_FOLDER = """
ssl_encoder: !new:merit_modules.ssl.PretrainedSSLEncoder
    source: {ssl}
    padding_rule: !ref <padding_rule>
    fast: !ref <fast_path>
    checkpoint_layers: !ref <ssl_checkpointing>
"""

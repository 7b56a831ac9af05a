"""What was trained and exported before the package had rooms goes on working.

``fixtures/before_rooms`` holds a tiny run on MiniEmo, its exports, and what
they gave for a fixed input, all made by the code of commit 50ddc11.
"""

import json
import shutil

import pytest
import safetensors.torch
import torch
from speechbrain.inference.interfaces import Pretrained

from merit_modules.export import export_run
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import load_folder
from merit_modules.training.experiment import load_run
from tests.conftest import ROOT
from tests.helpers import forking
from tests.helpers.training import train

OLD = ROOT / "tests" / "fixtures" / "before_rooms"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class AnyModel(Pretrained):
    """SpeechBrain's own way to a folder."""

    MODULES_NEEDED = ["system"]


def chirps():
    time_s = torch.arange(24000, dtype=torch.float64) / 16000
    phase = 2 * torch.pi * time_s * (1 + 0.1 * time_s)
    wavs = 0.3 * torch.sin(phase * torch.tensor([[220.0], [90.0]]))
    return wavs.float(), torch.tensor([1.0, 0.6])


def check_outputs(system, name, atol=1e-5):
    expected = safetensors.torch.load_file(OLD / "outputs.safetensors")
    wavs, lens = chirps()
    with torch.no_grad():
        out = system(wavs, lens)
        enhanced = system.enhanced_wavs(out, wavs.shape[1])[:, ::100]
    for part, found in (("logits", out.logits), ("enhanced", enhanced)):
        torch.testing.assert_close(
            found, expected[f"{name}.{part}"], atol=atol, rtol=0
        )


@pytest.fixture
def old_run(tmp_path):
    return shutil.copytree(OLD / "run", tmp_path / "run")


@pytest.mark.parametrize("name", ["model", "model_int8"])
def test_an_old_model_gives_what_it_gave(name):
    # int8 rounds: a last bit of a frame may fall to the other side.
    atol = 1e-5 if name == "model" else 1e-3
    check_outputs(load_folder(OLD / name)["system"], name, atol)


def test_an_old_model_in_speechbrain_and_in_use(tmp_path):
    loaded = AnyModel.from_hparams(str(OLD / "model"), savedir=str(tmp_path))
    check_outputs(loaded.mods.system, "model")
    model = SparseMERIT.from_hparams(source=str(OLD / "model"))
    assert model.analyze(chirps()[0][0]).emotion.label in model.labels


def test_an_old_run_is_exported(old_run, tmp_path):
    export_run(old_run, tmp_path / "model")
    check_outputs(load_folder(tmp_path / "model")["system"], "model")


@pytest.mark.slow
def test_an_old_run_is_evaluated(old_run, miniemo):
    before = json.loads((old_run / "results.json").read_text())
    args = ["--data_folder", str(miniemo), "--test_conditions"]
    run = [
        "-m",
        "merit_modules.commands.evaluate",
        str(old_run),
        *args,
    ]
    again = forking.run([*run, "[unseen_0dB]"])
    assert again.returncode == 0, again.stderr
    assert "Testing" not in again.stderr  # what was tested is kept
    (old_run / "results.json").unlink()
    (old_run / "scores.csv").unlink()
    assert forking.run([*run, "[unseen_0dB]"]).returncode == 0
    after = json.loads((old_run / "results.json").read_text())
    found, expected = (r["conditions"][0] for r in (after, before))
    assert found["ser"]["n"] == expected["ser"]["n"] == 12
    assert found["ser"]["uar"] == pytest.approx(expected["ser"]["uar"])
    for side in ("noisy", "enhanced"):
        mean, was = (
            x["se"][side]["si_sdr_db"]["mean"] for x in (found, expected)
        )
        assert mean == pytest.approx(was, abs=0.01)


@pytest.mark.slow
def test_an_old_run_is_trained_on(old_run, miniemo):
    changes = {"data_folder": str(miniemo), "number_of_epochs": 3}
    brain = train(load_run(old_run, changes))
    assert brain.hparams.epoch_counter.current == 3
    assert brain.load_best()["epoch"] >= 1

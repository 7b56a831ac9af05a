"""Where nobody can have spoken, no emotion is claimed; doubts are told."""

import json
import os
import subprocess
import sys

import pytest
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.errors import InputError
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT

pty = pytest.importorskip("pty")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("no_speech") / "model"
    save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return SparseMERIT.from_hparams(source=folder)


@pytest.fixture
def speech():
    return 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))


def test_speech_has_an_emotion_and_no_warning(model, speech):
    found = model.analyze(speech)
    assert found.emotion.label in model.labels and found.warnings == ()
    assert "warnings" not in found.as_dict()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda wav: 0 * wav, "all of it is below"),
        (lambda wav: 0.005 * wav, "-66 dB: below"),
        (lambda wav: 0 * wav + 0.3, "all of it is below"),
        (lambda wav: wav[:1500], "shorter than 0.1 s"),
    ],
)
def test_no_speech(model, speech, change, why):
    found = model.analyze(change(speech))
    assert found.emotion.label == "no speech" and found.emotion.score is None
    assert list(found.emotion.probabilities) == model.labels
    assert any(
        text.startswith("no speech") and why in text for text in found.warnings
    )


def test_soft_speech_is_speech(model, speech):
    assert model.analyze(0.02 * speech).emotion.label in model.labels


def test_the_command_tells_it(folder, speech, tmp_path, capfdbinary):
    path = str(tmp_path / "offset.wav")
    soundfile.write(path, (speech + 0.4).numpy(), 16000)
    assert main(["classify", path, "--model", str(folder)]) == 0
    told = json.loads(capfdbinary.readouterr().out)
    assert told["label"] in ["angry", "sad", "happy", "calm"]
    (warning,) = told["warnings"]
    assert warning.startswith("a constant offset (DC) of 0.")


def test_a_temperature_makes_a_model_less_sure(speech, tmp_path):
    torch.manual_seed(0)
    system = tiny_system()
    found = {}
    for temperature in (None, 1.0, 4.0):
        folder = tmp_path / f"{temperature}"
        facts = {"ser_target": "emotion", "temperature": temperature}
        facts = {k: v for k, v in facts.items() if v is not None}
        save_folder(system, folder, list("abcd"), facts=facts)
        model = SparseMERIT.from_hparams(source=folder)
        found[temperature] = model.analyze(speech).emotion
    assert found[None] == found[1.0]
    assert found[4.0].label == found[1.0].label
    assert 0.25 < found[4.0].score < found[1.0].score


@pytest.mark.parametrize("wrong", [0, -1.0, "warm", 1e9, float("nan")])
def test_a_wrong_temperature_is_named(wrong, tmp_path):
    facts = {"temperature": wrong}
    save_folder(tiny_system(), tmp_path / "m", list("abcd"), facts=facts)
    with pytest.raises(InputError, match="temperature"):
        SparseMERIT.from_hparams(source=tmp_path / "m")


def test_people_get_a_line_and_programs_json(folder, speech, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech.numpy(), 16000)
    command = [sys.executable, "-m", "merit_modules.commands", "classify"]
    command += [str(path), "--model", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert all(p == round(p, 4) for p in told["probabilities"].values())
    screen, terminal = pty.openpty()
    subprocess.run(
        command, cwd=ROOT, stdout=terminal, stderr=subprocess.DEVNULL
    )
    os.close(terminal)
    shown = os.read(screen, 4096).decode().strip()
    assert shown.startswith(f"{path} (1.0 s): {told['label']} ")
    assert shown.count("%") == 4

"""Pretraining: the documented command, its targets, masks and voices."""

import doctest
import importlib
import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.data.miniemo.prepare import prepare_miniemo
from merit_modules.data.miniemo.speech import BABBLE_VOICES, VOICES
from merit_modules.errors import InputError
from merit_modules.ssl import PretrainedSSLEncoder, RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from tests.conftest import ROOT
from tests.helpers.pages import commands

RECIPE = ROOT / "recipes" / "MiniEmo" / "pretraining"
TINY = {
    "dim": 16,
    "n_layers": 1,
    "number_of_epochs": 2,
    "batch_size": 4,
    "n_steps": 20,
    "warmup_steps": 2,
    "num_workers": 0,
    "log_interval": 1,
}


@pytest.fixture
def recipe(monkeypatch):
    """The recipe's own modules, found as its script finds them."""
    monkeypatch.syspath_prepend(RECIPE)
    names = (
        "draws",
        "noises",
        "pretraining_prepare",
        "probe",
        "targets",
        "train",
    )
    yield RECIPE
    for name in names:
        sys.modules.pop(name, None)


def pretrain(folder, **options):
    run_recipe({**TINY, **options, "data_folder": folder / "data"})


def run_recipe(options):
    command = [sys.executable, "train.py", "hparams/mini.yaml"]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(
        [*command, "--device", "cpu", "--noprogressbar"],
        cwd=RECIPE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_documented_command_runs_on_a_folder_of_speech(tmp_path):
    """Short and long recordings, and none of them synthetic; resumed."""
    rng = np.random.default_rng(0)
    for kind, count in (("speech", 12), ("noise", 3)):
        for number in range(count):
            path = tmp_path / kind / f"{number}.wav"
            path.parent.mkdir(exist_ok=True)
            n_samples = 3000 + 8000 * number
            soundfile.write(path, 0.1 * rng.normal(size=n_samples), 16000)
    folders = {
        f"{kind}_folder": tmp_path / kind for kind in ("speech", "noise")
    }
    options = {**folders, "output_folder": tmp_path / "run"}
    pretrain(tmp_path, **options, number_of_epochs=1)
    pretrain(tmp_path, **options)  # goes on
    log = (tmp_path / "run" / "train_log.txt").read_text().splitlines()
    assert [line.partition(" - ")[0] for line in log] == [
        "epoch: 1, steps: 2",
        "epoch: 2, steps: 4",
    ]
    assert "masked_accuracy_3" in log[1]
    encoder = PretrainedSSLEncoder(str(tmp_path / "run" / "encoder"))
    assert encoder(torch.randn(2, 8000)).shape == (2, 2, 24, 16)


@pytest.mark.slow
def test_the_documented_command_goes_on_from_an_encoder(tmp_path, miniemo):
    """The manifests of a run; the weights are still near those of before."""
    run, page = tmp_path / "run", "recipes/MiniEmo/pretraining/README.md"
    prepare_miniemo(miniemo, run / "save" / "manifests", n_sentences=1)
    [command] = (c for c in commands(page) if "--init_source" in c)
    places = {"RUN": run, "/corpora/EMO-DB": miniemo, "/corpora/noise": miniemo}
    for old, new in places.items():
        command = command.replace(old, str(new))
    words = shlex.split(command)[3:]
    options = {
        **dict(zip((w[2:] for w in words[::2]), words[1::2], strict=True)),
        "number_of_epochs": 1,
        "num_workers": 0,
        "output_folder": tmp_path / "out",
    }
    run_recipe(options)
    names = ("mini", str(tmp_path / "out" / "encoder"))
    old, new = (PretrainedSSLEncoder(n).model.state_dict() for n in names)
    moved = max((old[k] - new[k]).abs().max().item() for k in old)
    assert 0 < moved < 0.1


def test_an_encoder_of_other_sizes_is_told(recipe):
    from train import take_weights

    model = RandomSSLEncoder("wavlm", TINY_SSL).model
    with pytest.raises(InputError, match="init_source 'mini': .*expected"):
        take_weights(model, "mini")


@pytest.mark.slow
def test_the_documented_probes_tell_encoders_apart(
    recipe, miniemo, tmp_path, monkeypatch, capsys
):
    import probe

    prepare_miniemo(miniemo, tmp_path / "manifests", n_sentences=1)
    page = "recipes/MiniEmo/pretraining/README.md"
    emotion, phonemes = (c for c in commands(page) if "probe.py" in c)
    monkeypatch.setattr(probe, "SENTENCES", probe.SENTENCES[:2])
    places = {"DIR": tmp_path / "manifests", "/corpora/EMO-DB": miniemo}
    for old, new in (places | {"/corpora/noise": miniemo}).items():
        emotion = emotion.replace(old, str(new))
    found = {}
    for command in (emotion, phonemes):
        _, _, *words = shlex.split(command)
        probe.main([*words, "--json", str(tmp_path / "found.json")])
        found |= {
            (name, form): score
            for name, scores in json.loads(
                (tmp_path / "found.json").read_text()
            ).items()
            for form, score in scores.items()
        }
    assert len(found) == 9 and all(0 < score < 1 for score in found.values())
    assert found["mini", "accuracy"] > found["random", "accuracy"]
    assert "mini: accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["noises", "pretraining_prepare", "train"])
def test_the_examples_run(recipe, name, request):
    names = {"getfixture": request.getfixturevalue}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    module = importlib.import_module(name)
    found = doctest.testmod(module, extraglobs=names, optionflags=flags)
    assert found.attempted and not found.failed


def test_no_voice_of_the_tests_is_heard(recipe):
    from pretraining_prepare import VARIANTS

    kept_out = (*VOICES["valid"], *VOICES["test"], *BABBLE_VOICES)
    assert not {voice.partition("+")[2] for voice in kept_out} & set(VARIANTS)
    assert len(set(VARIANTS)) > 50


def test_every_language_and_voice_speaks(recipe):
    from pretraining_prepare import LANGUAGES, VARIANTS, draw_text

    from merit_modules.data.miniemo.espeak import Espeak

    rng = np.random.default_rng(0)
    for number in range(max(len(LANGUAGES), len(VARIANTS))):
        language = LANGUAGES[number % len(LANGUAGES)]
        voice = f"{language}+{VARIANTS[number % len(VARIANTS)]}"
        wav, rate_hz = Espeak().speak(draw_text(rng), voice)
        assert 1.0 < len(wav) / rate_hz < 30.0


def test_masks_stay_in_the_utterances(recipe):
    from train import draw_mask

    torch.manual_seed(0)
    n_frames = torch.tensor([200, 3, 1])
    masked = draw_mask(n_frames, 200, start_prob=0.065, length=10)
    assert 0.3 < masked[0].float().mean() < 0.7
    for row, count in zip(masked, n_frames):
        assert row.any() and not row[count:].any()


def test_codes_are_those_of_speechbrain_and_know_no_padding(recipe):
    from targets import CleanTargets, _nearest

    torch.manual_seed(0)
    targets = CleanTargets(n_codes=32)
    wavs = torch.randn(2, 32000)
    wavs[1, 16000:] = 0.0
    targets.fit(wavs)
    codes = targets(wavs, torch.tensor([1.0, 0.5]))
    alone = targets(wavs[1:, :16000], torch.ones(1))
    n_sure = alone.shape[1] - 1  # the last window hears what comes after it
    assert torch.equal(codes[1, :n_sure], alone[0, :n_sure])
    assert len(codes.unique()) > 8
    frames = torch.randn(1, 5, targets.quantizers[0].input_dim)
    expected = targets.quantizers[0](frames)
    assert torch.equal(_nearest(targets.quantizers[0], frames), expected)

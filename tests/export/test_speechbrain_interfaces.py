"""An exported folder in SpeechBrain's own loaders."""

import pickle
import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.interfaces import (
    Pretrained,
    foreign_class,
    pretrained_from_hparams,
)
from speechbrain.utils.fetching import LocalStrategy
from speechbrain.utils.parameter_transfer import Pretrainer

from merit_modules.errors import InputError
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import load_folder, load_weights, save_folder
from merit_modules.pretrained.weights import fingerprint
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT

LABELS = ["angry", "sad", "happy", "calm"]
WAVS, LENGTHS = torch.randn(2, 8000), torch.tensor([1.0, 0.6])


@pytest.fixture
def model(tmp_path):
    """A folder, and what it says of a batch."""
    torch.manual_seed(0)
    system = tiny_system()
    save_folder(system, tmp_path / "model", LABELS)
    found = SparseMERIT.from_hparams(tmp_path / "model", prepack=False)
    return tmp_path / "model", found.analyze_batch(WAVS, LENGTHS)


def assert_same(interface, expected):
    found = interface.analyze_batch(WAVS, LENGTHS)
    torch.testing.assert_close(found.enhanced, expected.enhanced)
    torch.testing.assert_close(found.out_prob, expected.out_prob)


def test_foreign_class_finds_the_interface(model, tmp_path):
    folder, expected = model
    interface = foreign_class(source=str(folder))
    assert isinstance(interface, SparseMERIT)
    assert_same(interface, expected)
    named = foreign_class(source=str(folder), classname="SparseMERIT")
    assert_same(named, expected)
    again = foreign_class(
        source=str(folder),
        savedir=str(tmp_path / "copy"),
        local_strategy=LocalStrategy.COPY,
        run_opts={"device": "cpu"},
    )
    assert_same(again, expected)


def test_a_savedir_is_a_source_again(model, tmp_path):
    folder, expected = model
    for number, call in enumerate((Pretrained, SparseMERIT)):
        savedir = tmp_path / f"save{number}"
        call.from_hparams(source=str(folder), savedir=str(savedir))
        assert (savedir / "system.ckpt").exists()
        assert_same(
            SparseMERIT.from_hparams(source=savedir, prepack=False), expected
        )
    (savedir / "system.ckpt").unlink()
    with pytest.raises(InputError, match="model.safetensors"):
        SparseMERIT.from_hparams(source=savedir)


def test_pretrained_from_hparams_makes_the_class_asked_for(model):
    folder, expected = model
    interface = pretrained_from_hparams(
        cls=SparseMERIT,
        source=str(folder),
        overrides={"labels": list("abcd")},
    )
    assert interface.labels == list("abcd")
    assert_same(interface, expected)


def test_the_stock_pretrainer_reads_the_weights(model, tmp_path):
    folder, expected = model
    with open(folder / "hyperparams.yaml", encoding="utf-8") as stream:
        system = load_hyperpyyaml(stream, {"pretrainer": None})["system"]
    pretrainer = Pretrainer(
        collect_in=tmp_path / "collected",
        loadables={"system": system},
        paths={"system": str(folder / "model.safetensors")},
        custom_hooks={"system": load_weights},
    )
    pretrainer.collect_files()
    pretrainer.load_collected()
    with torch.no_grad():
        out = system.eval()(WAVS, LENGTHS)
    torch.testing.assert_close(out.logits.softmax(-1), expected.out_prob)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="system.ckpt"):
        pretrainer.load_collected()


def test_the_yaml_of_the_docs_reads_the_weights(model):
    folder, _ = model
    text = (ROOT / "docs" / "speechbrain.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(pretrainer: .*?)```", text, re.DOTALL)
    block = block.replace("FOLDER", str(folder))
    system = "system: !apply:merit_modules.tiny.tiny_system\n"
    hparams = load_hyperpyyaml(system + block)
    hparams["pretrainer"].collect_files()
    before = fingerprint(hparams["system"])
    hparams["pretrainer"].load_collected()
    expected = fingerprint(load_folder(folder)["system"])
    assert before != fingerprint(hparams["system"]) == expected


@pytest.mark.parametrize("call", [foreign_class, SparseMERIT.from_hparams])
def test_damaged_weights_are_named_and_no_pickle_is_loaded(model, call):
    path = model[0] / "model.safetensors"
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        call(source=str(model[0]))
    path.unlink()
    with pytest.raises(InputError, match="model.safetensors"):
        call(source=str(model[0]))


def test_lengths_by_either_name(model):
    interface = SparseMERIT.from_hparams(model[0])
    for name in ("enhance_batch", "classify_batch", "analyze_batch"):
        call = getattr(interface, name)
        one, other = call(WAVS, wav_lens=LENGTHS), call(WAVS, lengths=LENGTHS)
        assert torch.equal(_first(one), _first(other))
        assert not torch.equal(_first(one), _first(call(WAVS)))
        with pytest.raises(InputError, match="wav_lens or lengths, got both"):
            call(WAVS, LENGTHS, LENGTHS)


def _first(found):
    return found if torch.is_tensor(found) else found[0]

"""Weights of an SSL encoder: each tensor is accounted for."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from merit_modules.errors import InputError
from merit_modules.ssl import PretrainedSSLEncoder, RandomSSLEncoder
from merit_modules.ssl.plain import SHIPPED
from merit_modules.tiny import TINY_SSL

WEIGHTS = "model.safetensors"


@pytest.fixture(params=["wavlm", "hubert", "wav2vec2"])
def folder(request, tmp_path):
    """A folder in transformers' form, and what it holds."""
    torch.manual_seed(0)
    encoder = RandomSSLEncoder(request.param, TINY_SSL).eval()
    encoder.model.save_pretrained(tmp_path)
    return tmp_path, encoder


def rewrite(folder, change):
    """Change the tensors of a folder."""
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    safetensors.torch.save_file(
        change(tensors), folder / WEIGHTS, {"format": "pt"}
    )


def assert_same(folder, encoder, **close):
    loaded = PretrainedSSLEncoder(str(folder)).eval()
    wavs = torch.randn(1, 4000)
    with torch.no_grad():
        torch.testing.assert_close(loaded(wavs), encoder(wavs), **close)


def test_whole_weights_load(folder):
    assert_same(*folder)


def test_what_ships_is_small_and_whole():
    folder = Path(SHIPPED["mini"])
    assert (folder / WEIGHTS).stat().st_size < 8e6
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    encoder = PretrainedSSLEncoder("mini").eval()
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    layers = encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    assert layers.shape == (5, 2, 49, 256) and layers.isfinite().all()
    random = PretrainedSSLEncoder("mini", pretrained=False)
    assert all(p.dtype == torch.float32 for p in random.parameters())


def test_what_pretraining_brings_can_be_seen(folder):
    path, encoder = folder
    torch.manual_seed(1)
    random = PretrainedSSLEncoder(str(path), pretrained=False)
    assert random.train_front_end
    assert not PretrainedSSLEncoder(str(path)).train_front_end
    own, other = encoder.state_dict(), random.state_dict()
    shapes = {key: value.shape for key, value in own.items()}
    assert {key: value.shape for key, value in other.items()} == shapes
    name = "model.encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(own[name], other[name])
    with pytest.raises(InputError, match="nowhere': expected mini"):
        PretrainedSSLEncoder("./nowhere", pretrained=False)


@pytest.mark.parametrize(
    "part",
    ["encoder.layers.1.", "feature_extractor.conv_layers.0.", "pos_conv"],
)
def test_what_is_missing_is_named(folder, part):
    path, _ = folder
    rewrite(path, lambda t: {k: v for k, v in t.items() if part not in k})
    with pytest.raises(InputError, match="missing: .*more|missing: ") as told:
        PretrainedSSLEncoder(str(path))
    assert part.strip(".") in str(told.value) and str(path) in str(told.value)


def test_names_of_another_model_are_refused(folder):
    path, _ = folder
    rewrite(path, lambda t: {f"student.{k}": v for k, v in t.items()})
    with pytest.raises(InputError, match="missing: .*of another model: stud"):
        PretrainedSSLEncoder(str(path))


def test_another_shape_is_refused(folder):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    config["intermediate_size"] *= 2
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="SSL source"):
        PretrainedSSLEncoder(str(path))


def test_wavlm_under_another_config_is_refused(tmp_path):
    RandomSSLEncoder("wavlm", TINY_SSL).model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "hubert", "architectures": ["HubertModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not those of a hubert.*gru_rel_pos"):
        PretrainedSSLEncoder(str(tmp_path))


def test_half_precision_is_read_as_fp32(folder):
    path, encoder = folder
    rewrite(path, lambda t: {k: v.half() for k, v in t.items()})
    assert_same(path, encoder, atol=0.05, rtol=0.05)
    loaded = PretrainedSSLEncoder(str(path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_older_names_of_the_position_convolution_load(folder):
    path, encoder = folder
    names = {"original0": "weight_g", "original1": "weight_v"}

    def older(tensors):
        renamed = {}
        for key, value in tensors.items():
            stem, found, number = key.partition("parametrizations.weight.")
            renamed[stem + names[number] if found else key] = value
        assert renamed.keys() != tensors.keys()
        return renamed

    rewrite(path, older)
    assert_same(path, encoder)


def test_what_follows_the_model_in_pre_training_may_be_there(folder):
    path, encoder = folder
    more = {"project_q.weight": torch.ones(2), "lm_head.bias": torch.ones(2)}
    rewrite(path, lambda t: {**t, **more})
    assert_same(path, encoder)


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"
)


@pytest.mark.parametrize("kind", ["pointer", "cut", "empty"])
def test_what_is_no_weights_file_is_told(folder, kind):
    path, _ = folder
    whole = (path / WEIGHTS).read_bytes()
    content = {"pointer": POINTER, "cut": whole[:-500], "empty": b""}[kind]
    (path / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read.*git lfs") as told:
        PretrainedSSLEncoder(str(path))
    assert str(path) in str(told.value)

"""Weights arranged for inference: same results, and what is then refused."""

import copy
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from merit_modules.cpu import onednn
from merit_modules.cpu.int8 import Int8Linear, quantize_
from merit_modules.cpu.onednn import is_allowed
from merit_modules.cpu.prepacked import (
    PrepackedConvolution,
    PrepackedLinear,
    PrepackedPositions,
)
from merit_modules.errors import InputError
from merit_modules.export.onnx.graph import graph_of
from merit_modules.inference import SparseMERIT
from merit_modules.inference.prepack import can_prepack, prepack_
from merit_modules.pretrained import save_folder
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system

pytestmark = pytest.mark.skipif(
    not onednn.is_available(), reason="needs oneDNN, and fast paths allowed"
)
LABELS = ["angry", "sad", "happy", "calm"]


def wide_system(model_type="wavlm"):
    """Make a system with layers that are large enough to be packed."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "conv_dim": [96] * 7,
    }
    system = tiny_system(model_type, **sizes)
    mix = system.mixture.layer_mix
    with torch.no_grad():
        mix.weight.uniform_(0.5, 2.0)
        mix.bias.normal_()
    return system


def batch(n_samples=12000):
    generator = torch.Generator().manual_seed(1)
    wavs = torch.randn(3, n_samples, generator=generator)
    return wavs, torch.tensor([1.0, 0.6, 0.13])


@pytest.mark.parametrize("model_type", ["wavlm", "hubert", "wav2vec2"])
@torch.no_grad()
def test_a_system_gives_the_same(model_type):
    system = wide_system(model_type)
    wavs, lens = batch()
    expected = system(wavs, lens)
    expected_wavs = system.enhanced_wavs(expected, wavs.shape[1])
    assert prepack_(system) is system
    found = system(wavs, lens)
    kinds = Counter(type(part) for part in system.modules())
    assert kinds[PrepackedLinear] > 1 and kinds[PrepackedPositions] == 1
    # The first reads samples.
    assert kinds[PrepackedConvolution] == 6
    assert not system.mixture.layer_mix.affine
    assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
    found_wavs = system.enhanced_wavs(found, wavs.shape[1])
    assert_close(found_wavs, expected_wavs, atol=1e-4, rtol=1e-4)
    for task in ("se", "ser"):
        assert torch.equal(
            found.mixture.expert_map(task), expected.mixture.expert_map(task)
        )
    # Alone as in the batch.
    alone = system(wavs[1:2, :7200])
    assert_close(alone.logits, found.logits[1:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_taps", [1, 2, 5, 16, 128])
@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_positions_by_spectra(n_taps, lengths, seed):
    torch.manual_seed(seed)
    config = {**TINY_SSL, "num_conv_pos_embeddings": n_taps}
    embed = RandomSSLEncoder("wavlm", config).model.encoder.pos_conv_embed
    utterances = [torch.randn(n, 16) for n in lengths]
    with torch.no_grad():
        packed = PrepackedPositions(embed)
        found = packed.convolve(torch.cat(utterances), lengths)
        for mine, rows in zip(found.split(lengths), utterances):
            assert_close(mine, embed(rows[None])[0], atol=1e-5, rtol=1e-4)
            assert_close(mine, packed(rows[None])[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(64,), (1, 64), (3, 5, 64), (0, 64)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_linear_layer_of_any_shape(shape, bias):
    layer, x = nn.Linear(64, 48, bias), torch.randn(shape)
    packed = PrepackedLinear(layer)
    assert_close(packed(x), layer(x))
    assert_close(packed(x, gelu=True), nn.functional.gelu(layer(x)))
    assert_close(onednn.apply(packed, x, gelu=True), packed(x, gelu=True))
    assert torch.equal(packed.weight, layer.weight)
    assert (packed.in_features, packed.out_features) == (64, 48)
    assert "in_features=64, out_features=48" in repr(packed)


@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (1, 1), (5, 3)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_strided_convolution(kernel, stride, bias):
    conv = nn.Conv1d(6, 10, kernel, stride, bias=bias)
    packed, waves = PrepackedConvolution(conv), torch.randn(3, 6, 41)
    assert_close(packed(waves), conv(waves))
    windows = waves[0].T.unfold(0, kernel, stride).transpose(1, 2).flatten(1)
    found = packed.multiply(windows, gelu=True)
    assert_close(found, nn.functional.gelu(conv(waves[0])).T)


@torch.no_grad()
def test_who_listens_in_is_called():
    packed, heard = PrepackedLinear(nn.Linear(8, 8)), []
    packed.register_forward_hook(lambda *args: heard.append(args[2]))
    x = torch.randn(2, 8)
    found = onednn.apply(packed, x, gelu=True)
    assert_close(found, nn.functional.gelu(heard[0]))


@torch.no_grad()
def test_autocast_leaves_them_in_fp32():
    system, (wavs, lens) = wide_system(), batch()
    expected = prepack_(system)(wavs, lens).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = system(wavs, lens).logits
    assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@torch.no_grad()
def test_a_second_time_changes_nothing():
    system, (wavs, lens) = prepack_(wide_system()), batch()
    parts, expected = list(system.modules()), system(wavs, lens).logits
    assert [*prepack_(system).modules()] == parts
    assert torch.equal(system(wavs, lens).logits, expected)


def test_only_what_can_be_prepacked():
    system = tiny_system()
    assert can_prepack(system)
    assert not can_prepack(tiny_system().double())
    assert not can_prepack(nn.Sequential(nn.Linear(2, 2, device="meta")))
    system.ssl_encoder.arrange(fast=False)
    assert not can_prepack(system)
    before = list(system.modules())
    assert [*prepack_(system).modules()] == before


@torch.no_grad()
def test_int8_layers_stay():
    system, (wavs, lens) = quantize_(wide_system()), batch()
    expected = system(wavs, lens)
    prepack_(system)
    assert isinstance(system.mixture.experts[0][0], Int8Linear)
    # A rounding can move an integer by one.
    assert_close(system(wavs, lens).logits, expected.logits, atol=0.02, rtol=0)


@torch.no_grad()
def test_the_plain_path_takes_prepacked_layers():
    system, (wavs, lens) = prepack_(wide_system()), batch()
    expected = system(wavs, lens).logits
    system.ssl_encoder.arrange(fast=False)
    assert_close(system(wavs, lens).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"dtype": torch.float16}, "float16 on cpu"),
        ({"dtype": torch.float64}, "float64 on cpu"),
        ({"device": "meta"}, "float32 on meta"),
    ],
)
def test_moves_are_refused(change, what):
    with pytest.raises(InputError, match=f"{what}: a prepacked system"):
        prepack_(wide_system()).to(**change)


def test_training_saving_and_export_are_refused():
    system = prepack_(wide_system())
    with pytest.raises(InputError, match="saving weights: a prepacked"):
        system.state_dict()
    with pytest.raises(InputError, match="export: got a prepacked system"):
        graph_of(system)
    layer = PrepackedLinear(nn.Linear(8, 8))
    with pytest.raises(InputError, match="gradients: a prepacked"):
        layer(torch.randn(2, 8, requires_grad=True))
    assert system.to("cpu").float() is system
    assert not any(p.requires_grad for p in system.parameters())


@torch.no_grad()
def test_a_copy_shares_the_weights():
    system, (wavs, lens) = prepack_(wide_system()), batch()
    clone = copy.deepcopy(system)
    ours, theirs = (s.mixture.experts[0][0] for s in (system, clone))
    assert ours is not theirs and ours.packed is theirs.packed
    assert torch.equal(clone(wavs, lens).logits, system(wavs, lens).logits)


def test_a_loaded_model_is_prepacked(tmp_path):
    save_folder(wide_system(), tmp_path, LABELS)
    run_opts = {"device": "cpu"}
    model = SparseMERIT.from_hparams(source=tmp_path, run_opts=run_opts)
    plain = SparseMERIT.from_hparams(
        source=tmp_path, run_opts=run_opts, prepack=False
    )
    thawed = SparseMERIT.from_hparams(
        source=tmp_path, run_opts=run_opts, freeze_params=False
    )
    half = SparseMERIT.from_hparams(
        source=tmp_path, run_opts={"device": "cpu", "precision": "bf16"}
    )
    kinds = [
        type(m.mods.system.mixture.experts[0][0]).__name__
        for m in (model, plain, thawed, half)
    ]
    assert kinds == ["PrepackedLinear", "Linear", "Linear", "Linear"]
    wav = batch()[0][0]
    found, expected = model.analyze(wav), plain.analyze(wav)
    assert found.emotion.label == expected.emotion.label
    assert_close(found.enhanced, expected.enhanced, atol=1e-4, rtol=1e-4)


def test_nothing_is_prepacked_where_it_is_forbidden(tmp_path, monkeypatch):
    save_folder(wide_system(), tmp_path, LABELS)
    monkeypatch.setenv("MERIT_FAST_PATH", "0")
    assert not is_allowed()
    model = SparseMERIT.from_hparams(
        source=tmp_path, run_opts={"device": "cpu"}
    )
    assert type(model.mods.system.mixture.experts[0][0]) is nn.Linear

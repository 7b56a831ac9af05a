"""The fast path of the SSL encoder gives the numbers of the plain one."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from merit_modules.cpu import onednn
from merit_modules.ssl import front_end as ssl_front_end
from merit_modules.ssl.encoder import SSLEncoder
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from tests.helpers.encoding import encode

CLOSE = {"atol": 1e-4, "rtol": 0}
TYPES = ("wavlm", "hubert", "wav2vec2")
BASE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE = {
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
MIXED = {"feat_extract_norm": "layer", "do_stable_layer_norm": False}
STYLES = {"base": BASE, "large": LARGE, "mixed": MIXED}
N_SAMPLES = 12000


@pytest.fixture(autouse=True)
def fast_paths_are_allowed(monkeypatch):
    """This file is about them, wherever the rest of the suite goes."""
    monkeypatch.delenv("MERIT_FAST_PATH", raising=False)


def make_pair(model_type="wavlm", style="base", changes=None, **options):
    """The same random weights on both paths."""
    torch.manual_seed(0)
    config = {**TINY_SSL, **STYLES[style], **(changes or {})}
    fast = RandomSSLEncoder(model_type, config, fast=True, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in fast.parameters():  # norms and gates are not 1 and 0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.1 * noise
    plain = copy.deepcopy(fast)
    plain.fast = False
    return fast.eval(), plain.eval()


def make_batch(*lengths, n=N_SAMPLES):
    generator = torch.Generator().manual_seed(2)
    wavs = torch.randn(len(lengths), n, generator=generator)
    for wav, length in zip(wavs, lengths):
        wav[round(length * n) :] = 0.0
    return wavs, torch.tensor(lengths)


def assert_same(fast, plain, wavs, wav_lens):
    ours, theirs = encode(fast, wavs, wav_lens), encode(plain, wavs, wav_lens)
    assert torch.equal(ours.n_frames, theirs.n_frames)
    assert len(ours.layer_reps) == len(theirs.layer_reps) == fast.n_layer_reps
    for a, b in zip(ours.layer_reps, theirs.layer_reps):
        assert a.shape == b.shape and a.isfinite().all()
        if fast.padding_rule == "released":  # where padding goes on
            assert_close(a, b, **CLOSE)
        for one, other, count in zip(a, b, ours.n_frames):
            assert_close(one[:count], other[:count], **CLOSE)


@pytest.mark.parametrize("rule", ["exact", "released"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("model_type", TYPES)
def test_all_layers_are_the_same(model_type, style, rule):
    fast, plain = make_pair(model_type, style, padding_rule=rule)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert_same(fast, plain, *make_batch(1.0, 0.7, 0.31))
            assert_same(fast, plain, *make_batch(1.0, 1.0))
            assert_same(fast, plain, *make_batch(0.9, 0.5))  # none is full
            assert_same(fast, plain, make_batch(1.0)[0], None)


@pytest.mark.parametrize("style", STYLES)
def test_an_utterance_is_the_same_alone(style):
    fast, _ = make_pair(style=style)
    wavs, wav_lens = make_batch(1.0, 0.6, 0.2)
    with torch.no_grad():
        out = encode(fast, wavs, wav_lens)
        for i, length in enumerate(wav_lens):
            alone = encode(
                fast, wavs[i : i + 1, : round(length.item() * N_SAMPLES)]
            )
            for a, b in zip(out.layer_reps, alone.layer_reps):
                assert_close(a[i, : b.shape[1]], b[0], atol=1e-5, rtol=0)
                assert not a[i, b.shape[1] :].any()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("n", [5, 30, 200, 399, 400, 719, 720])
def test_very_short_utterances(style, n):
    fast, plain = make_pair(style=style)
    wavs, _ = make_batch(1.0, n=n)
    with torch.no_grad():
        assert_same(fast, plain, wavs, None)
        batch = nn.functional.pad(wavs, (0, 1000 - n)).repeat(2, 1)
        batch[1] = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        assert_same(fast, plain, batch, torch.tensor([n / 1000, 1.0]))


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.sampled_from(sorted(STYLES)),
    st.integers(0, 99),
)
def test_any_batch(lengths, style, seed):
    fast, plain = make_pair(style=style)
    generator = torch.Generator().manual_seed(seed)
    n = 400 * max(lengths)
    wavs = torch.randn(len(lengths), n, generator=generator)
    with torch.no_grad():
        assert_same(fast, plain, wavs, torch.tensor(lengths) / max(lengths))


@pytest.mark.parametrize("style", STYLES)
def test_blocks_join_without_a_seam(style, monkeypatch):
    fast, plain = make_pair(style=style)
    # 64 frames of 8 channels per frame: blocks of 2 frames.
    monkeypatch.setattr(ssl_front_end, "BLOCK_SIZE", 2 * 64 * 8)
    monkeypatch.setattr("merit_modules.ssl.attention.BLOCK_SIZE", 1)
    monkeypatch.setattr("merit_modules.ssl.transformer.MAX_ROWS", 5)
    with torch.no_grad():
        assert_same(fast, plain, *make_batch(1.0, 0.7, 0.31))


def wide_pair(model_type, style):
    """Wide enough for oneDNN to be asked."""
    config = {**TINY_SSL, **STYLES[style], "hidden_size": 128}
    config |= {"intermediate_size": 512, "conv_dim": [128] * 7}
    torch.manual_seed(0)
    fast = RandomSSLEncoder(model_type, config, fast=True).eval()
    plain = copy.deepcopy(fast)
    plain.fast = False
    return fast, plain


@pytest.fixture
def multiplied(monkeypatch):
    """The shapes of the weights that oneDNN multiplied with."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch without oneDNN")
    found, multiply = [], onednn.multiply

    def watch(x, weight, bias, gelu):
        found.append(tuple(weight.shape))
        return multiply(x, weight, bias, gelu)

    monkeypatch.setattr(onednn, "multiply", watch)
    monkeypatch.setattr(onednn, "MIN_MACS", 1)
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("model_type", TYPES)
def test_products_by_onednn(model_type, style, multiplied):
    fast, plain = wide_pair(model_type, style)
    with torch.no_grad():
        assert_same(fast, plain, make_batch(1.0)[0], None)
        # Attention and feed-forward of two layers, all seven convolutions.
        assert multiplied.count((128, 128)) == 2 * 4
        assert multiplied.count((512, 128)) == multiplied.count((128, 512)) == 2
        assert len(multiplied) == 2 * 6 + 7
        assert_same(fast, plain, *make_batch(1.0, 0.7, 0.31))


@pytest.mark.parametrize("why", ["flag", "autocast", "small"])
def test_where_onednn_does_not_multiply(why, multiplied, monkeypatch):
    fast, _ = wide_pair("wavlm", "base")
    wavs = make_batch(1.0)[0]
    if why == "small":
        monkeypatch.setattr(onednn, "MIN_MACS", 2**40)
    with (
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=why != "flag"),
        torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"),
    ):
        fast(wavs)
    assert not multiplied


def test_a_layer_that_is_listened_to_is_called(multiplied):
    fast, _ = wide_pair("wavlm", "base")
    heard = []
    layer = fast.model.encoder.layers[0].attention.q_proj
    layer.register_forward_hook(lambda *_: heard.append(1))
    with torch.no_grad():
        fast(make_batch(1.0)[0])
    assert heard == [1] and len(multiplied) == 2 * 6 + 7 - 1


class Replaced(nn.Module):
    """A linear layer as a quantised one looks from outside."""

    def __init__(self, linear):
        super().__init__()
        self.hidden = [linear]

    def forward(self, x):
        return self.hidden[0](x)


@pytest.mark.parametrize("which", ["all", "q_proj", "output_dense"])
def test_linear_layers_can_be_replaced(which, multiplied):
    fast, plain = wide_pair("wavlm", "large")
    for module in list(fast.model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and which in ("all", name):
                setattr(module, name, Replaced(child))
    with torch.no_grad():
        assert_same(fast, plain, *make_batch(1.0, 0.7, 0.31))


def gradients_of(encoder, wavs, wav_lens):
    encoder.zero_grad(set_to_none=True)
    wavs = wavs.clone().requires_grad_()
    out = encode(encoder, wavs, wav_lens)
    loss = 0.0
    for i, rep in enumerate(out.layer_reps):
        for one, count in zip(rep, out.n_frames):
            loss = loss + (i + 1) * one[:count].square().mean()
    loss.backward()
    found = {n: p.grad for n, p in encoder.named_parameters()}
    return {**found, "wavs": wavs.grad}


def assert_same_gradients(ours, theirs):
    for name, expected in theirs.items():
        if expected is None:
            assert ours[name] is None, name
            continue
        scale = expected.abs().max().clamp_min(1.0)
        assert_close(ours[name] / scale, expected / scale, **CLOSE, msg=name)


def without_dropout(*encoders):
    for encoder in encoders:
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        encoder.train()


@pytest.mark.parametrize("train_front_end", [False, True])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("model_type", TYPES)
def test_gradients_are_the_same(model_type, style, train_front_end):
    fast, plain = make_pair(model_type, style, train_front_end=train_front_end)
    without_dropout(fast, plain)
    assert fast.model.training
    batch = make_batch(1.0, 0.6)
    ours, theirs = gradients_of(fast, *batch), gradients_of(plain, *batch)
    assert_same_gradients(ours, theirs)
    # A front end that is not trained passes no gradient on.
    assert (theirs["wavs"] is not None) == train_front_end


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_checkpointing_changes_no_gradient(style, fast):
    kept, _ = make_pair(style=style)
    kept.fast = fast
    model = copy.deepcopy(kept.model)
    again = SSLEncoder(model, True, fast=fast, checkpoint_layers=True)
    kept.train(), again.train()  # with dropout: drawn the same both times
    batch = make_batch(1.0, 0.6)
    torch.manual_seed(3)
    expected = gradients_of(kept, *batch)
    torch.manual_seed(3)
    assert_same_gradients(gradients_of(again, *batch), expected)


def count_saved(encoder):
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        encoder(make_batch(1.0)[0])
    return sum(sizes)


def test_checkpointing_keeps_less():
    saved = {}
    for checkpoint_layers in (False, True):
        torch.manual_seed(0)
        config = {**TINY_SSL, "num_hidden_layers": 6}
        encoder = RandomSSLEncoder(
            "wavlm",
            config,
            train_front_end=False,
            fast=True,
            checkpoint_layers=checkpoint_layers,
        ).train()
        saved[checkpoint_layers] = count_saved(encoder)
    assert saved[True] < saved[False] / 3


def test_dropout_is_drawn_in_training():
    fast, _ = make_pair()
    fast.train()
    wavs, _ = make_batch(1.0)
    with torch.no_grad():
        first, second = (fast(wavs) for _ in range(2))
    assert all(not torch.equal(a, b) for a, b in zip(first, second))
    assert all(a.isfinite().all() for a in first)


def test_a_frozen_encoder_keeps_no_graph():
    fast, plain = make_pair()
    for encoder in (fast, plain):
        encoder.set_frozen(True)
        for rep in encoder.train()(make_batch(1.0, 0.5)[0]):
            assert not rep.requires_grad


@pytest.mark.parametrize("fast", [False, True])
def test_layers_come_one_at_a_time(fast):
    encoder = make_pair()[0]
    encoder.fast = fast
    wavs, wav_lens = make_batch(1.0, 0.6)
    computed = []
    for layer in encoder.model.encoder.layers:
        part = layer.final_layer_norm
        part.register_forward_hook(lambda *_: computed.append(1))
    with torch.no_grad():
        expected = encode(encoder, wavs, wav_lens)
        computed.clear()
        layers = encoder.layers(wavs, wav_lens)
    assert layers.n_rows == expected.layer_reps[0].shape[1]
    assert torch.equal(layers.n_frames, expected.n_frames)
    for i, want in enumerate(expected.layer_reps):
        rep = next(layers.reps)
        # The mode of the call holds, and the caller's is left alone.
        assert torch.is_grad_enabled() and not rep.requires_grad
        assert len(computed) == (i if fast else 2)
        assert torch.equal(rep, want)
    assert next(layers.reps, None) is None


def test_gradient_mode_is_that_of_the_call():
    encoder = make_pair()[0]
    layers = encoder.layers(make_batch(1.0)[0])
    with torch.no_grad():
        for rep in layers.reps:
            assert rep.requires_grad and not torch.is_grad_enabled()


@pytest.mark.parametrize("style", STYLES)
def test_mixed_precision(style):
    # On processors with AMX, oneDNN's bf16 convolution of less than 16 channels
    # per group is wrong (torch 2.11); no real model is that small.
    changes = {"hidden_size": 32}
    fast, plain = make_pair(style=style, changes=changes)
    batch = make_batch(1.0, 0.6)
    with torch.no_grad():
        expected = encode(plain, *batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = encode(fast, *batch)
    for a, b in zip(found.layer_reps, expected.layer_reps):
        error = (a.float() - b)[0].norm() / b[0].norm()
        assert error < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("model_type", TYPES)
def test_export_with_any_length(model_type, style):
    fast, _ = make_pair(model_type, style)

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = fast

        def forward(self, wavs):
            return self.encoder(wavs)

    wavs = make_batch(1.0)[0]
    samples = torch.export.Dim("samples", min=1000, max=100000)
    with torch.no_grad():
        program = torch.export.export(
            Wrapped(),
            (wavs,),
            dynamic_shapes={"wavs": {1: samples}},
            # The range of the number of frames is too much for its solver.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        for n in (12000, 8000, 5001):
            found = program.module()(wavs[:, :n])
            expected = fast(wavs[:, :n])
            assert_close(found, expected, **CLOSE)


def test_batch_norm_before_the_positions_takes_the_plain_path():
    config = {**TINY_SSL, "conv_pos_batch_norm": True}
    encoder = RandomSSLEncoder("hubert", config, fast=True).eval()
    assert encoder.fast is False
    assert encoder(make_batch(1.0)[0]).isfinite().all()


@pytest.mark.parametrize("value, allowed", [("0", False), ("1", True)])
def test_the_environment_forbids_fast_paths(value, allowed, monkeypatch):
    monkeypatch.setenv("MERIT_FAST_PATH", value)
    assert RandomSSLEncoder("wavlm", TINY_SSL).fast is allowed
    assert not RandomSSLEncoder("wavlm", TINY_SSL, fast=False).fast
    assert onednn.is_available() <= allowed

"""What a GPU computes otherwise gives the same, seen on a CPU."""

import pytest
import torch
from torch.testing import assert_close

from merit_modules.lengths import PackedBatch
from merit_modules.ssl import attention as ssl_attention
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system
from tests.helpers.encoding import encode

STYLES = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
}
LENGTHS = torch.tensor([1.0, 0.61, 0.1])


def waves(n_samples):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(LENGTHS), n_samples, generator=generator)


def watch_rows(monkeypatch):
    """List the numbers of frames of the batches that are not packed."""
    seen, masked = [], PackedBatch.masked

    def watched(n_frames, n_rows, device=None):
        seen.append(n_rows)
        return masked(n_frames, n_rows, device)

    monkeypatch.setattr(PackedBatch, "masked", watched)
    return seen


def make_encoder(model_type, style, **options):
    torch.manual_seed(0)
    config = {**TINY_SSL, **STYLES[style], "conv_bias": style == "large"}
    encoder = RandomSSLEncoder(model_type, config, **options)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return encoder


@pytest.mark.parametrize("span_s", [None, 0.1])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("model_type", ["wavlm", "hubert"])
@torch.no_grad()
def test_layers_are_the_same(request, monkeypatch, model_type, style, span_s):
    encoder = make_encoder(model_type, style, attention_span_s=span_s).eval()
    batches = [
        (waves(n_samples), lens)
        for n_samples in (12000, 12345)
        for lens in (LENGTHS, None)
    ]
    expected = [encode(encoder, *batch) for batch in batches]
    request.getfixturevalue("as_on_a_gpu")
    seen = watch_rows(monkeypatch)
    for batch, theirs in zip(batches, expected, strict=True):
        ours = encode(encoder, *batch)
        for a, b in zip(ours.layer_reps, theirs.layer_reps, strict=True):
            assert a.shape == b.shape
            for one, other, n in zip(a, b, theirs.n_frames):
                assert_close(one[:n], other[:n], atol=2e-5, rtol=1e-4)
    biased = model_type == "wavlm"
    assert seen == [40, 40, 40, 40] if biased else [37, 37, 38, 38]


def system_and_gradients(system, wavs, lens):
    system.zero_grad(set_to_none=True)
    output = system(wavs, lens)
    loss = output.logits.square().sum() + output.enhancement.log1p.sum()
    loss.backward()
    return output, {n: p.grad for n, p in system.named_parameters()}


@pytest.mark.parametrize("style", STYLES)
def test_a_system_and_its_gradients_are_the_same(request, style):
    torch.manual_seed(0)
    system = tiny_system(**STYLES[style]).eval()
    system.ssl_encoder.train_front_end = True
    system.ssl_encoder.set_frozen(False)
    batch = waves(12000), LENGTHS
    theirs, expected = system_and_gradients(system, *batch)
    request.getfixturevalue("as_on_a_gpu")
    ours, found = system_and_gradients(system, *batch)
    assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-4)
    assert_close(ours.enhancement.log1p, theirs.enhancement.log1p)
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
            continue
        scale = gradient.abs().max().clamp_min(1.0)
        assert_close(
            found[name] / scale, gradient / scale, atol=1e-4, rtol=0, msg=name
        )


def test_rows_of_padding_that_see_nothing_stay_numbers(as_on_a_gpu):
    encoder = make_encoder("wavlm", "large", attention_span_s=0.06)
    reps = encoder.train().layers(waves(12000), LENGTHS, packed=True).reps
    total = sum(rep.sum() for rep in reps)
    total.backward()
    assert total.isfinite()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_part_that_is_listened_to_is_called():
    encoder = make_encoder("wavlm", "large")
    attention = encoder.model.encoder.layers[0].attention
    assert ssl_attention.can_join(attention)
    attention.k_proj.register_forward_hook(lambda *_: None)
    assert not ssl_attention.can_join(attention)

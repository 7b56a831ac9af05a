"""Attention that reaches no farther than in training."""

import pytest
import torch

from merit_modules.lengths import PackedBatch
from merit_modules.pretrained import load_folder, save_folder
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system

KINDS = [("wavlm", False), ("wavlm", True), ("hubert", False)]


def encoder(model_type="wavlm", stable=False, span_s=None, **options):
    torch.manual_seed(0)
    config = {**TINY_SSL, "do_stable_layer_norm": stable}
    # The only thing in which frames far from each other meet.
    config |= {"feat_extract_norm": "layer", "num_conv_pos_embeddings": 2}
    options["attention_span_s"] = span_s
    return RandomSSLEncoder(model_type, config, **options).eval()


def encode(model, wavs, wav_lens=None):
    with torch.no_grad():
        return model(wavs, wav_lens)


@pytest.mark.parametrize("model_type, stable", KINDS)
@pytest.mark.parametrize("fast", [True, False])
def test_nothing_changes_within_the_span(model_type, stable, fast):
    wavs = torch.randn(2, 16000)  # 49 frames, 48 from first to last
    far = encoder(model_type, stable, fast=fast)
    near = encoder(model_type, stable, span_s=0.96, fast=fast)
    assert torch.equal(encode(far, wavs), encode(near, wavs))
    nearer = encoder(model_type, stable, span_s=0.94, fast=fast)
    assert not torch.allclose(encode(far, wavs), encode(nearer, wavs))


@pytest.mark.parametrize("model_type, stable", KINDS)
def test_what_is_far_is_not_heard(model_type, stable):
    """Layer by layer a change is heard by the span farther, no more."""
    span = 20
    model = encoder(model_type, stable, span_s=span / 50)
    wavs = torch.randn(1, 320 * 160 + 80)
    other = wavs.clone()
    other[:, 320 * 100 : 320 * 100 + 400] *= -1.0  # frames 99 to 101
    difference = encode(model, wavs) - encode(model, other)
    differs = difference[:, 0].abs().amax(dim=-1) > 0
    for layer, frames in enumerate(differs):
        heard = frames.nonzero().squeeze(1)
        # The position convolution adds one frame behind. What comes from
        # the very edge may be lost in rounding.
        assert 0 <= heard.min() - (99 - layer * span) <= 1
        assert 0 <= min(159, 102 + layer * span) - heard.max() <= 1


def test_alone_padded_and_anywhere(monkeypatch):
    """Stretches, padding and the form for GPUs give the same."""
    model = encoder(span_s=0.3)
    wavs = torch.randn(3, 16000)
    lens = torch.tensor([1.0, 0.75, 0.2])
    batch = encode(model, wavs, lens)
    with torch.no_grad():
        n_frames = model.layers(wavs, lens).n_frames.tolist()
    for i, n in enumerate(n_frames):
        alone = encode(model, wavs[i : i + 1, : round(16000 * lens[i].item())])
        torch.testing.assert_close(batch[:, i, :n], alone[:, 0, :n])
    monkeypatch.setattr(PackedBatch, "packed", PackedBatch.masked)
    elsewhere = encode(model, wavs, lens)
    for i, n in enumerate(n_frames):
        torch.testing.assert_close(elsewhere[:, i, :n], batch[:, i, :n])


def test_it_learns():
    """The same gradients as with a mask on all scores."""
    wavs = torch.randn(1, 16000)
    found = []
    for checkpoint_layers in (False, True):
        model = encoder(
            span_s=0.3,
            train_front_end=True,
            checkpoint_layers=checkpoint_layers,
        ).train()
        torch.manual_seed(1)
        model(wavs)[-1].square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    for once, again in zip(*found):
        if once is None:
            assert again is None
        else:
            torch.testing.assert_close(once, again)


def test_it_travels_with_the_model(tmp_path):
    system = tiny_system()
    system.ssl_encoder.attention_span_s = 0.5
    save_folder(system, tmp_path / "m", ["angry", "sad", "happy", "neutral"])
    again = load_folder(tmp_path / "m")["system"]
    assert again.ssl_encoder.attention_span_s == 0.5
    wavs = torch.randn(1, 16000)
    with torch.no_grad():
        assert torch.equal(again(wavs).logits, system(wavs).logits)

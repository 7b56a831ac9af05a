"""The composed system: the same result on any batch, every part learns."""

import copy

import pytest
import torch

from merit_modules.losses.enhancement import log1p_l1
from merit_modules.losses.routing import load_balance, router_z
from merit_modules.tiny import tiny_system

BASE_STYLE = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LARGE_STYLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
SSL_KINDS = [
    pytest.param(model_type, style, id=f"{model_type}-{name}")
    for model_type in ("wavlm", "hubert", "wav2vec2")
    for name, style in (("base", BASE_STYLE), ("large", LARGE_STYLE))
]


def joint_loss(system, noisy, clean, wav_lens, labels):
    out = system(noisy, wav_lens)
    target = system.log1p_target(clean, out)
    loss = log1p_l1(out.enhancement.log1p, target, out.enhancement.n_frames)
    loss = loss + torch.nn.functional.cross_entropy(out.logits, labels)
    for decision in out.mixture.routing.values():
        loss = loss + 0.01 * load_balance(decision) + 1e-3 * router_z(decision)
    return loss


@torch.no_grad()
def centre_routers(system, noisy, wav_lens):
    """Let no expert win everywhere, so that none is idle."""
    routing = system(noisy, wav_lens).mixture.routing
    for task, router in system.mixture.routers.items():
        router.linear.bias -= routing[task].logits.mean(dim=0)


@pytest.mark.parametrize("model_type, style", SSL_KINDS)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_an_utterance_is_the_same_alone_and_padded(model_type, style, top_k):
    torch.manual_seed(0)
    system = tiny_system(model_type, top_k=top_k, **style)
    system.normalizer.set_statistics(mean=0.02, std=0.3)
    # Lengths at every kind of edge: of a hop, of an SSL frame, of the rule.
    lengths = [16000, 15999, 9681, 6400, 6399, 1360, 401, 400]
    wavs = [torch.randn(n) for n in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    wav_lens = torch.tensor(lengths) / 16000
    with torch.no_grad():
        padded = system(batch, wav_lens)
        padded_wavs = system.enhanced_wavs(padded, batch.shape[1])
        for row, wav in enumerate(wavs):
            alone = system(wav[None])
            wav_alone = system.enhanced_wavs(alone, len(wav))[0]
            n = len(wav)
            n_ssl = alone.mixture.valid.sum()
            torch.testing.assert_close(
                padded.logits[row], alone.logits[0], atol=1e-5, rtol=0
            )
            torch.testing.assert_close(
                padded_wavs[row, :n], wav_alone, atol=1e-5, rtol=0
            )
            assert not padded_wavs[row, n:].any()
            for task in ("se", "ser"):
                padded_map = padded.mixture.expert_map(task)[row]
                alone_map = alone.mixture.expert_map(task)[0]
                assert torch.equal(padded_map[:n_ssl], alone_map)
                assert (padded_map[n_ssl:] == -1).all()


def test_garbage_in_the_padding_changes_nothing():
    torch.manual_seed(0)
    system = tiny_system()
    wavs, wav_lens = torch.randn(2, 8000), torch.tensor([1.0, 0.5])
    dirty = wavs.clone()
    dirty[1, 4000:] = torch.nan
    with torch.no_grad():
        out, dirty_out = system(wavs, wav_lens), system(dirty, wav_lens)
    torch.testing.assert_close(out.logits, dirty_out.logits)
    torch.testing.assert_close(
        out.enhancement.log1p, dirty_out.enhancement.log1p
    )


@pytest.mark.parametrize("model_type, style", SSL_KINDS)
def test_every_trainable_parameter_gets_a_gradient(model_type, style):
    torch.manual_seed(0)
    system = tiny_system(model_type, **style)
    noisy = torch.randn(4, 12000)
    wav_lens = torch.tensor([1.0, 0.9, 0.7, 0.5])
    centre_routers(system, noisy, wav_lens)
    labels = torch.tensor([0, 1, 2, 3])
    loss = joint_loss(system, noisy, 0.5 * noisy, wav_lens, labels)
    loss.backward()
    without = [
        name
        for name, parameter in system.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not parameter.grad.any())
    ]
    # Softmax cannot see a constant added to all keys: the true gradient of
    # that bias is zero (what is found there is rounding).
    without = [name for name in without if not name.endswith("k_proj.bias")]
    assert without == []


def test_a_frozen_encoder_keeps_no_graph_and_stays_in_eval_mode():
    system = tiny_system()
    system.ssl_encoder.set_frozen(True)
    system.train()
    assert not system.ssl_encoder.model.training
    assert system.ser_head.training
    out = system(torch.randn(1, 4000))
    out.logits.sum().backward()
    assert all(p.grad is None for p in system.ssl_encoder.parameters())
    system.ssl_encoder.set_frozen(False)
    system.train()
    assert system.ssl_encoder.model.training


def test_the_front_end_is_only_trained_on_request():
    system = tiny_system()
    system.ssl_encoder.train_front_end = False
    system.ssl_encoder.set_frozen(False)
    out = system(torch.randn(1, 4000))
    out.logits.sum().backward()
    front_end = system.ssl_encoder.model.feature_extractor
    assert all(p.grad is None for p in front_end.parameters())
    projection = system.ssl_encoder.model.feature_projection.projection
    assert projection.weight.grad.any()


@pytest.mark.parametrize("task", ["se", "ser"])
def test_one_task_alone_gives_what_both_give(task):
    torch.manual_seed(0)
    system = tiny_system()
    wavs = torch.randn(2, 8000)
    with torch.no_grad():
        both, one = system(wavs), system(wavs, tasks=[task])
    assert list(one.mixture.routing) == [task]
    if task == "ser":
        assert one.enhancement is None
        torch.testing.assert_close(one.logits, both.logits)
    else:
        assert one.logits is None
        torch.testing.assert_close(one.enhancement.mask, both.enhancement.mask)


def test_saved_and_loaded_gives_the_same_output(tmp_path):
    system = tiny_system()
    system.normalizer.set_statistics(mean=0.1, std=0.4)
    torch.save(system.state_dict(), tmp_path / "system.pt")
    torch.manual_seed(99)
    other = tiny_system()
    state = torch.load(tmp_path / "system.pt", weights_only=True)
    other.load_state_dict(state)
    wavs = torch.randn(2, 8000)
    with torch.no_grad():
        out, other_out = system(wavs), other(wavs)
    assert torch.equal(out.logits, other_out.logits)
    assert torch.equal(out.enhancement.log1p, other_out.enhancement.log1p)


def test_padding_never_enters_the_loss():
    torch.manual_seed(0)
    system = tiny_system()
    noisy, labels = torch.randn(2, 8000), torch.tensor([0, 1])
    wav_lens = torch.tensor([1.0, 0.5])
    longer = torch.nn.functional.pad(noisy, (0, 4000))
    loss = joint_loss(system, noisy, 0.5 * noisy, wav_lens, labels)
    longer_loss = joint_loss(
        system, longer, 0.5 * longer, wav_lens * 8000 / 12000, labels
    )
    torch.testing.assert_close(loss, longer_loss, atol=1e-6, rtol=1e-5)


def test_a_copy_is_independent():
    system = tiny_system()
    other = copy.deepcopy(system)
    other.normalizer.set_statistics(mean=0.0, std=9.0)
    assert float(system.normalizer.std) == 1.0

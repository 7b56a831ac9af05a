"""A model that is arranged for a GPU gives the same, seen on a CPU."""

import copy

import pytest
import torch
from torch.testing import assert_close

from merit_modules.inference import SparseMERIT
from merit_modules.inference.prepack import arrange_
from merit_modules.losses import JointLoss
from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system

LENGTHS = torch.tensor([1.0, 0.6, 0.2])


def waves(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 12000, generator=generator)


def make_system(model_type="wavlm", style="layer"):
    torch.manual_seed(0)
    system = tiny_system(
        model_type,
        feat_extract_norm=style,
        do_stable_layer_norm=style == "layer",
    )
    mix = system.mixture.layer_mix
    with torch.no_grad():
        mix.weight.uniform_(0.5, 2.0)
        mix.bias.normal_()
    return system


def outputs_of(system):
    output = system(waves(), LENGTHS)
    wavs = system.enhanced_wavs(output, 12000)
    experts = [output.mixture.expert_map(task) for task in ("se", "ser")]
    return output.logits.float(), wavs.float(), torch.stack(experts)


@pytest.mark.parametrize("style", ["layer", "group"])
@pytest.mark.parametrize("model_type", ["wavlm", "hubert"])
@torch.no_grad()
def test_in_full_precision(as_on_a_gpu, model_type, style):
    system = make_system(model_type, style)
    expected = outputs_of(system)
    found = outputs_of(arrange_(system))
    assert not system.mixture.layer_mix.affine
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def trained_system():
    """Learn what routers need to be sure of what they choose."""
    system = make_system().train()
    system.ssl_encoder.set_frozen(True)
    loss = JointLoss(load_balance=0.1)
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-2)
    labels = torch.arange(3)
    for step in range(20):
        output = system(waves(step), LENGTHS)
        terms = loss.terms(system, output, 0.5 * waves(step), labels)
        optimizer.zero_grad()
        loss(terms).backward()
        optimizer.step()
    return system.eval()


def test_large_weights_in_half_precision(as_on_a_gpu):
    system = trained_system()
    with torch.no_grad():
        *_, full = outputs_of(system)
        half = arrange_(copy.deepcopy(system), torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            *expected, cast = outputs_of(system)
            *found, kept = outputs_of(half)
    kinds = {n: p.dtype for n, p in half.named_parameters()}
    assert {torch.bfloat16, torch.float32} == set(kinds.values())
    for name, kind in kinds.items():
        of_head = "head" in name or "router" in name
        assert kind == torch.float32 or not of_head, name
    valid = full >= 0
    assert full[valid].unique().numel() > 1
    for experts in (cast, kept):
        assert (experts == full)[valid].float().mean() >= 0.985
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 0.05 * theirs.norm()


def test_a_loaded_model_is_arranged_on_a_gpu(as_on_a_gpu, tmp_path):
    save_folder(make_system(), tmp_path, ["angry", "sad", "happy", "calm"])
    model = SparseMERIT.from_hparams(
        source=tmp_path,
        prepack=False,
        run_opts={"device": "cpu", "precision": "bf16"},
    )
    system, wav = model.mods.system, waves()[0]
    expected = model.analyze(wav)
    model.device_type = "cuda"
    model._prepare(system)
    assert system.mixture.experts[0][0].weight.dtype == torch.bfloat16
    found = model.analyze(wav)
    assert found.emotion.label == expected.emotion.label
    assert found.emotion.score == pytest.approx(
        expected.emotion.score, abs=0.02
    )
    error = (found.enhanced - expected.enhanced).norm()
    assert error <= 0.05 * expected.enhanced.norm()


def test_nothing_is_arranged_where_it_is_forbidden(monkeypatch):
    monkeypatch.setenv("MERIT_FAST_PATH", "0")
    system = arrange_(make_system(), torch.bfloat16)
    assert {p.dtype for p in system.parameters()} == {torch.float32}

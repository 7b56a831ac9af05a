"""Systems as folders: written whole, loaded exactly, by SpeechBrain too."""

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from speechbrain.inference.interfaces import Pretrained
from torch import nn

from merit_modules.errors import InputError
from merit_modules.heads.ser import AttentiveStatsPooling, SERHead
from merit_modules.moe.experts import LayerMixingPool
from merit_modules.moe.layer_mix import LayerNormConcat, WeightedLayerSum
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import TopKRouter
from merit_modules.moe.task_sums import TaskLayerSums
from merit_modules.pretrained import load_folder, load_parts, save_folder
from merit_modules.pretrained import save as saving
from merit_modules.pretrained.description import describe
from merit_modules.pretrained.weights import read_weights, write_weights
from merit_modules.ssl.sources import PretrainedSSLEncoder, RandomSSLEncoder
from merit_modules.system import JointSystem, WaveformNormalizer
from merit_modules.tiny import TINY_SSL, tiny_system

LABELS = ["angry", "no", "1", "a: b, #c"]


@pytest.fixture
def system():
    torch.manual_seed(0)
    system = tiny_system(top_k=2, layer_norm_eps=1e-6, num_buckets=32)
    system.normalizer.set_statistics(mean=0.1, std=0.7)
    return system


@pytest.fixture
def folder(system, tmp_path):
    save_folder(system, tmp_path / "system", LABELS, about={"epoch": 3})
    return tmp_path / "system"


def same_output(a, b):
    wavs, lens = torch.randn(2, 6000), torch.tensor([1.0, 0.7])
    with torch.no_grad():
        a, b = a(wavs, lens), b(wavs, lens)
    if a.logits is not None:
        assert torch.equal(a.logits, b.logits)
    if a.enhancement is not None:
        assert torch.equal(a.enhancement.log1p, b.enhancement.log1p)


def test_load_gives_the_same_system(system, folder):
    hparams = load_folder(folder)
    again = hparams["system"]
    assert hparams["labels"] == LABELS
    assert hparams["sample_rate_hz"] == 16000
    assert not again.training
    same_output(system, again)
    assert again.mixture.routers["se"].top_k == 2
    assert again.ssl_encoder.model.config.layer_norm_eps == 1e-6
    assert again.normalizer.std == system.normalizer.std
    assert not again.ssl_encoder.model.training
    front_end = again.ssl_encoder.model.feature_extractor
    assert all(p.requires_grad for p in front_end.parameters())


def test_about(folder):
    about = json.loads((folder / "about.json").read_text())
    assert about["epoch"] == 3
    assert about["versions"]["torch"] == torch.__version__


def test_changes(folder):
    changed = load_folder(folder, padding_rule="released")["system"]
    assert changed.ssl_encoder.padding_rule == "released"
    with pytest.raises(InputError, match="no key 'paddin_rule'"):
        load_folder(folder, paddin_rule="released")


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_folder(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("collect", [True, False])
def test_speechbrain_loads_it(system, folder, tmp_path, collect):
    savedir = str(tmp_path / "collected") if collect else None
    loaded = Pretrained.from_hparams(source=str(folder), savedir=savedir)
    assert loaded.hparams.labels == LABELS
    # It freezes what it loads; torch then takes another kernel.
    same_output(system.requires_grad_(False), loaded.mods.system)
    assert not any(p.requires_grad for p in loaded.mods.parameters())


def test_speechbrain_loads_it_strictly(folder, tmp_path):
    change_weights(folder, lambda weights: weights.pop("normalizer.std"))
    with pytest.raises(InputError, match="normalizer.std: missing"):
        Pretrained.from_hparams(source=str(folder), savedir=tmp_path / "c")


def naive_mtl():
    encoder = RandomSSLEncoder("hubert", TINY_SSL)
    sums = {task: WeightedLayerSum(3, 16) for task in ("se", "ser")}
    head = SERHead(AttentiveStatsPooling(16), 3, 8, dropout=0.25)
    parts = WaveformNormalizer(), encoder, TaskLayerSums(sums), None, head
    system = JointSystem(*parts)
    system.normalizer.set_statistics(0.0, 1.0)
    return system.eval()


def layer_mixing():
    system = naive_mtl()
    mix = LayerNormConcat(3, 16, eps=1e-3)
    routers = {"ser": TopKRouter(48, 2, gradient="scaled")}
    pool = LayerMixingPool(2, n_layer_reps=3, dim=16)
    system.mixture = ExpertMixture(mix, pool, routers)
    system.ssl_encoder = RandomSSLEncoder("wav2vec2", TINY_SSL).eval()
    return system


@pytest.mark.parametrize("make", [naive_mtl, layer_mixing])
def test_other_systems(make, tmp_path):
    system = make()
    save_folder(system, tmp_path / "other", ["x", "y", "z"])
    again = load_folder(tmp_path / "other")["system"]
    same_output(system, again)
    assert again.se_head is None and again.ser_head.dropout == 0.25


def test_hub_models_become_self_contained(system, tmp_path):
    system.ssl_encoder.model.save_pretrained(tmp_path / "hub")
    system.ssl_encoder = PretrainedSSLEncoder(str(tmp_path / "hub")).eval()
    save_folder(system, tmp_path / "system", LABELS)
    (tmp_path / "hub").rename(tmp_path / "moved")
    again = load_folder(tmp_path / "system")["system"]
    assert again.ssl_encoder.train_front_end is False
    same_output(system, again)


def test_part_that_does_not_keep_an_argument(system, tmp_path):
    class Forgetful(nn.Module):
        def __init__(self, size):
            super().__init__()

    with pytest.raises(TypeError, match="Forgetful does not keep .*'size'"):
        describe(Forgetful(3))
    system.ser_head = Forgetful(3)
    with pytest.raises(TypeError, match="Forgetful"):
        save_folder(system, tmp_path / "system", LABELS)
    assert list(tmp_path.iterdir()) == []


# Writing


def test_whole_or_not_at_all(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*args, **notes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.safetensors.torch, "save_file", full_disk)
    with pytest.raises(InputError, match="cannot be written: .*No space"):
        save_folder(tiny_system(), folder, LABELS)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_an_earlier_folder_is_replaced(folder):
    save_folder(naive_mtl(), folder, ["x", "y", "z"])
    assert load_folder(folder)["labels"] == ["x", "y", "z"]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["notes.txt", "hyperparams.yaml"])
def test_other_folders_are_spared(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        save_folder(tiny_system(), tmp_path, LABELS)
    assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(InputError, match="found a file"):
        save_folder(tiny_system(), tmp_path / name, LABELS)


def test_weights_that_are_views(tmp_path):
    """Those of an LSTM on a GPU share one buffer."""
    system = tiny_system()
    blstm = system.se_head.blstm
    params = [p for name, p in blstm.named_parameters()]
    buffer = torch.cat([p.detach().flatten() for p in params])
    start = 0
    for param in params:
        shape, size = param.shape, param.numel()
        param.data = buffer[start : start + size].view(shape)
        start += size
    save_folder(system, tmp_path / "system", LABELS)
    same_output(system, load_folder(tmp_path / "system")["system"])


# What does not fit


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    safetensors.torch.save_file(weights, path)


def test_all_that_does_not_fit_is_listed(folder):
    def change(weights):
        del weights["normalizer.mean"]
        weights["ser_head.pooling.attention"] = torch.ones(5)
        weights["ser_head.more"] = torch.ones(5)

    change_weights(folder, change)
    with pytest.raises(InputError) as caught:
        load_folder(folder)
    message = str(caught.value)
    assert "normalizer.mean: missing" in message
    assert "pooling.attention: expected (12,), got (5,)" in message
    assert "ser_head.more: not expected" in message


@pytest.mark.parametrize("name", ["hyperparams.yaml", "model.safetensors"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load_folder(folder)


def test_cut_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        load_folder(folder)


# Starting from another system


def fresh(**changes):
    config = {"layer_norm_eps": 1e-6, "num_buckets": 32} | changes
    return tiny_system(**config)


@pytest.mark.parametrize(
    "parts, loaded",
    [
        ("all", ["ssl_encoder", "mixture", "se_head", "ser_head"]),
        (["ser_head", "ssl_encoder"], ["ser_head", "ssl_encoder"]),
        ("mixture", ["mixture"]),
    ],
)
def test_load_parts(system, folder, parts, loaded):
    start = fresh()
    before = {k: v.clone() for k, v in start.state_dict().items()}
    assert load_parts(start, folder, parts) == loaded
    theirs = system.state_dict()
    for name, tensor in start.state_dict().items():
        part = name.split(".")[0]
        expected = theirs if part in loaded else before
        assert torch.equal(tensor, expected[name]), name


def test_statistics_are_not_copied(folder):
    start = fresh()
    start.normalizer.set_statistics(mean=-0.3, std=0.2)
    load_parts(start, folder)
    assert start.normalizer.std == pytest.approx(0.2)
    with pytest.raises(InputError, match="parts: expected all or some of"):
        load_parts(start, folder, ["normalizer"])


def test_parts_that_do_not_fit_are_listed(folder):
    start = fresh(num_hidden_layers=1, intermediate_size=8)
    before = {k: v.clone() for k, v in start.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_parts(start, folder, ["ssl_encoder"])
    message = str(caught.value)
    dense = "feed_forward.intermediate_dense.bias"
    assert f"layers.0.{dense}: expected (8,), got (32,)" in message
    assert f"layers.1.{dense}: not expected" in message
    for name, tensor in start.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_same_shapes_but_another_computation(folder):
    start = fresh(do_stable_layer_norm=True, max_bucket_distance=99)
    with pytest.raises(InputError) as caught:
        load_parts(start, folder)
    message = str(caught.value)
    assert "do_stable_layer_norm: expected True, got False" in message
    assert "max_bucket_distance: expected 99, got 800" in message
    other = tiny_system("hubert")
    with pytest.raises(InputError):
        load_parts(other, folder, ["ssl_encoder"])


def test_part_that_this_system_lacks(folder):
    with pytest.raises(InputError, match="this system has no se_head"):
        load_parts(naive_mtl(), folder, ["se_head"])


def test_a_description_that_was_changed_is_told(folder, caplog):
    path = folder / "hyperparams.yaml"
    load_folder(folder)
    assert not caplog.text
    path.write_text(path.read_text().replace("16000", "8000"))
    assert load_folder(folder)["sample_rate_hz"] == 8000
    assert f"{path}: damaged, or changed by hand" in caplog.text


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_bit_of_weights_changes_unnoticed(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_weights(path, {"a": torch.arange(8.0), "b": torch.ones(3).int()})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        weights = read_weights(path)
    except InputError as error:
        assert str(path) in str(error)
        return
    # Of the digest's own name, or space behind the header.
    assert torch.equal(weights["a"], torch.arange(8.0))
    assert torch.equal(weights["b"], torch.ones(3).int())

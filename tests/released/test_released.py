"""The authors' released files: agreement with their code, and other sizes."""

import json
import shutil

import pytest
import torch
from torch.testing import assert_close

from merit_modules.commands.__main__ import main as merit
from merit_modules.errors import InputError
from merit_modules.pretrained import load_folder, load_parts
from merit_modules.released import convert, load_release, read_release
from merit_modules.released.converter import build_system
from merit_modules.released.parts import (
    MIXTURE_NAMES,
    build_mixture,
    rename_system,
)
from merit_modules.released.wavlm import (
    parse_conv_layers,
    rename_wavlm,
    restore_wavlm,
    wavlm_config,
)
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import tiny_system
from tests.helpers.encoding import encode
from tests.helpers.releases import (
    edit,
    head_tensors,
    mmoe_tensors,
    wavlm_cfg,
    wavlm_tensors,
    write_model,
    write_pretrained,
)

CLOSE = {"atol": 1e-5, "rtol": 0}


# Agreement with the released code


@pytest.fixture(scope="module")
def forward(golden):
    return torch.load(golden / "system_forward.pt", weights_only=True)


@pytest.fixture(scope="module")
def batch(forward):
    wavs = forward["wav"]
    return wavs, forward["lengths"] / wavs.shape[1]


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "system"
    convert(golden / "release", folder)
    return folder


def load_wavlm(values, cfg):
    state = values["state_dict"]
    config, notes = wavlm_config(cfg, state)
    encoder = RandomSSLEncoder(
        "wavlm", config, train_front_end=False, padding_rule="released"
    )
    encoder.model.load_state_dict(rename_wavlm(state))
    return encoder.eval(), notes


@pytest.mark.parametrize("style", ["large", "base"])
@pytest.mark.parametrize("with_cfg", [True, False])
@torch.no_grad()
def test_wavlm_gives_the_original_layers(golden, style, with_cfg):
    path = golden / f"wavlm_{style}_style.pt"
    values = torch.load(path, weights_only=True)
    encoder, notes = load_wavlm(values, values["cfg"] if with_cfg else None)
    assert with_cfg == (not any("taken as" in note for note in notes))
    wavs = values["wav"]
    out = encode(encoder, wavs, values["lengths"] / wavs.shape[1])
    assert_close(torch.stack(out.layer_reps), values["layer_reps"], **CLOSE)
    padding = values["frame_padding_mask"]
    position = torch.arange(padding.shape[1])
    assert torch.equal(position >= out.n_frames[:, None], padding)


@pytest.mark.parametrize("style", ["large", "base"])
def test_wavlm_names_go_both_ways(golden, style):
    path = golden / f"wavlm_{style}_style.pt"
    state = torch.load(path, weights_only=True)["state_dict"]
    norm = {"large": "layer", "base": "group"}[style]
    again = restore_wavlm(rename_wavlm(state), norm)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("form", ["concat", "weighted_sum", "layer_mixers"])
@pytest.mark.parametrize("kind", ["sparse", "dense"])
@torch.no_grad()
def test_all_forms_of_experts(golden, form, kind):
    path = golden / f"moe_{form}_{kind}.pt"
    values = torch.load(path, weights_only=True)
    state, reps = values["state_dict"], values["layer_reps"]
    mixture = build_mixture(state, top_k=1 if kind == "sparse" else 3)
    mixture.load_state_dict(MIXTURE_NAMES.rename(state))
    out = mixture.route(reps, torch.full((reps.shape[1],), reps.shape[2]))
    assert_close(out.features["se"], values["out_se"], **CLOSE)
    assert_close(out.features["ser"], values["out_ser"], **CLOSE)
    assert MIXTURE_NAMES.restore(mixture.state_dict()).keys() == state.keys()


def test_padded_batch_with_the_released_rule(golden, forward, batch):
    released = load_release(golden / "release", padding_rule="released")
    out, system = released(*batch), released.system
    assert_close(out.logits, forward["logits"], **CLOSE)
    assert_close(out.enhanced_log1p, forward["enhanced_log1p"], **CLOSE)
    std, mean = forward["wav_std"], forward["wav_mean"]
    wavs = forward["enhanced_wav_normalised"]
    normalised = (out.enhanced_wavs - mean) / (std + 1e-8)
    assert_close(normalised, wavs, **CLOSE)
    assert_close(out.enhanced_wavs, wavs * (std + 1e-8) + mean, **CLOSE)
    assert_close(out.router_probs.se, forward["gate_probs_se"], **CLOSE)
    assert_close(out.router_probs.ser, forward["gate_probs_ser"], **CLOSE)
    best = forward["gate_probs_se"].argmax(-1)
    assert torch.equal(out.routing.se, best)
    with torch.no_grad():
        inside = system(*batch)
        normed = system.normalize(batch[0], inside.n_samples)
        reps = system.ssl_encoder(normed, batch[1])
    assert_close(normed, forward["normalised_wav"], **CLOSE)
    assert_close(reps, forward["layer_reps"], **CLOSE)
    features = inside.mixture.features
    assert_close(features["se"], forward["se_features"], **CLOSE)
    assert_close(features["ser"], forward["ser_features"], **CLOSE)


@pytest.mark.parametrize("number", range(3))
def test_exact_rule_is_one_by_one(converted, forward, batch, number):
    released = load_release(converted)
    expected = forward["one_by_one"][number]
    n_samples = int(forward["lengths"][number])
    n_frames = expected["expert_se"].shape[1]
    row = slice(number, number + 1)
    alone = released(batch[0][row, :n_samples])
    padded = released(*batch)
    for out in (alone, padded):
        which = slice(0, 1) if out is alone else row
        assert_close(out.logits[which], expected["logits"], **CLOSE)
        wavs = out.enhanced_wavs[which, :n_samples]
        wavs = (wavs - forward["wav_mean"]) / (forward["wav_std"] + 1e-8)
        assert_close(wavs, expected["enhanced_wav_normalised"], **CLOSE)
        for task in ("se", "ser"):
            experts = getattr(out.routing, task)[which]
            assert torch.equal(
                experts[:, :n_frames], expected[f"expert_{task}"]
            )
            assert experts[:, n_frames:].eq(-1).all()
    assert padded.enhanced_wavs[row, n_samples:].eq(0).all()


@pytest.mark.parametrize("rule", ["exact", "released"])
def test_converted_folder_gives_the_same_bits(golden, converted, batch, rule):
    direct = load_release(golden / "release", padding_rule=rule)(*batch)
    again = load_release(converted, padding_rule=rule)(*batch)
    for a, b in zip(direct[:3], again[:3]):
        assert torch.equal(a, b)
    assert torch.equal(direct.routing.ser, again.routing.ser)


def test_about_says_where_it_comes_from(converted):
    about = json.loads((converted / "about.json").read_text())
    assert about["epoch"] == 7 and about["best_loss"] == 0.8
    assert about["made_from"]["ssl"] == "model/final_ssl.pt"
    assert any("weights is left aside" in note for note in about["notes"])


@pytest.mark.parametrize(
    "file, name",
    [
        ("final_ssl.pt", "encoder.layers.2.fc1.weight"),
        ("final_mmoe.pt", "layer_norms.3.bias"),
        ("final_pool.pt", "attention"),
        ("final_ser.pt", "out.0.bias"),
        ("final_se.pt", "lstm_enc.1.blstm.weight_hh_l1_reverse"),
    ],
)
def test_every_file_matters(golden, forward, batch, tmp_path, file, name):
    folder = tmp_path / "release"
    shutil.copytree(golden / "release", folder)
    edit(folder / "model" / file, lambda state: state[name].add_(0.1))
    out = load_release(folder, padding_rule="released")(*batch)
    logits = (out.logits - forward["logits"]).abs().max()
    log1p = (out.enhanced_log1p - forward["enhanced_log1p"]).abs().max()
    assert max(logits, log1p) > 1e-4


def test_unused_tensors_do_not_matter(golden, forward, batch, tmp_path):
    folder = tmp_path / "release"
    shutil.copytree(golden / "release", folder)

    def change(state):
        state["weights"].add_(1.0)
        state["layer_norm.0.weight"] = torch.ones(3)

    edit(folder / "model" / "final_se.pt", change)
    out = load_release(folder, padding_rule="released")(*batch)
    assert_close(out.logits, forward["logits"], **CLOSE)


def test_gradients_find_their_parameters(golden):
    step = torch.load(golden / "training_step.pt", weights_only=True)
    grads = rename_system(step["grads"])
    system = build_system(read_release(golden / "release"))
    params = dict(system.named_parameters())
    assert grads.keys() == params.keys()
    for name, grad in grads.items():
        assert grad is None or grad.shape == params[name].shape
    assert grads["mixture.routers.se.linear.weight"] is None
    row = step["grads"]["mmoe.layer_norms.2.bias"]
    assert torch.equal(grads["mixture.layer_mix.bias"][2], row)


# Releases of other sizes


@pytest.fixture
def small(tmp_path):
    heads = head_tensors()
    folder = tmp_path / "release"
    write_model(folder / "run_7", wavlm_tensors(), mmoe_tensors(), heads)
    write_pretrained(
        folder / "pretrained_models", wavlm_tensors(), heads, wavlm_cfg()
    )
    return folder


def test_all_sizes_come_from_the_files(small):
    released = load_release(small)
    system, wavs = released.system, torch.randn(2, 8000)
    assert len(system.mixture.experts) == 4
    assert system.mixture.experts.hidden_size == 9
    assert system.se_head.spectrum.n_fft == 320
    assert system.ssl_encoder.model.config.max_bucket_distance == 40
    out = released(wavs)
    assert out.logits.shape == (2, 2)
    assert out.enhanced_log1p.shape == (2, 161, 51)
    assert out.router_probs.se.shape == (2, 24, 4)
    assert released.labels == ["class_0", "class_1"]
    assert out.routing.ser.dtype == torch.int64


def test_values_arrive_at_their_place(small):
    system = load_release(small).system
    mmoe, (pool, ser, se) = mmoe_tensors(), head_tensors()
    state = system.state_dict()
    pairs = {
        "mixture.experts.3.2.weight": mmoe["experts.3.fc2.weight"],
        "mixture.routers.ser.linear.bias": mmoe["gates.1.fc.bias"],
        "ser_head.pooling.attention": pool["attention"][:, 0],
        "ser_head.classifier.2.weight": ser["fc.0.1.weight"],
        "se_head.blstm.bias_ih_l1": se["lstm_enc.1.blstm.bias_ih_l1"],
        "normalizer.std": torch.tensor(0.2),
    }
    for name, expected in pairs.items():
        assert torch.equal(state[name], expected), name


@pytest.mark.parametrize("style", ["base", "large"])
def test_model_without_cfg(tmp_path, style):
    ssl = wavlm_tensors(base_style=style == "base")
    folder = write_model(tmp_path, ssl, mmoe_tensors(), head_tensors())
    release = read_release(folder)
    assert release.ssl_config["do_stable_layer_norm"] == (style == "large")
    assert release.ssl_config["max_bucket_distance"] == 40
    assert sum("taken as" in note for note in release.notes) == 5
    assert load_release(folder)(torch.randn(1, 4000)).logits.shape == (1, 2)


def test_older_names_of_the_position_convolution(tmp_path):
    rest = mmoe_tensors(), head_tensors()
    new = write_model(tmp_path / "new", wavlm_tensors(), *rest)
    old = wavlm_tensors(weight_g=True)
    assert "encoder.pos_conv.0.weight_g" in old
    old = write_model(tmp_path / "old", old, *rest)
    wavs = torch.randn(1, 4000)
    a, b = load_release(new)(wavs), load_release(old)(wavs)
    assert torch.equal(a.logits, b.logits)


def test_front_end_as_wide_as_the_model(tmp_path):
    ssl = wavlm_tensors(conv=(6, 12))
    assert "post_extract_proj.weight" not in ssl
    folder = write_model(tmp_path, ssl, mmoe_tensors(), head_tensors())
    released = load_release(folder)
    projection = released.system.ssl_encoder.model.feature_projection.projection
    assert torch.equal(projection.weight, torch.eye(12))
    assert torch.equal(projection.bias, torch.zeros(12))


def test_cfg_of_another_model_is_not_used(small):
    other = wavlm_tensors(layers=3), head_tensors(), wavlm_cfg(layers=3)
    write_pretrained(small / "pretrained_models", *other)
    release = read_release(small)
    assert release.ssl_config["num_hidden_layers"] == 2
    assert "WavLM-Large.pt: not used: cfg: encoder_layers" in release.notes[0]


def test_dense_model(small, tmp_path):
    convert(small, tmp_path / "dense", top_k=4)
    released = load_release(tmp_path / "dense")
    assert released.system.mixture.routers["se"].top_k == 4
    sparse = load_release(small)
    wavs = torch.randn(1, 4000)
    assert not torch.equal(released(wavs).logits, sparse(wavs).logits)
    with pytest.raises(InputError, match="top_k: expected 1 to 4"):
        convert(small, tmp_path / "more", top_k=5)


def test_pretrained_parts_start_a_training(tmp_path):
    ssl, heads = wavlm_tensors(), head_tensors(size=12, classes=4, bins=201)
    folder = write_pretrained(tmp_path / "parts", ssl, heads, wavlm_cfg())
    convert(folder, tmp_path / "out")
    with pytest.raises(InputError, match="lacks mixture, statistics"):
        load_release(tmp_path / "out")
    with pytest.raises(InputError, match="lacks mixture, statistics"):
        load_release(folder)
    start = load_folder(tmp_path / "out")["system"]
    system = tiny_system(
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=20,
        conv_dim=[6] + [10] * 6,
        num_conv_pos_embeddings=8,
        num_buckets=16,
        max_bucket_distance=40,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    assert load_parts(system, tmp_path / "out", ["ssl_encoder"]) == [
        "ssl_encoder"
    ]
    ours, theirs = system.ssl_encoder.state_dict(), start.ssl_encoder
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    with pytest.raises(InputError, match="has no weights of mixture"):
        load_parts(system, tmp_path / "out", ["mixture"])


def test_only_the_ssl_model(tmp_path):
    torch.save(wavlm_tensors(), tmp_path / "WavLM-Large.pt")
    release = read_release(tmp_path)
    system = build_system(release)
    assert system.se_head is None and system.ssl_encoder.dim == 12


# Command line


def test_command(small, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert (
        merit(["convert", str(small), out, "--padding_rule", "released"]) == 0
    )
    said = capsys.readouterr().out
    assert "final_mmoe.pt: 26 tensors" in said
    assert "WavLM: 2 layers of width 12" in said
    assert "Note: the STFT's hop" in said
    assert load_folder(out)["padding_rule"] == "released"
    assert merit(["convert", str(small), out, "--labels", "calm", "tense"]) == 0
    assert load_folder(out)["labels"] == ["calm", "tense"]


def test_command_spares_other_folders(small, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert merit(["convert", str(small), str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "release, thesis.txt" in error
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_command_names_what_is_wrong(small, tmp_path, capsys):
    assert (
        merit(["convert", str(small), str(tmp_path / "out"), "--labels", "one"])
        == 2
    )
    assert "labels: expected 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# The expression in cfg


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[(1, 2, 3)] * 10**9",
        "[(1, 2, 3)] * 1000000000",
        "[(1, 2)]",
        "[(1, 2, -3)]",
        "[(1, 2, True)]",
        "[]",
        "(",
        "[" * 900,
        7,
    ],
)
def test_only_lists_describe_the_front_end(text):
    with pytest.raises(InputError, match="conv_feature_layers"):
        parse_conv_layers(text)


@pytest.mark.parametrize(
    "key, value",
    [
        ("relative_position_embedding", False),
        ("gru_rel_pos", False),
        ("activation_fn", "swish"),
        ("encoder_layers", 3),
        ("extractor_mode", "default"),
        ("max_distance", "far"),
        ("layer_norm_first", "yes"),
        ("dropout", 2),
        ("conv_feature_layers", "[(6,10,5)]"),
    ],
)
def test_cfg_that_cannot_be_followed(tmp_path, key, value):
    cfg = wavlm_cfg() | {key: value}
    ssl = wavlm_tensors()
    folder = write_pretrained(tmp_path, ssl, head_tensors(), cfg)
    with pytest.raises(InputError, match=f"WavLM-Large.pt: cfg: {key}: exp"):
        read_release(folder)

"""Shipped YAML files: SpeechBrain loads them, shared parts are equal."""

import re
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams, parse_overrides
from merit_modules.ssl.sources import PretrainedSSLEncoder, RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from tests.conftest import ROOT
from tests.helpers import copies
from tests.helpers.experiments import (
    EXPERIMENTS,
    SYSTEMS,
    name_of,
    overrides_of,
)
from tests.helpers.yaml_files import WAVLM_LARGE, changed

RUN_OPTIONS = {
    "precision",
    "max_grad_norm",
    "grad_accumulation_factor",
    "ckpt_interval_minutes",
}
each_file = pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)


def unused_keys(text, script):
    """List keys that neither the file itself nor the script reads."""
    keys = set(re.findall(r"^(\w+):", text, re.M))
    read = set(re.findall(r"hparams\[\"(\w+)\"\]", script))
    read |= set(re.findall(r"\bhparams\.(\w+)", script))
    read |= set(re.findall(r"<(\w+)", text))
    unused = keys - read - RUN_OPTIONS
    return {key for key in unused if not key.startswith("__")}


@each_file
def test_every_key_is_used(path):
    text, script = path.read_text(), copies.RECIPE.read_text()
    unused = unused_keys(text, script)
    if "ser_target: attributes" in text:
        unused -= {"emotions"}  # the corpus tells them all the same
    assert unused == set()
    assert unused_keys(text + "my_key: 1\n", script) >= {"my_key"}


@each_file
def test_speechbrain_s_own_check_passes(path):
    """Every key is declared before it is referred to, or is in train.py."""
    text, script = path.read_text(), copies.RECIPE.read_text()
    waiting = []
    for line in text.splitlines():
        found = re.match(r"(\w+):", line)
        if found and "!apply" not in line:
            waiting.append(found[1])
        for name in re.findall(r"<(\w+)", line):
            if name in waiting:
                waiting.remove(name)
    left = {
        key
        for key in waiting
        if f'["{key}"]' not in script and f"hparams.{key}" not in script
    }
    assert left <= RUN_OPTIONS | {"emotions"}


@each_file
def test_the_file_s_own_command_is_right(path):
    """The head of each file shows how it is used."""
    head, _ = copies.sections(path.read_text())
    assert f"train.py hparams/{path.name}" in head
    for key in re.findall(r"^(\w+): !PLACEHOLDER", path.read_text(), re.M):
        assert f"--{key}" in head, key


@pytest.mark.slow
@each_file
def test_shipped_files_build_a_system_that_runs(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parents[1]))
    with open(path, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides_of(path, tmp_path))
    system = hparams["system"]
    # What the YAML names and what the system holds are the same objects.
    assert system.mixture is hparams["mixture"]
    assert system.ssl_encoder is hparams["ssl_encoder"]
    if hparams["front_end_experiment"]:
        front_end = path.parent / hparams["front_end_experiment"]
        first = load_hparams(front_end, overrides_of(front_end, tmp_path))
        system.front_end = first["system"]
        system.front_end.normalizer.set_statistics(0.0, 1.0)
    system.normalizer.set_statistics(0.0, 1.0)
    with torch.no_grad():
        out = system.eval()(torch.randn(1, 8000))
    if "ser" in system.tasks:
        assert out.logits.shape == (1, len(hparams["ser_outputs"]))
    if "se" in system.tasks:
        assert out.enhancement.mask.shape == (1, 201, 51)


def test_every_system_is_there_for_every_corpus():
    folders = {path.parent for path in EXPERIMENTS}
    assert len(folders) == 5
    for folder in folders:
        assert SYSTEMS <= {path.stem for path in folder.glob("*.yaml")}
        assert (folder / "sparse_merit_base.yaml").is_file()
    for path in EXPERIMENTS:
        (name,) = re.findall(r"^system_name: (\w+)$", path.read_text(), re.M)
        assert path.stem.startswith(name) or name == "naive_mtl"


def test_sections_of_one_title_are_equal():
    found = {}
    for path in EXPERIMENTS:
        head, sections = copies.sections(path.read_text())
        assert copies.joined(head, sections) == path.read_text(), path
        sections.pop(copies.OWN)
        for title, text in sections.items():
            assert found.setdefault(title, text) == text, f"{path}: {title}"


def test_the_steps_of_all_scripts_are_equal():
    texts = {copies.steps(path.read_text())[1] for path in copies.scripts()}
    assert len(copies.scripts()) == 6 and len(texts) == 1
    assert len(copies.RECIPE.read_text().splitlines()) <= 250


def test_a_difference_is_found_and_mended(tmp_path, monkeypatch):
    source = ROOT / "hparams" / "sparse_merit.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(
        source.read_text().replace("n_examples: 2", "n_examples: 3")
    )
    monkeypatch.setattr(copies, "experiments", lambda: [source, other])
    assert copies.fix(source) == [other]
    assert other.read_text() == source.read_text()
    assert copies.fix(source) == []


def test_a_key_of_another_file_is_named_with_its_files(tmp_path):
    path = ROOT / "hparams" / "sparse_merit.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text() + "whisper_layers: 3\n")
    (tmp_path / path.name).write_text(path.read_text())
    with pytest.raises(InputError) as caught:
        load_hparams(tmp_path / path.name, {"whisper_layers": 2})
    assert "these files have it: other.yaml" in str(caught.value)
    with pytest.raises(InputError, match="did you mean 'n_experts'"):
        load_hparams(path, {"n_expert": 3})


def test_one_s_own_keys_and_includes_are_loaded(tmp_path):
    text = (ROOT / "hparams" / "sparse_merit.yaml").read_text()
    (tmp_path / "note.yaml").write_text("who: me\n")
    path = tmp_path / "mine.yaml"
    path.write_text(text + "my_note: 3\nmore: !include:note.yaml\n")
    hparams = load_hparams(path, {"output_folder": str(tmp_path)})
    assert hparams["my_note"] == 3 and hparams["more"] == {"who": "me"}


def test_wavlm_large_with_three_experts_has_the_right_size(tmp_path):
    """Full size on the meta device: shapes and counts, no memory."""
    path = tmp_path / "full.yaml"
    shipped = ROOT / "recipes" / "Manifest" / "joint_se_ser" / "hparams"
    path.write_text(
        changed(
            shipped / "sparse_merit.yaml",
            WAVLM_LARGE + "lr_annealing: null\n"  # a list: not on meta
            "emotions: [a, b, c, d]\nspeech_root: x\nprepare: null\n",
        )
    )
    options = {"output_folder": str(tmp_path), "manifest_csv": "x"}
    with torch.device("meta"):
        hparams = load_hparams(path, {**options, "noise_folder": "x"})
    system = hparams["system"]
    width = 25 * 1024
    assert hparams["layer_mix"].output_size == width
    expert = width * 4096 + 4096 + 4096 * 1024 + 1024
    assert count(system.mixture.experts[0]) == expert
    assert count(system.mixture.experts) == 3 * expert
    assert count(system.mixture.routers) == 2 * (width * 3 + 3)
    assert count(system.mixture.layer_mix) == 2 * width
    assert 315e6 < count(system.ssl_encoder) < 316e6  # WavLM-Large: 315.5 M
    blstm = 2 * 2 * (4 * 256 * (256 + 256) + 2 * 4 * 256)
    blstm += 2 * 4 * 256 * 256  # the second layer reads both directions
    around = (201 + 1024) * 256 + 256 + 256 * 201 + 201
    assert count(system.se_head) == blstm + around
    pooling = 1024 * 1024 + 1024 + 1024
    classifier = 2048 * 1024 + 1024 + 2 * 1024 + 1024 * 4 + 4
    assert count(system.ser_head) == pooling + classifier


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["wavlm", "hubert", "wav2vec2"])
def test_a_local_folder_gives_the_same_encoder(tmp_path, name):
    random = RandomSSLEncoder(name, TINY_SSL, train_front_end=False).eval()
    random.model.save_pretrained(tmp_path)
    # A hub's preprocessor asks for a norm over the padded row: not for us.
    Path(tmp_path, "preprocessor_config.json").write_text(
        '{"do_normalize": true, "feature_extractor_type": '
        '"Wav2Vec2FeatureExtractor", "sampling_rate": 16000}'
    )
    loaded = PretrainedSSLEncoder(str(tmp_path)).eval()
    wavs, wav_lens = torch.randn(2, 6000) * 7, torch.tensor([1.0, 0.5])
    with torch.no_grad():
        expected = random(wavs, wav_lens)
        actual = loaded(wavs, wav_lens)
    torch.testing.assert_close(actual, expected)
    front_end = loaded.model.feature_extractor
    assert not any(p.requires_grad for p in front_end.parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nlr: 2\n", 'options: found duplicate key "lr"'),
        ("metrics: [stoi\n", "options: expected YAML"),
    ],
)
def test_options_that_cannot_be_read(text, message):
    with pytest.raises(InputError, match=message):
        parse_overrides(text)

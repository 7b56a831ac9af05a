"""Shipped YAML files: they load, use all their keys and describe once."""

import re
from pathlib import Path

import pytest
import torch

from merit_modules.errors import InputError
from merit_modules.hparams import compose, load_hparams, parse_overrides
from merit_modules.ssl.encoder import PretrainedSSLEncoder, RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from tests.conftest import ROOT
from tests.helpers.training import EXPERIMENTS

#: Keys that the code reads by name; all others must be referenced.
READERS = [
    ROOT / "merit_modules" / name
    for name in (
        "training/datasets.py",
        "training/experiment.py",
        "training/recipe.py",
        "training/brain.py",
        "export/card_metadata.py",
    )
] + [ROOT / "train.py"]
RUN_OPTIONS = {
    "precision",
    "max_grad_norm",
    "grad_accumulation_factor",
    "ckpt_interval_minutes",
}
#: small.yaml states the widths of all parts, whichever a system has.
WIDTHS = {"expert_hidden", "expert_output", "se_hidden", "ser_hidden"}


def overrides_of(path, tmp_path):
    placeholders = re.findall(r"^(\w+): !PLACEHOLDER", compose(path), re.M)
    values = {key: str(tmp_path) for key in placeholders}
    if "manifest_csv" in values:
        values["manifest_csv"] = str(tmp_path / "corpus.csv")
        Path(values["manifest_csv"]).write_text("wav,emo\na.wav,x\nb.wav,y\n")
    if re.search(r"^ssl_source:", compose(path), re.M):
        # In place of trained weights, which come from elsewhere.
        values["ssl_source"] = str(tmp_path / "ssl")
        model = RandomSSLEncoder("wavlm", TINY_SSL).model
        model.save_pretrained(tmp_path / "ssl")
    return {**values, "output_folder": str(tmp_path)}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: str(p.stem))
def test_every_key_is_used(path):
    text = compose(path)
    code = "".join(reader.read_text() for reader in READERS)
    read = set(re.findall(r"\"(\w+)\"", code))
    read |= set(re.findall(r"self\.hparams\.(\w+)", code))
    referenced = set(re.findall(r"<(\w+)", text))
    keys = set(re.findall(r"^(\w+):", text, re.M))
    unused = keys - read - referenced - RUN_OPTIONS - WIDTHS
    if "ser_target: attributes" in text:
        unused -= {"emotions"}  # the corpus tells them all the same
    assert {k for k in unused if not k.startswith("__")} == set()


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: str(p.stem))
def test_shipped_files_build_a_system_that_runs(path, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parents[1]))
    hparams, _ = load_hparams(path, overrides_of(path, tmp_path))
    system = hparams["system"]
    # What the YAML names and what the system holds are the same objects.
    assert system.mixture is hparams["mixture"]
    assert system.ssl_encoder is hparams["ssl_encoder"]
    if hparams["front_end_experiment"]:
        front_end = path.parent / hparams["front_end_experiment"]
        first, _ = load_hparams(front_end, overrides_of(front_end, tmp_path))
        system.front_end = first["system"]
        system.front_end.normalizer.set_statistics(0.0, 1.0)
    system.normalizer.set_statistics(0.0, 1.0)
    with torch.no_grad():
        out = system.eval()(torch.randn(1, 8000))
    if "ser" in system.tasks:
        assert out.logits.shape == (1, len(hparams["ser_outputs"]))
    if "se" in system.tasks:
        assert out.enhancement.mask.shape == (1, 201, 51)


def test_a_corpus_and_a_system_are_paired_in_a_few_lines():
    for path in EXPERIMENTS:
        lines = path.read_text().splitlines()
        code = [x for x in lines if x.strip() and not x.startswith("#")]
        assert len(code) <= 12, f"{path} states more than what differs"


def test_the_composed_file_runs_without_its_parts(tmp_path):
    text = compose(ROOT / "hparams" / "sparse_merit.yaml")
    (tmp_path / "flat.yaml").write_text(text)
    hparams, again = load_hparams(
        tmp_path / "flat.yaml", {"output_folder": str(tmp_path)}
    )
    assert again == text
    assert hparams["number_of_epochs"] > 1


def test_wavlm_large_with_three_experts_has_the_right_size(tmp_path):
    """Full size on the meta device: shapes and counts, no memory."""
    ssl = tmp_path / "large.yaml"
    ssl.write_text(WAVLM_LARGE)
    path = tmp_path / "full.yaml"
    path.write_text(
        f"include: [{ROOT}/hparams/base.yaml, "
        f"{ROOT}/hparams/corpora/miniemo.yaml, {ssl}, "
        f"{ROOT}/hparams/systems/sparse_merit.yaml]\n"
        "lr_annealing: null\n"  # makes a list of numbers: not on meta
    )
    with torch.device("meta"):
        hparams, _ = load_hparams(path, {"output_folder": str(tmp_path)})
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


WAVLM_LARGE = """
ssl_encoder: !new:merit_modules.ssl.encoder.RandomSSLEncoder
    model_type: wavlm
    train_front_end: False
    config:
        hidden_size: 1024
        num_hidden_layers: 24
        num_attention_heads: 16
        intermediate_size: 4096
        feat_extract_norm: layer
        do_stable_layer_norm: True
"""


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

"""A run goes on with its own settings, or not at all."""

import pytest

from merit_modules.commands.evaluate import evaluate_run
from merit_modules.data.manifest import write_manifest
from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import read_results
from merit_modules.hparams import keys_of
from merit_modules.training import recipe
from merit_modules.training.seal import (
    HARMLESS,
    check_same_data,
    check_same_run,
    differences,
    read_seal,
    settings_of,
    write_seal,
)
from tests.conftest import ROOT

SHIPPED = (ROOT / "hparams" / "sparse_merit.yaml").read_text()
MSP = ROOT / "recipes" / "MSP-Podcast" / "joint_se_ser" / "hparams"


def changed_keys(text=SHIPPED, **changes):
    return differences(settings_of(text, {}), settings_of(text, changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2),
        ("lr", 0.1),
        ("top_k", 2),
        ("router_gradient", "reference"),
        ("emotions", ["sad", "angry", "happy", "neutral"]),
        ("train_snr_db", 5.0),
        ("mixture_seed", 1),
        ("max_duration_s", 3.0),
        ("batch_length_s", 13.0),
        ("se_l1_weight", 0.5),
        ("checkpoint_score", "loss"),
        ("weight_decay", 0.1),
        ("number_of_epochs", 1),
        ("stage_1_epochs", 1),
        ("observation_level_db", -10.0),
        ("precision", "bf16"),
    ],
)
def test_what_matters_is_named_with_both_values(key, value):
    found = changed_keys(**{key: value})
    assert key in found and found[key][1] == value
    with pytest.raises(InputError, match=f"  {key}: .* there, .* now"):
        before = settings_of(SHIPPED, {})
        check_same_run("run", before, settings_of(SHIPPED, {key: value}))


@pytest.mark.parametrize("key", sorted(HARMLESS & keys_of(SHIPPED)))
def test_what_does_not_matter_passes(key):
    assert changed_keys(**{key: "elsewhere"}) == {}


def test_a_size_that_is_taken_from_a_part():
    sizes = settings_of(SHIPPED, {})
    assert sizes["expert_output"] == "<ssl_encoder.dim>"
    before = settings_of(SHIPPED, {"expert_output": 8})
    assert set(differences(before, sizes)) == {"expert_output"}
    # As it was sealed once, with the whole part in its place.
    before["expert_output"] = ["!apply:getattr", [["SSL", {}], "dim"]]
    assert differences(before, sizes) == {}
    now = settings_of(SHIPPED, {"expert_output": 8})
    assert set(differences(before, now)) == {"expert_output"}


def test_more_epochs_pass_and_fewer_do_not():
    assert changed_keys(stage_2_epochs=40, number_of_epochs=41) == {}
    assert "stage_2_epochs" in changed_keys(stage_2_epochs=2)


def test_a_part_that_was_changed_in_the_file_is_named():
    text = SHIPPED.replace("moe.LayerNormConcat", "moe.WeightedLayerSum")
    found = differences(settings_of(SHIPPED, {}), settings_of(text, {}))
    assert "layer_mix" in found
    text = SHIPPED.replace("source: !ref <ssl_source>", "source: other")
    found = differences(settings_of(SHIPPED, {}), settings_of(text, {}))
    assert "ssl_encoder" in found
    with pytest.raises(InputError, match="ssl_encoder: another PretrainedSSL"):
        check_same_run("run", settings_of(SHIPPED, {}), settings_of(text, {}))
    moved = SHIPPED.replace("merit_modules.moe.", "merit_modules.experts.")
    assert not differences(settings_of(SHIPPED, {}), settings_of(moved, {}))


def test_labels_of_a_corpus_that_moved_are_the_same():
    text = (MSP / "sparse_merit.yaml").read_text()
    assert changed_keys(text, data_folder="/there", noise_folder="/x") == {}
    assert "label_set" in changed_keys(text, label_set="eight")


@pytest.mark.slow
def test_a_finished_run_takes_no_other_settings(tiny_experiment, tmp_path):
    run = tmp_path / "run"
    words = [str(tiny_experiment), "--output_folder", str(run)]
    words += ["--noprogressbar", "--number_of_epochs", "1"]
    before = recipe.main(words)
    files = {
        path: path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "log.txt"  # of this process
    }
    for changes in (["--top_k", "2"], ["--seed", "9", "--lr", "0.5"]):
        with pytest.raises(InputError, match="run with other settings"):
            recipe.main([*words, *changes])
    with pytest.raises(InputError, match="top_k: 1 there, 2 now"):
        evaluate_run([str(run), "--top_k", "2"])
    for path, content in files.items():
        assert path.read_bytes() == content, path
    again = evaluate_run([str(run), "--test_snrs_db", "[0, 5]"])
    names = [condition["name"] for condition in again["conditions"]]
    assert names == ["unseen_0dB", "unseen_5dB"]
    assert read_results(run) == again
    assert again["conditions"][0] == before["conditions"][0]


def test_relative_roots_are_written_as_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"wav": "{data_root}/a.wav", "duration": 1.0}
    for name in ("train", "valid"):
        write_manifest(f"run/{name}.json", {"a": {**entry, "emo": "sad"}})
        noise = {"n": {**entry, "noise_type": "rain"}}
        write_manifest(f"run/noise_{name}.json", noise)
    hparams = {
        "speech_root": "corpus",
        "noise_root": "/noise",
        "train_annotation": "run/train.json",
        "valid_annotation": "run/valid.json",
        "test_annotation": "run/{test_set}.json",
        "noise_annotation": "run/noise_{noise_set}.json",
        "test_sets": ["valid"],
        "test_noise_sets": [],
        "train_mixtures": None,
        "ser_outputs": ["sad"],
    }
    data = check_same_data("run", {}, hparams)
    write_seal("run", {"lr": 0.1}, hparams, data)
    sealed = read_seal("run")
    assert sealed["values"] == {
        "speech_root": str(tmp_path / "corpus"),
        "noise_root": "/noise",
        "ser_outputs": ["sad"],
    }
    check_same_data("run", sealed, {**hparams, "speech_root": "/moved"})
    with pytest.raises(InputError, match=r"ser_outputs: \['sad'\] there"):
        check_same_data("run", sealed, {**hparams, "ser_outputs": ["joy"]})

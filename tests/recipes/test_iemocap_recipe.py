"""The IEMOCAP recipe's documented commands, on a tree of its form."""

import json
import re
import shlex

import pytest
import torch

from merit_modules.data.manifest import read_manifest
from merit_modules.hparams import load_hparams
from tests.conftest import ROOT
from tests.helpers import forking
from tests.helpers.iemocap import build_noise, build_release
from tests.helpers.yaml_files import WAVLM_LARGE, changed

RECIPE = ROOT / "recipes" / "IEMOCAP" / "joint_se_ser"
README = (RECIPE / "README.md").read_text()
FULL, SMALL = (
    RECIPE / "hparams" / f"sparse_merit{size}.yaml" for size in ("", "_small")
)
#: The small command without choices.
SIMPLE = r"^(?!.*protocol).*small.*--fold 1$"
#: What makes a run short, and nothing else.
SHORT = shlex.split(
    "--stage_1_epochs 0 --stage_2_epochs 1 --num_workers 0 "
    "--num_metric_workers 0 --metrics [si_sdr_db] --test_snrs_db [0] "
    "--n_examples 1 --noprogressbar --measure_cost False"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Eleven usable utterances a session, synthetic, and six noise files."""
    folder = tmp_path_factory.mktemp("IEMOCAP")
    build_release(folder / "IEMOCAP_full_release", n_samples=8000)
    build_noise(folder / "noise")
    return folder


@pytest.fixture(autouse=True)
def as_from_the_recipe(tmp_path, monkeypatch):
    """Find the recipe's modules; keep its results out of the checkout."""
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.chdir(tmp_path)


def documented(pattern):
    """Return the README's only command that fits, as a list of words."""
    commands = re.findall(r"^(python (?:.*\\\n)*.*)$", README, re.M)
    [command] = [c for c in commands if re.search(pattern, c, re.S)]
    return shlex.split(command.replace("\\\n", " "))[1:]


def run(tree, words, *options):
    words = [word.replace("/corpora", str(tree)) for word in words]
    return forking.run([*words, *options], RECIPE)


def load(path, tree, **overrides):
    overrides |= {
        "data_folder": str(tree / "IEMOCAP_full_release"),
        "noise_folder": str(tree / "noise"),
    }
    return load_hparams(path, overrides)


@pytest.mark.slow
def test_the_documented_command_trains(tree, tmp_path):
    words = documented(SIMPLE)
    done = run(tree, words, "--output_folder", tmp_path / "run", *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [c["name"] for c in results["conditions"]] == ["unseen_0dB", "clean"]
    test = read_manifest(
        tmp_path / "run" / "save" / "manifests" / "test.json", tree
    )
    assert {entry["spk_id"] for entry in test.values()} == {"Ses01F", "Ses01M"}
    assert results["conditions"][0]["ser"]["n"] == len(test) == 11
    log = (tmp_path / "run" / "train_log.txt").read_text()
    assert log.count("epoch: 1,") == 1


def test_the_documented_options_prepare_another_protocol(tree, tmp_path):
    words = documented(r"--protocol")
    options = dict(zip((w[2:] for w in words[2::2]), words[3::2]))
    options |= {"fold": int(options["fold"]), "save_folder": str(tmp_path)}
    hparams = load(RECIPE / words[1], tree, **options)
    hparams["prepare"]()
    test = read_manifest(tmp_path / "manifests" / "test.json", tree)
    assert {entry["spk_id"] for entry in test.values()} == {"Ses05M"}
    assert len(test) == 4  # without the excited turn


def test_the_full_size_command_differs_by_its_file_alone():
    words = documented(r"hparams/sparse_merit\.yaml")
    small = documented(SIMPLE)
    assert words[1] == "hparams/sparse_merit.yaml"
    assert [words[0], *words[2:]] == [small[0], *small[2:]]


@pytest.mark.slow
def test_a_fold_that_does_not_exist_is_named(tree, tmp_path):
    words = documented(SIMPLE)[:-1]
    done = run(tree, [*words, "6"], "--output_folder", tmp_path)
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert "fold: expected a whole number from 1 to 5" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "options, n_train, n_test",
    [
        ({}, 33, 11),
        ({"fold": 5}, 33, 11),
        ({"protocol": "leave_one_speaker_out", "fold": 10}, 44, 5),
        ({"protocol": "random"}, 43, 6),
        ({"label_set": "exc_replaces_hap"}, 27, 9),
    ],
)
def test_options_reach_the_preparation(
    tree, tmp_path, options, n_train, n_test
):
    options = {**options, "save_folder": str(tmp_path)}
    hparams = load(SMALL, tree, **options)
    hparams["prepare"]()
    for split, n in (("train", n_train), ("test", n_test)):
        path = tmp_path / "manifests" / f"{split}.json"
        manifest = read_manifest(path, hparams["speech_root"])
        assert len(manifest) == n
        emotions = {entry["emo"] for entry in manifest.values()}
        assert emotions <= set(hparams["emotions"])


@pytest.mark.slow
def test_folds_and_tasks_do_not_share_a_folder(tree):
    choices = [
        {},
        {"fold": 2},
        {"protocol": "random"},
        {"label_set": "exc_dropped"},
        {"seed": 1},
    ]
    folders = {load(SMALL, tree, **c)["output_folder"] for c in choices}
    assert len(folders) == len(choices)
    assert (
        "results/IEMOCAP/exc_merged/leave_one_session_out/1/sparse_merit/"
        in (load(SMALL, tree)["output_folder"] + "/")
    )


def test_the_full_size_file_is_the_papers_setting(tree, tmp_path):
    """On the meta device, with random weights of WavLM-Large's shape."""
    path = tmp_path / "full.yaml"
    # The scheduler makes a list of numbers: not on meta.
    path.write_text(changed(FULL, WAVLM_LARGE + "lr_annealing: null\n"))
    with torch.device("meta"):
        hparams = load(path, tree)
    assert hparams["layer_mix"].output_size == 25 * 1024
    assert len(hparams["experts"]) == hparams["n_experts"] == 3
    n_parameters = sum(p.numel() for p in hparams["system"].parameters())
    assert 640e6 < n_parameters < 660e6  # 316 M, three times 109 M, heads
    assert hparams["train_snr_db"] == 5.0
    assert hparams["test_snrs_db"] == [-5, 0, 5, 10]
    batch = hparams["max_batch_size"] * hparams["grad_accumulation_factor"]
    assert batch == 32
    assert hparams["number_of_epochs"] == 20
    assert hparams["lr"] == 5.0e-5 and hparams["ssl_lr_factor"] == 0.5
    assert hparams["emotions"] == ["angry", "sad", "happy", "neutral"]

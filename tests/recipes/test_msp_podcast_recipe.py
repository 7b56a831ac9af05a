"""The MSP-Podcast recipe's documented commands, on a tree of its form."""

import json
import re
import shlex

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from merit_modules.data.manifest import read_manifest
from merit_modules.hparams import load_hparams
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from merit_modules.training import recipe
from tests.conftest import ROOT
from tests.helpers import forking
from tests.helpers.yaml_files import WAVLM_LARGE, changed

RECIPE = ROOT / "recipes" / "MSP-Podcast" / "joint_se_ser"
COMMANDS = [
    shlex.split(command.replace("\\\n", " "))[2:]
    for command in re.findall(
        r"^python train\.py (?:.*\\\n)*.*$",
        (RECIPE / "README.md").read_text(),
        re.M,
    )
]
CLASSES = ["angry", "sad", "happy", "neutral"]
COLUMNS = (
    *("Angry", "Sad", "Happy", "Surprise"),
    *("Fear", "Disgust", "Contempt", "Neutral"),
)


@pytest.fixture
def tree(tmp_path):
    """Six turns in every split, one of them of no class; six noise files."""
    rng = np.random.default_rng(0)
    data = tmp_path / "MSP-PODCAST-Publish-2.0"
    (data / "Audios").mkdir(parents=True)
    (data / "Labels").mkdir()
    lines = [f"FileName,{','.join(COLUMNS)},EmoAct,EmoVal,EmoDom,Split_Set"]
    for split in ("Train", "Development", "Test1", "Test2"):
        for number, column in enumerate((0, 1, 2, 7, 0, 4)):
            name = f"MSP-PODCAST_{split}_{number:04d}.wav"
            shares = [0.0] * 8
            shares[column] = 1.0
            if number == 4:
                shares[0], shares[5] = 0.6, 0.4
            cells = [name, *map(str, shares), "3", "4", "5", split]
            lines.append(",".join(cells))
            tone = np.sin(np.arange(12000) * rng.uniform(0.05, 0.2))
            soundfile.write(data / "Audios" / name, 0.1 * tone, 16000)
    text = "\n".join(lines) + "\n"
    (data / "Labels" / "labels_consensus.csv").write_text(text)
    (tmp_path / "noise").mkdir()
    for number in range(6):
        path = tmp_path / "noise" / f"n{number}.wav"
        soundfile.write(path, 0.1 * rng.normal(size=20000), 20000)
    return data


def run(arguments, data, *extra):
    folder = data.parent
    given = {
        "/corpora/MSP-PODCAST-Publish-1.11": str(data),
        "/corpora/noise": str(folder / "noise"),
    }
    return forking.run(
        [
            "train.py",
            *(given.get(argument, argument) for argument in arguments),
            *("--output_folder", folder / "run", "--noprogressbar"),
            *("--stage_1_epochs", "0", "--stage_2_epochs", "1"),
            *("--num_workers", "0", "--num_metric_workers", "0"),
            *("--metrics", "[si_sdr_db]", "--test_snrs_db", "[0]"),
            *("--measure_cost", False),
            *extra,
        ],
        RECIPE,
    )


def test_the_readme_has_its_commands():
    names = [command[0] for command in COMMANDS]
    small = "hparams/sparse_merit_small.yaml"
    assert names == ["hparams/sparse_merit.yaml", small, small, small]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", COMMANDS[1:], ids=["consensus", "soft", "attributes"]
)
def test_the_documented_commands_run(tree, command):
    done = run(command, tree)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tree.parent / "run" / "results.json").read_text())
    assert [c["name"] for c in results["conditions"]] == [
        *("test1_unseen_0dB", "test1_clean"),
        *("test2_unseen_0dB", "test2_clean"),
    ]
    # Fear is left out: five of six.
    assert {c["ser"]["n"] for c in results["conditions"]} == {5}
    score = "ccc_mean" if "attributes" in command else "f1_macro"
    assert all(score in c["ser"] for c in results["conditions"])


@pytest.mark.slow
def test_the_paper_setting_starts_with_an_encoder_of_ones_own(tree, tmp_path):
    """All but the size of the encoder is as documented."""
    RandomSSLEncoder("wavlm", TINY_SSL).model.save_pretrained(tmp_path / "ssl")
    extra = ("--ssl_source", str(tmp_path / "ssl"), "--expert_hidden", "8")
    done = run(COMMANDS[0], tree, *extra)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test2_unseen_0dB" in done.stdout


@pytest.mark.slow
def test_errors_are_one_message(tree):
    next((tree / "Audios").glob("*Train_0001*")).unlink()
    done = run(COMMANDS[1], tree)
    assert done.returncode == 2
    told = done.stdout + done.stderr
    assert "MSP-PODCAST_Train_0001.wav: there is no such" in told
    assert "Traceback" not in told


def load(name, folder, monkeypatch, **overrides):
    monkeypatch.syspath_prepend(str(RECIPE))
    folders = dict.fromkeys(
        ("data_folder", "noise_folder", "output_folder"), str(folder)
    )
    return load_hparams(RECIPE / "hparams" / name, {**folders, **overrides})


def test_the_label_set_makes_the_classes(tmp_path, monkeypatch):
    small = "sparse_merit_small.yaml"
    assert load(small, tmp_path, monkeypatch)["emotions"] == CLASSES
    eight = load(small, tmp_path, monkeypatch, label_set="eight")
    assert len(eight["emotions"]) == 8
    assert eight["ser_head"].n_classes == 8


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """The full-size setting on the meta device: shapes, no memory."""
    shipped = RECIPE / "hparams" / "sparse_merit.yaml"
    path = tmp_path / "full.yaml"
    # The scheduler makes a list of numbers: not on meta.
    path.write_text(changed(shipped, WAVLM_LARGE + "lr_annealing: null\n"))
    with torch.device("meta"):
        return load(path, tmp_path, monkeypatch)


def test_the_full_size_is_the_paper_s(paper):
    assert paper["train_snr_db"] == paper["valid_snr_db"] == 5.0
    assert paper["test_snrs_db"] == [-5, 0, 5, 10]
    assert paper["test_sets"] == ["test1", "test2"]
    assert paper["emotions"] == CLASSES
    assert paper["number_of_epochs"] == 20 and paper["lr"] == 5e-5
    assert paper["layer_mix"].output_size == 25 * 1024
    assert paper["n_experts"] == 3 and paper["expert_hidden"] == 4096
    own = (RECIPE / "hparams" / "sparse_merit.yaml").read_text()
    assert re.search("^ssl_source: microsoft/wavlm-large", own, re.M)


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_a_step_of_the_full_size_is_32_utterances(paper, parts):
    """Of any length: the limit in seconds must not make batches smaller.

    In one batch, or in as many parts as a smaller GPU needs.
    """
    assert paper["precision"] == "bf16"
    assert paper["max_batch_size"] * paper["grad_accumulation_factor"] == 32
    size = 32 // parts
    lengths_s = np.random.default_rng(0).uniform(1, 20, 4000)
    dataset = DynamicItemDataset(
        {str(i): {"duration": s} for i, s in enumerate(lengths_s)}
    )
    hparams = {**paper, "max_batch_size": size}
    kwargs = recipe.loader_kwargs(hparams, dataset, shuffle=True)
    sizes = [len(batch) for batch in kwargs["batch_sampler"]]
    assert max(sizes) == size and sizes.count(size) * size >= 0.9 * 4000


def test_long_utterances_are_cut_when_they_are_loaded(tree, monkeypatch):
    path = next((tree / "Audios").glob("*Train_0002*"))
    noise = np.random.default_rng(1).normal(size=16000 * 13)
    soundfile.write(path, 0.1 * noise, 16000)
    hparams = load(
        "sparse_merit_small.yaml",
        tree.parent,
        monkeypatch,
        data_folder=str(tree),
        noise_folder=str(tree.parent / "noise"),
        num_workers=0,
    )
    hparams["prepare"]()
    manifest = read_manifest(
        tree.parent / "save" / "manifests" / "train.json", tree
    )
    assert manifest[path.stem]["duration"] == 13
    train = recipe.dataio_prepare(hparams).train
    example = train[train.data_ids.index(path.stem)]
    assert example["noisy_wav"].shape == (12 * 16000,)

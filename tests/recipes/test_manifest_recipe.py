"""The walk-through for a corpus of one's own, exactly as printed."""

import json

import numpy as np
import pytest
import soundfile

from merit_modules.hparams import parse_overrides
from tests.conftest import ROOT
from tests.helpers.pages import PAGES, blocks, commands, run

RECIPE = ROOT / "recipes" / "Manifest" / "joint_se_ser"
PAGE = "docs/your_own_corpus.md"
FOLDERS, *COMMANDS = commands(PAGE)
(CSV,) = blocks(PAGE, "csv")
ERRORS = blocks(PAGE, "text")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that looks like the repository's, with the audio of the page."""
    folder = tmp_path_factory.mktemp("walk")
    for name in ("recipes", "hparams", "merit_modules"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_corpus").mkdir()
    (folder / "my_corpus" / "list.csv").write_text(CSV)
    rng = np.random.default_rng(0)
    for line in CSV.splitlines()[1:]:
        path = folder / "my_corpus" / line.split(",")[0]
        tone = np.sin(np.arange(9600) * rng.uniform(0.05, 0.2))
        soundfile.write(path, 0.1 * tone, 16000)
    (folder / "my_noise").mkdir()
    for number in range(3):
        path = folder / "my_noise" / f"n{number}.wav"
        soundfile.write(path, 0.1 * rng.normal(size=16000), 20000)
    return folder


def test_folders_as_printed(place):
    """The page's two names, in a folder per emotion."""
    for name in ("calm/anna_1.wav", "tense/ben_1.wav"):
        assert f"`{name}`" in PAGES[PAGE]
        path = place / "my_folders" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.zeros(1600), 16000)
    done = run(FOLDERS, place)
    assert done.returncode == 0, done.stderr
    assert "list.csv: 1 calm, 1 tense; 2 speakers" in done.stdout
    assert (place / "my_folders" / "list.csv").read_text().splitlines() == [
        "wav,emo,spk_id",
        "calm/anna_1.wav,calm,anna",
        "tense/ben_1.wav,tense,ben",
    ]
    done = run(FOLDERS, place)
    assert done.returncode == 2 and "list.csv: is there already" in done.stderr


def test_folds_as_the_page_says(place):
    command = COMMANDS[1].replace(
        "--parallel 2", "--print --folds 0-4 --out folds"
    )
    done = run(command, place)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    assert "--seed 1 --fold 0" in lines[0] and "--fold 4" in lines[4]


def test_the_page_has_ten_lines_and_two_commands():
    assert len(CSV.splitlines()) == 11
    assert len(COMMANDS) == 2 and len(ERRORS) == 2


@pytest.mark.slow
def test_one_epoch_as_printed(place):
    done = run(COMMANDS[0], place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train  3     3      6      0        3" in done.stdout + done.stderr
    folder = place / "results" / "trial" / "sparse_merit" / "1234"
    results = json.loads((folder / "results.json").read_text())
    names = [condition["name"] for condition in results["conditions"]]
    assert names[0] == "unseen_-5dB" and names[-1] == "clean"
    assert results["conditions"][0]["ser"]["classes"] == ["calm", "tense"]
    assert results["conditions"][0]["ser"]["n"] == 2
    train = (folder / "save" / "manifests" / "train.json").read_text()
    assert json.loads(train).keys() <= {
        line.split(".")[0] for line in CSV.splitlines()
    }


@pytest.mark.slow
def test_seeds_as_printed(place):
    done = run(COMMANDS[1], place)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = place / "results" / "my_corpus" / "folds" / "sparse_merit_small"
    assert str(folder.relative_to(place) / "summary.md") in PAGES[PAGE]
    summary = json.loads((folder / "summary.json").read_text())
    assert [run["seed"] for run in summary["runs"]] == [1, 2]
    assert summary["conditions"][0]["ser"]["uar"]["n"] == 2
    assert (folder / "summary.md").read_text().rstrip() in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("expected", ERRORS)
def test_errors_as_printed(place, expected, tmp_path):
    """What the page shows is what a broken file gives."""
    for name in ("recipes", "hparams", "merit_modules", "my_noise"):
        (tmp_path / name).symlink_to(place / name)
    (tmp_path / "my_corpus").mkdir()
    lines = CSV.splitlines()
    for line in lines[1:]:
        name = line.split(",")[0]
        link = tmp_path / "my_corpus" / name
        link.symlink_to(place / "my_corpus" / name)
    if "column emo" in expected:
        lines[3] = lines[3].replace("calm,ben", ",ben")
        assert lines[3] == "ben_calm.wav,,ben"
    else:
        (tmp_path / "my_corpus" / lines[6].split(",")[0]).unlink()
    (tmp_path / "my_corpus" / "list.csv").write_text("\n".join(lines) + "\n")
    done = run(COMMANDS[0], tmp_path)
    assert done.returncode == 2
    told = done.stdout + done.stderr
    assert "Traceback" not in told
    assert expected.replace("FOLDER", str(tmp_path)).strip() in told


def test_full_size_yaml_is_the_papers_setting():
    """The file names the paper's values, on whatever corpus."""
    tree = parse_overrides(
        (RECIPE / "hparams" / "sparse_merit.yaml").read_text()
    )
    assert tree["ssl_source"] == "microsoft/wavlm-large"
    assert tree["max_batch_size"] * tree["grad_accumulation_factor"] == 32
    assert tree["train_snr_db"] == 5.0 and tree["lr"] == 5.0e-5
    assert tree["test_snrs_db"] == [-5, 0, 5, 10]
    assert tree["expert_hidden"] == 4096 and tree["n_experts"] == 3

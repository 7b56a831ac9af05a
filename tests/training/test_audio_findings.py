"""What was found in audio serves all runs, until the audio changes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from merit_modules.data import pipelines
from merit_modules.errors import InputError
from merit_modules.training import datasets
from tests.conftest import ROOT
from tests.helpers.small_corpus import SmallCorpus, write


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("MERIT_CACHE", str(tmp_path / "cache"))
    corpus = SmallCorpus(tmp_path)
    monkeypatch.setattr(pipelines, "read_audio", corpus.spy)
    return corpus


def test_another_run_reads_nothing(corpus):
    first = corpus.start("one")
    assert len(corpus.names()) == 8
    assert corpus.start("one") == first and corpus.read == []
    assert corpus.start("two") == first and corpus.names() == set()
    listed = [
        (corpus.folder / run / "mixtures" / "valid.csv").read_bytes()
        for run in ("one", "two")
    ]
    assert listed[0] == listed[1] and b"valid1" in listed[0]


def test_another_seed_mixes_the_training_set_alone(corpus):
    first = corpus.start("one")
    other = corpus.start("two", seed=2)
    assert corpus.names() == {f"train{i}.wav" for i in range(1, 6)}
    assert other["std"] != first["std"]
    assert other["left"] == first["left"]


def test_of_a_large_set_all_seeds_mix_the_same_few(corpus, monkeypatch):
    exact = corpus.start("one")
    monkeypatch.setattr(datasets, "MOST_MIXED", 5)
    monkeypatch.setattr(datasets, "N_MIXED", 3)
    found = corpus.start("two")
    assert found["std"] == pytest.approx(exact["std"], rel=0.1)
    assert found["std"] != exact["std"]
    mixed = []
    for seed in (3, 4):
        corpus.start(f"seed{seed}", seed=seed)
        mixed.append(sorted(set(corpus.read)))
    assert mixed[0] == mixed[1] and len(corpus.names()) <= 3
    again = corpus.start("three")
    assert again == found and len(corpus.names()) <= 1


def test_of_a_clean_validation_set_nothing_is_read_again(corpus):
    noisy = corpus.start("noisy")
    clean = corpus.start("clean", valid_snr_db=None)
    assert clean == noisy and corpus.names() == set()
    assert not (corpus.folder / "clean" / "mixtures").exists()


def test_a_run_goes_on_where_its_audio_is_gone_by_now(corpus):
    first = corpus.start("one")
    for path in corpus.folder.glob("train*.wav"):
        path.unlink()
    assert corpus.start("one") == first and corpus.read == []
    with pytest.raises(InputError, match="train1.wav: there is no such"):
        corpus.start("two")


def test_files_that_changed_are_read_again(corpus):
    before = corpus.start("one")
    write(corpus.folder / "test1.wav", 7)
    corpus.start("one")
    assert corpus.names() == {"test1.wav"}
    # Of the same size: the time tells.
    write(corpus.folder / "train3.wav", 8, 4240)
    after = corpus.start("one")
    assert "train3.wav" in corpus.names() and after["std"] != before["std"]
    soundfile.write(corpus.folder / "test0.wav", np.zeros(4000), 16000)
    with pytest.raises(InputError, match="'test0': the speech is silent"):
        corpus.start("two")
    left = corpus.start("two", skip_broken=True)["left"]
    assert left["test"] == ["test1"] and len(left["train"]) == 6


def test_damaged_and_foreign_findings_are_not_trusted(corpus, caplog):
    first = corpus.start("one")
    folder = corpus.folder / "cache" / "audio_findings"
    assert len(list(folder.iterdir())) == 4
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("0", "1", 1))
    assert corpus.start("two") == first
    assert len(corpus.names()) == 8
    assert caplog.text.count("the audio is read again") >= 4
    for path in folder.iterdir():
        path.write_text('{"another": "program"}')
    assert corpus.start("three") == first
    caplog.clear()
    assert corpus.start("four") == first and corpus.names() == set()
    assert "read again" not in caplog.text
    scan = corpus.folder / "one" / "save" / "audio_scan.json"
    scan.write_text("[]")
    assert corpus.start("one") == first and corpus.names() == set()


def test_shared_manifests_have_the_findings_beside_them(corpus):
    manifest = corpus.folder / "manifests" / "train.json"
    manifest.parent.mkdir()
    first = corpus.start("one", manifest=manifest)
    assert (manifest.parent / "audio_findings").is_dir()
    assert not (corpus.folder / "cache").exists()
    assert corpus.start("two", manifest=manifest) == first
    assert corpus.names() == set()


def test_a_cache_that_cannot_be_written_stops_nobody(
    corpus, monkeypatch, caplog
):
    (corpus.folder / "file").touch()
    monkeypatch.setenv("MERIT_CACHE", str(corpus.folder / "file" / "cache"))
    first = corpus.start("one")
    assert "MERIT_CACHE names another folder" in caplog.text
    assert corpus.start("one") == first and corpus.read == []


RANKS = """
import json, sys
from pathlib import Path
import torch
from speechbrain.utils.distributed import ddp_init_group, get_rank
from merit_modules.data import pipelines
from tests.helpers.small_corpus import SmallCorpus

folder = Path(sys.argv[1])
ddp_init_group({"distributed_backend": "gloo"})
corpus = SmallCorpus(folder / f"rank{get_rank()}", n=(0, 0, 0))
corpus.folder = folder
corpus.speech = json.loads((folder / "speech.json").read_text())
corpus.noise = json.loads((folder / "noise.json").read_text())
pipelines.read_audio = corpus.spy
found = corpus.start("ranks")
found["read"] = sorted(corpus.names())
(folder / f"found{get_rank()}.json").write_text(json.dumps(found))
torch.distributed.destroy_process_group()
"""


def test_two_processes_find_what_one_does(corpus, monkeypatch):
    alone = corpus.start("one")
    for name in ("speech", "noise"):
        text = json.dumps(getattr(corpus, name))
        (corpus.folder / f"{name}.json").write_text(text)
    for rank in "01":
        (corpus.folder / f"rank{rank}").mkdir()
    script = corpus.folder / "ranks.py"
    script.write_text(RANKS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", "2", str(script), str(corpus.folder)),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "MERIT_CACHE": str(corpus.folder / "other"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [
        json.loads((corpus.folder / f"found{rank}.json").read_text())
        for rank in "01"
    ]
    shares = [set(one.pop("read")) for one in found]
    assert not shares[0] & shares[1] and len(shares[0] | shares[1]) == 8
    assert found == [alone, alone]
    for name in ("save/audio_scan.json", "mixtures/valid.csv"):
        one, ranks = (corpus.folder / run / name for run in ("one", "ranks"))
        assert one.read_text() == ranks.read_text()

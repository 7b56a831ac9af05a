"""Every command and snippet of the README does what it says."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.hparams import load_hparams
from merit_modules.pretrained import save_folder
from tests.conftest import ROOT
from tests.helpers.training import run_train

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python train\.py (hparams/\S+)(.*)$", README, re.M)
#: What is done with finished runs: evaluate them further, report.
AFTERWARDS = re.findall(
    r"^python -m (merit_modules\.(?:evaluate|report)) (.*)$", README, re.M
)
#: What is done with a finished run to use it.
IN_USE = re.findall(r"^merit (.*?)(?: *#.*)?$", README, re.M)
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
#: What makes a run short, and nothing else.
SHORT = {
    "n_sentences": 1,
    "stage_1_epochs": 1,
    "stage_2_epochs": 0,
    "num_workers": 0,
    "num_metric_workers": 0,
    "metrics": "[si_sdr_db]",
    "test_snrs_db": "[0]",
    "test_clean": False,
}


def test_the_readme_has_commands_and_snippets():
    assert len(COMMANDS) >= 2 and SNIPPETS
    for target in re.findall(r"^make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


@pytest.mark.slow
@pytest.mark.parametrize("yaml, options", COMMANDS)
def test_commands(yaml, options, miniemo, tmp_path):
    given = shlex.split(options)
    short = {k: v for k, v in SHORT.items() if f"--{k}" not in given}
    extra = [x for k, v in short.items() for x in (f"--{k}", str(v))]
    extra += ["--data_folder", str(miniemo)]
    if "OUT_DIR" in given:
        folder = tmp_path / "converted"
        hparams, _ = load_hparams(
            ROOT / yaml, {"output_folder": str(tmp_path / "sizes")}
        )
        save_folder(hparams["system"], folder, hparams["emotions"])
        given[given.index("OUT_DIR")] = str(folder)
    done = run_train(yaml, tmp_path, *given, *extra)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unseen_0dB" in done.stdout


@pytest.fixture(scope="module")
def two_runs(miniemo, tmp_path_factory):
    """Two systems, trained as the README says, but short."""
    folder = tmp_path_factory.mktemp("two_runs")
    short = {**SHORT, "test_clean": True}
    extra = [x for k, v in short.items() for x in (f"--{k}", str(v))]
    runs = [folder / name for name in ("sparse_merit", "naive_mtl")]
    for run in runs:
        options = [*extra, "--data_folder", str(miniemo)]
        done = run_train(f"hparams/{run.name}.yaml", run, *options)
        assert done.returncode == 0, done.stderr[-3000:]
    return runs


@pytest.mark.slow
def test_from_runs_to_the_report(two_runs, tmp_path):
    """Grid, scores and report, by the README's own commands in turn."""
    kinds = [module for module, _ in AFTERWARDS]
    assert kinds.count("merit_modules.report") >= 1 and len(kinds) >= 5
    for module, options in AFTERWARDS:
        words = shlex.split(options)
        if module.endswith("report"):
            runs = list(map(str, two_runs))
            first, last = words.index("RUN"), words.index("...]")
            words[first : last + 1] = runs
            words[words.index("DIR")] = str(tmp_path)
            calls = [[*words, "--resamples", "200"]]
        else:
            calls = [
                [w.replace("RUN", str(r)) for w in words] for r in two_runs
            ]
            if "--removal_conditions" in words:
                del calls[1]  # naive MTL has no experts
        for call in calls:
            done = run_module(module, call, tmp_path)
            assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(content["scores"]["f1_macro"]) == {"naive_mtl", "sparse_merit"}
    assert {"seen_-5dB", "unseen_5dB", "clean"} <= set(content["columns"])
    assert {"pesq_wb", "covl", "si_sdr_db"} <= set(content["scores"])
    assert (
        "difference" in content["scores"]["covl"]["sparse_merit"]["unseen_0dB"]
    )
    (routing,) = content["routing"]["sparse_merit"]
    assert routing["n_utterances"] == 12
    assert {r["expert"] for r in routing["expert_removal"]} == {None, 0, 1, 2}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Routing</h2>" in page and page.count("<audio") >= 6


@pytest.fixture(scope="module")
def model_dir(two_runs, tmp_path_factory):
    """The model of the default command, exported as the README says."""
    folder = tmp_path_factory.mktemp("model") / "model"
    (options,) = [o for o in IN_USE if o.startswith("export")]
    options = options.replace("RUN", str(two_runs[0]))
    options = options.replace("MODEL_DIR", str(folder))
    done = run_module("merit_modules.commands", options.split(), folder.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def recordings(miniemo, tmp_path):
    """A folder with a short recording in noise."""
    path = sorted(miniemo.glob("speech/*/*.wav"))[0]
    wav, rate_hz = soundfile.read(path, dtype="float32")
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(wav))
    (tmp_path / "recordings").mkdir()
    path = tmp_path / "recordings" / "noisy.wav"
    soundfile.write(path, wav + noise, rate_hz, subtype="FLOAT")
    return path.parent


@pytest.mark.slow
def test_three_lines_of_python(
    model_dir, recordings, tmp_path, capsys, monkeypatch
):
    (snippet,) = [s for s in SNIPPETS if "SparseMERIT" in s]
    assert len(snippet.strip().replace("\n\n", "\n").splitlines()) == 3
    snippet = snippet.replace("MODEL_DIR", str(model_dir))
    monkeypatch.chdir(recordings)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    model = names["model"]
    assert capsys.readouterr().out.startswith("Emotion(label='")
    assert model.labels == ["angry", "sad", "happy", "neutral"]
    assert model.corpus_name == "MiniEmo"
    # Every way of input gives the same answer.
    path = recordings / "noisy.wav"
    wav, rate_hz = soundfile.read(path, dtype="float32")
    written, _ = soundfile.read(recordings / "enhanced.wav", dtype="float32")
    (recordings / "enhanced.wav").unlink()
    batch = model.analyze_batch(torch.from_numpy(wav)[None])
    ways = [path, str(path), wav, torch.from_numpy(wav), wav[None]]
    found = [model.analyze(way, rate_hz) for way in ways]
    found += model.analyze(ways, rate_hz) + model.analyze(recordings)
    for analysis in found:
        assert analysis.emotion.label == batch.text_lab[0]
        probabilities = list(analysis.emotion.probabilities.values())
        np.testing.assert_allclose(probabilities, batch.out_prob[0], atol=1e-5)
        np.testing.assert_allclose(analysis.enhanced, written, atol=1e-5)
        np.testing.assert_allclose(
            analysis.enhanced, batch.enhanced[0], atol=1e-5
        )


@pytest.mark.slow
def test_the_command_in_use(model_dir, recordings, tmp_path):
    (options,) = [o for o in IN_USE if o.startswith("analyze")]
    places = {
        "RECORDINGS": recordings,
        "MODEL_DIR": model_dir,
        "DIR": tmp_path / "out",
    }
    words = [str(places.get(word, word)) for word in options.split()]
    done = run_module("merit_modules.commands", words, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["label"] in ("angry", "sad", "happy", "neutral")
    assert (tmp_path / "out" / "noisy.wav").is_file()


def test_every_command_in_use_is_run():
    """The page of the third one is driven by tests/test_demo.py."""
    assert [o.split()[0] for o in IN_USE] == ["export", "analyze", "demo"]


def run_module(module, options, folder):
    return subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_the_parts_snippet(capsys):
    (snippet,) = [s for s in SNIPPETS if "ExpertMixture(" in s]
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("torch.Size([2, 99, 256])")


def test_the_released_snippet(golden):
    (snippet,) = [s for s in SNIPPETS if "load_release(" in s]
    snippet = snippet.replace("RELEASE_DIR", str(golden / "release"))
    names = {"wavs": torch.randn(2, 8000), "wav_lens": torch.ones(2)}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["out"].logits.shape == (2, 4)
    assert names["out"].enhanced_wavs.shape == (2, 8000)


def test_every_snippet_is_run():
    assert len(SNIPPETS) == 3


def test_local_links_lead_somewhere():
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/*/README.md")]
    for page in [ROOT / "README.md", *pages]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_the_composed_file_can_be_printed(capsys, monkeypatch):
    path = str(ROOT / "hparams" / "sparse_merit.yaml")
    monkeypatch.setattr("sys.argv", ["merit_modules.hparams", path])
    runpy.run_module("merit_modules.hparams", run_name="__main__")
    printed = capsys.readouterr().out
    assert "include:" not in printed and "system: !new:" in printed

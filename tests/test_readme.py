"""Every command and snippet of README and docs does what it says."""

import ast
import fnmatch
import importlib
import json
import re
import shlex
import warnings

import numpy as np
import pytest
import soundfile
import torch

from merit_modules import __version__
from merit_modules.hparams import load_hparams
from merit_modules.pretrained import save_folder
from tests.conftest import ROOT
from tests.helpers.pages import PAGES, blocks, commands, fill, run
from tests.helpers.releases import (
    head_tensors,
    mmoe_tensors,
    wavlm_tensors,
    write_model,
)
from tests.helpers.training import run_train

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
    "measure_cost": False,
}
#: No test runs these: they change the machine, or are a test themselves.
SET_UP = (
    r"git clone <this repository> \S+|cd \S+|\. \.venv/bin/activate|"
    r"pip install (-e .+|pre-commit)|pre-commit install|"
    r"make \w+|pytest -m \"not slow\""
)
#: Who runs the others: pages, commands, and a test that takes them from the
#: page or, where it is another file's, may run their like.
RUN_BY = [
    ("recipes/*", "for .*", "recipes/test_all_systems.py::the_pages_compare"),
    (
        "docs/your_*",
        ".*_folders.py .*",
        "recipes/test_manifest_recipe.py::fold",
    ),
    ("docs/your_own*", "python .*", "recipes/test_manifest_recipe.py::one_ep"),
    ("docs/your_own*", "merit .*", "recipes/test_manifest_recipe.py::seeds"),
    ("recipes/Mini*", "python .*", "recipes/test_pretraining_recipe.py::the_d"),
    ("recipes/EMODB/*", "python .*", "recipes/test_emodb_recipe.py::the_doc"),
    ("recipes/EMODB/*", "data=.*", "recipes/test_emodb_recipe.py::the_doc"),
    ("recipes/IEM*", "python .*", "recipes/test_iemocap_recipe.py::the_doc"),
    ("recipes/MSP*", "python .*", "recipes/test_msp_podcast_recipe.py::the_do"),
    ("recipes/Man*", "python .*", "recipes/test_manifest_recipe.py::one_epoch"),
    ("*", "merit folds .*", "commands/test_folds.py::all_folds_and_seeds"),
    ("*", "torchrun .*", "test_distributed.py::two_processes"),
    ("docs/cluster.md", "sbatch .*", "commands/test_cluster.py::"),
    ("docs/cluster.md", "parallel .*", "commands/test_folds.py::commands_can"),
    ("*", "merit demo .*", "commands/test_demo.py::all_that_comes"),
    ("docs/onnx.md", "merit export .*", "export/test_onnx_export.py::"),
    ("*", r"python train\.py hparams/.*", "test_readme.py::trainings"),
    ("*", "merit (evaluate|report) .*", "test_readme.py::from_runs_to"),
    ("*", "merit (export|analyze) .*", "test_readme.py::commands_in_use"),
    ("*", r"ffmpeg .* \| merit enhance .*", "test_readme.py::a_pipe"),
    ("*", "merit convert .*", "test_readme.py::a_release"),
    ("*", "merit mix .*", "test_readme.py::mixing_to_disk"),
    ("CONTRIBUTING.md", "python docs/.*", "test_first_look.py::the_command"),
    ("docs/contr*", "python .*", "recipes/test_lay_over.py::the_recipes_are"),
]
PRINTED = [(page, command) for page in PAGES for command in commands(page)]


def printed(pattern, *pages):
    """Return the commands of some pages (all) that fit, at least one."""
    found = [
        command
        for page, command in PRINTED
        if re.fullmatch(pattern, command) and (not pages or page in pages)
    ]
    assert found, pattern
    return found


def runner_of(page, command):
    for pages, pattern, test in RUN_BY:
        if fnmatch.fnmatch(page, pages) and re.fullmatch(
            pattern, command, re.S
        ):
            return pages, pattern, test
    return None


def test_every_command_is_run():
    used = set()
    for page, command in PRINTED:
        if not re.fullmatch(SET_UP, command):
            used.add(runner_of(page, command))
            assert runner_of(page, command), f"{page}: who runs {command}?"
    assert used == set(RUN_BY)
    for _, _, test in RUN_BY:
        file, _, name = test.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert f"def test_{name}" in text, test
    assert runner_of("README.md", "merit fly RUN") is None


def test_what_set_up_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    metadata = "".join(
        (ROOT / name).read_text() for name in ("setup.py", "pyproject.toml")
    )
    for text in PAGES.values():
        for target in re.findall(r"^make (\w+)", text, re.M):
            assert re.search(rf"^{target}:", makefile, re.M)
        for extras in re.findall(r"pip install -e \"\.\[(.*?)\]\"", text):
            for extra in extras.split(","):
                assert re.search(rf"\b{extra}\"?\s*[:=] \[", metadata), extra
    (default,) = re.findall(r"^HPARAMS \?= (.*)", makefile, re.M)
    assert f"make train   # python train.py {default}" in PAGES["README.md"]
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def inline(page):
    """Return what a page has in code spans."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.M | re.S)
    return [" ".join(x.split()) for x in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", PAGES)
def test_what_the_text_names_is_there(page):
    """Files, modules and options of benchmarks in code spans; links."""
    inside = ("merit_modules", "hparams", "hparams/systems")
    places = [ROOT, (ROOT / page).parent, *(ROOT / name for name in inside)]
    for code in inline(page):
        if found := re.match(r"python (tests/benchmarks/\w+\.py)(.*)", code):
            script = (ROOT / found[1]).read_text()
            for option in re.findall(r"--\w+", found[2]):
                assert f'"{option}"' in script, code
        elif page == "CHANGELOG.md":
            continue  # what was
        elif re.fullmatch(r"merit_modules\.[\w.]+", code):
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)
                assert resolve(code), code
        elif re.fullmatch(r"(?:[\w*-]+/)+[\w*-]+\.(py|yaml)", code):
            assert any(list(place.glob(code)) for place in places), code
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(), re.M)
            assert anchor in [anchor_of(heading) for heading in headings], link


def resolve(name):
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


def anchor_of(heading):
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def test_tables_are_well_formed():
    for page, text in PAGES.items():
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            rows = [
                len(re.findall(r"(?<!\\)\|", line))
                for line in table.splitlines()
            ]
            assert len(set(rows)) == 1 and len(rows) > 2, f"{page}: {table}"
            assert re.fullmatch(r"\|(:?-+:?\|)+", table.splitlines()[1]), page


def test_versions_agree():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    (ruff,) = re.findall(r"ruff-pre-commit\n +rev: v(\S+)", hooks)
    assert f"\nruff=={ruff}\n" in (ROOT / "requirements.txt").read_text()
    assert f"\n## [{__version__}]" in PAGES["CHANGELOG.md"]


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_the_rooms_are_those_of_the_layers_test():
    rows = re.findall(
        r"^\| (\d) \| `(\w+)`", PAGES["docs/architecture.md"], re.M
    )
    tree = ast.parse((ROOT / "tests" / "test_layers.py").read_text())
    (floors,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "FLOORS"
    ]
    assert sorted(rows) == sorted(
        (str(i), room) for i, floor in enumerate(floors) for room in floor
    )


# ---- training, testing, comparing --------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    printed(r"python train\.py hparams/.*", "README.md", "docs/training.md")
    + printed(r"python train\.py hparams/.*", "docs/released_code.md"),
)
def test_trainings(command, miniemo, tmp_path):
    _, _, yaml, *given = shlex.split(command)
    short = {k: v for k, v in SHORT.items() if f"--{k}" not in given}
    extra = [x for k, v in short.items() for x in (f"--{k}", str(v))]
    extra += ["--data_folder", str(miniemo)]
    if "OUT_DIR" in given:
        folder = tmp_path / "converted"
        hparams = load_hparams(
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
    for path in runs:
        options = [*extra, "--data_folder", str(miniemo)]
        done = run_train(f"hparams/{path.name}.yaml", path, *options)
        assert done.returncode == 0, done.stderr[-3000:]
    return runs


@pytest.mark.slow
def test_from_runs_to_the_report(two_runs, tmp_path):
    """Grid, scores and report, by the commands of the page in turn."""
    for command in printed("merit evaluate .*"):
        for path in two_runs:
            if "--removal_conditions" in command and path.name == "naive_mtl":
                continue  # it has no experts
            done = run(fill(command, RUN=path), tmp_path)
            assert done.returncode == 0, done.stderr[-3000:]
    (command,) = printed("merit report .*", "docs/training.md")
    runs = " ".join(map(str, two_runs))
    command = command.replace("RUN [RUN ...]", runs) + " --resamples 200"
    done = run(fill(command, DIR=tmp_path), tmp_path)
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
    assert ">Routing</h2>" in page and page.count("<audio") >= 6


@pytest.mark.slow
def test_mixing_to_disk_and_reading_it(miniemo, tmp_path):
    page = "recipes/noise/README.md"
    (command,) = printed("merit mix .*", page)
    corpus = "--data_folder /corpora/EMO-DB --noise_folder /corpora/noise"
    assert corpus in command
    instead = f"--data_folder {miniemo} --n_sentences 1 --num_workers 0"
    instead += f" --manifest_folder {tmp_path}/manifests"
    command = command.replace(corpus, instead)
    done = run(command.replace("/scratch", str(tmp_path)), ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    names = run_snippets(page, {"/scratch": str(tmp_path)})
    example = names["dataset"][0]
    assert example["noisy_wav"].shape == example["clean_wav"].shape


# ---- in use --------------------------------------------------------------


@pytest.fixture(scope="module")
def model_dir(two_runs, tmp_path_factory):
    """The model of the default command, exported as the README says."""
    folder = tmp_path_factory.mktemp("model") / "model"
    (command,) = printed("merit export .*", "README.md")
    command = fill(command, RUN=two_runs[0], MODEL_DIR=folder)
    done = run(command, folder.parent)
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


def run_snippets(page, places=(), names=(), only=""):
    """Run a page's snippets, one after another, and return their names."""
    names = dict(names)
    for snippet in blocks(page, "python"):
        if only in snippet:
            for place, path in dict(places).items():
                snippet = snippet.replace(place, str(path))
            exec(compile(snippet, page, "exec"), names)
    return names


@pytest.mark.slow
def test_three_lines_of_python(model_dir, recordings, capsys, monkeypatch):
    (snippet,) = [
        s for s in blocks("README.md", "python") if "SparseMERIT" in s
    ]
    assert len(snippet.strip().replace("\n\n", "\n").splitlines()) == 3
    monkeypatch.chdir(recordings)
    places = {"MODEL_DIR": model_dir}
    model = run_snippets("README.md", places, only="SparseMERIT")["model"]
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
def test_commands_in_use(model_dir, recordings, tmp_path):
    (command,) = printed("merit analyze .*")
    out = tmp_path / "out"
    places = {"RECORDINGS": recordings, "MODEL_DIR": model_dir, "DIR": out}
    done = run(fill(command, **places), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (out / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["label"] in ("angry", "sad", "happy", "neutral")
    assert (out / "noisy.wav").is_file()


@pytest.mark.slow
def test_a_pipe(model_dir, recordings):
    (command,) = printed("ffmpeg .*")
    shim = "ffmpeg() { cat noisy.wav; }\n"
    done = run(shim + fill(command, MODEL=model_dir), recordings)
    assert done.returncode == 0, done.stderr[-3000:]
    lengths = [
        soundfile.info(recordings / name).frames
        for name in ("noisy.wav", "talk.wav")
    ]
    assert lengths[0] == lengths[1]


@pytest.mark.slow
def test_inference_snippets(model_dir, recordings, capsys, monkeypatch):
    monkeypatch.chdir(recordings)
    blocks_of_sound = np.zeros((4, 24000), dtype=np.float32)
    names = run_snippets(
        "docs/inference.md",
        {"MODEL_DIR": model_dir},
        {"microphone": list(blocks_of_sound)},
    )
    assert names["found"].emotion.label in capsys.readouterr().out
    assert names["session"].latency_s == pytest.approx(1.6, abs=0.05)
    assert names["rest"].emotion.label in names["model"].labels


@pytest.mark.slow
def test_onnx_snippets(model_dir, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    wav = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    names = run_snippets(
        "docs/onnx.md", {"MODEL_DIR": model_dir}, {"wav": 0.1 * wav}
    )
    assert names["found"].enhanced.shape == wav.shape
    assert names["found"].label in ("angry", "sad", "happy", "neutral")


def test_the_parts_snippet(capsys):
    run_snippets("README.md", only="ExpertMixture(")
    assert capsys.readouterr().out.startswith("torch.Size([2, 99, 256])")


def test_the_mask_snippet(capsys):
    run_snippets("docs/speechbrain.md")
    assert capsys.readouterr().out == "torch.Size([2, 101, 201])\n"


@pytest.mark.slow
def test_a_release(tmp_path):
    page, tensors = "docs/released_code.md", (wavlm_tensors(), mmoe_tensors())
    release = write_model(tmp_path / "release", *tensors, head_tensors())
    batch = {"wavs": torch.randn(2, 8000), "wav_lens": torch.ones(2)}
    names = run_snippets(page, {"RELEASE_DIR": release}, batch)
    assert names["out"].logits.shape == (2, 2)
    assert names["out"].enhanced_wavs.shape == (2, 8000)
    (command,) = printed("merit convert .*")
    out = tmp_path / "out"
    done = run(fill(command, RELEASE_DIR=release, OUT_DIR=out), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "hyperparams.yaml").is_file()


def test_every_snippet_is_run():
    counts = {page: len(blocks(page, "python")) for page in PAGES}
    assert {page: n for page, n in counts.items() if n} == {
        "README.md": 2,
        "docs/inference.md": 2,
        "docs/onnx.md": 2,
        "docs/released_code.md": 1,
        "docs/speechbrain.md": 1,
        "recipes/noise/README.md": 1,
    }

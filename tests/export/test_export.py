"""Finished runs as folders for other people: weights, YAML, card."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from speechbrain.inference.interfaces import Pretrained

from merit_modules.commands.__main__ import main
from merit_modules.errors import InputError
from merit_modules.export import export_run
from merit_modules.export.averaging import load_chosen, mean_state
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import load_folder
from merit_modules.training import experiment
from merit_modules.training.checkpoints import find_best
from tests.conftest import ROOT
from tests.helpers.exported import (
    CLASSES,
    card_of,
    write_manifests,
    write_results,
    write_run,
)
from tests.helpers.training import NAMES, run_short

pytestmark = pytest.mark.slow


def outputs(system):
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(2, 6000, generator=generator)
    lens = torch.tensor([1.0, 0.7])
    with torch.no_grad():
        out = system.eval()(wavs, lens)
    found = {} if out.logits is None else {"logits": out.logits}
    if out.enhancement is not None:
        found["wavs"] = system.enhanced_wavs(out, 6000)
    return found


# ---- every system ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_system_exports_and_loads(name, tmp_path, capsys):
    run = write_run(tmp_path / "run", name)
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    assert "Written" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    wanted = ["README.md", "about.json", "custom.py", "hyperparams.yaml"]
    assert names == [*wanted, "model.safetensors"]
    shutil.rmtree(run)
    found = load_folder(tmp_path / "model")
    loaded = found["system"]
    assert ("logits" in outputs(loaded)) == (not name.startswith("se_"))
    assert ("wavs" in outputs(loaded)) == (not name.startswith("ser_"))
    described = (ROOT / "hparams" / f"{name}.yaml").read_text()
    assert f"\nsystem_name: {found['system_name']}\n" in described
    assert found["corpus_name"] == "MiniEmo"
    again = SparseMERIT.from_hparams(source=tmp_path / "model")
    plain = Pretrained.from_hparams(
        source=str(tmp_path / "model"), savedir=str(tmp_path / "collected")
    )
    for other in (again.mods.system, plain.mods.system):
        other.requires_grad_(True)  # frozen weights take another kernel
        torch.testing.assert_close(outputs(loaded), outputs(other))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse_merit", "cascade"])
def test_the_weights_are_those_of_the_best_checkpoint(name, tmp_path):
    run = write_run(tmp_path / "run", name, n_checkpoints=3)
    exported = export_run(run, tmp_path / "model")
    assert exported.weights.epochs == [1]
    system = load_folder(tmp_path / "model")["system"]
    assert system.ser_head.classifier[-1].bias.unique().item() == 1
    best = sorted((run / "save").glob("CKPT+*"))[0]
    best = torch.load(best / "system.ckpt", weights_only=True)
    state = system.state_dict()
    assert state.keys() == best.keys()
    assert all(torch.equal(state[k], best[k]) for k in best)


def test_what_the_yaml_states(tmp_path):
    run = write_run(tmp_path / "run")
    export_run(run, tmp_path / "model")
    model = SparseMERIT.from_hparams(source=tmp_path / "model")
    assert model.labels == list(CLASSES)
    assert model.corpus_name == "MiniEmo"
    encoder = model.hparams.label_encoder
    assert encoder.decode_torch(torch.tensor([3, 0])) == ["neutral", "angry"]
    assert encoder.encode_label("happy") == 2
    assert model.hparams.ser_target == "emotion"
    assert not hasattr(model.hparams, "attribute_scale")
    about = json.loads((tmp_path / "model" / "about.json").read_text())
    assert about["epochs"] == [1] and about["seed"] == 1234
    assert about["versions"]["torch"] == torch.__version__


def test_a_system_without_classes_has_no_encoder(tmp_path):
    export_run(write_run(tmp_path / "run", "se_only"), tmp_path / "model")
    found = load_folder(tmp_path / "model")
    assert found["labels"] == []
    assert "label_encoder" not in found and "ser_target" not in found
    data, text = card_of(tmp_path / "model")
    assert data.pipeline_tag == "audio-to-audio"
    assert "speech-emotion-recognition" not in data.tags
    assert "emotion" not in text.replace("the emotions are acted", "").lower()
    assert "model.enhance(" in text


@pytest.mark.slow
def test_soft_classes(tmp_path):
    run = write_run(tmp_path / "run", ser_target="soft_emotion")
    export_run(run, tmp_path / "model")
    model = SparseMERIT.from_hparams(source=tmp_path / "model")
    assert model.hparams.ser_target == "soft_emotion"
    assert model.classify(torch.randn(8000)).label in CLASSES


@pytest.mark.slow
def test_attributes(tmp_path):
    run = write_run(
        tmp_path / "run",
        ser_target="attributes",
        ser_outputs=["act", "val"],
        attribute_scale=[1.0, 5.0],
    )
    export_run(run, tmp_path / "model")
    model = SparseMERIT.from_hparams(source=tmp_path / "model")
    found = model.classify(torch.randn(8000)).attributes
    assert list(found) == ["act", "val"]
    assert all(0 < value < 6 for value in found.values())
    assert not hasattr(model.hparams, "label_encoder")
    _, text = card_of(tmp_path / "model")
    assert "`act`, `val`; on a scale of 1 to 5" in text
    assert "found.emotion.attributes" in text


@pytest.mark.slow
def test_a_folder_needs_no_part_of_the_training(tmp_path):
    export_run(write_run(tmp_path / "run", "cascade"), tmp_path / "model")
    code = (
        "import sys\n"
        "from merit_modules.inference import SparseMERIT\n"
        "SparseMERIT.from_hparams(source=sys.argv[1])\n"
        "print(*[name for name in sys.modules if 'merit_modules' in name])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {n.removeprefix("merit_modules.") for n in found.stdout.split()}
    assert "inference.interface" in loaded
    training = {"brain", "recipe", "evaluation", "export", "targets", "losses"}
    data = {"mixing", "manifest", "pipelines", "preparation", "paired"}
    assert not loaded & (training | {f"data.{name}" for name in data})


# ---- runs that are not where or what they were ----------------------------


@pytest.mark.slow
def test_a_run_that_was_moved(tmp_path):
    run = write_run(tmp_path / "run", "cascade")
    export_run(run, tmp_path / "before")
    run.rename(tmp_path / "moved")
    export_run(tmp_path / "moved", tmp_path / "after")
    one, other = (load_folder(tmp_path / n) for n in ("before", "after"))
    assert all(
        torch.equal(value, other["system"].state_dict()[key])
        for key, value in one["system"].state_dict().items()
    )


@pytest.mark.slow
def test_exporting_leaves_the_run_and_chance_as_they_were(tmp_path):
    run = write_run(tmp_path / "run", "cascade")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    torch.manual_seed(5)
    export_run(run, tmp_path / "model")
    drawn = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(2))
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


@pytest.fixture
def own_corpus(tmp_path, monkeypatch):
    """A run on a CSV file, whose recipe and corpus are gone."""
    recipe_folder = ROOT / "recipes" / "Manifest" / "joint_se_ser"
    csv = tmp_path / "list.csv"
    csv.write_text("wav,emo\na.wav,calm\nb.wav,tense\n")
    loaded = set(sys.modules)
    with monkeypatch.context() as context:
        context.syspath_prepend(str(recipe_folder))
        run = write_run(
            tmp_path / "run",
            corpus=recipe_folder / "hparams" / "sparse_merit_small.yaml",
            manifest_csv=str(csv),
            noise_folder="gone",
        )
    csv.unlink()
    # Gone again, unless other tests had them before.
    for name in set(sys.modules) - loaded:
        if name.startswith("manifest_"):
            del sys.modules[name]
    return run


def test_classes_that_only_the_results_tell(own_corpus, tmp_path):
    write_results(own_corpus, classes=("calm", "tense"))
    export_run(own_corpus, tmp_path / "model")
    assert load_folder(tmp_path / "model")["labels"] == ["calm", "tense"]
    with pytest.raises(InputError, match="says calm, tense, got tense, calm"):
        export_run(own_corpus, tmp_path / "model", labels=["tense", "calm"])


def test_classes_that_nobody_tells(own_corpus, tmp_path):
    with pytest.raises(InputError, match="give them with --labels"):
        export_run(own_corpus, tmp_path / "model")
    arguments = ["export", str(own_corpus), str(tmp_path / "model")]
    about = "{language: [fr], licence: cc-by-4.0, kind: acted}"
    options = ["--labels", "calm", "tense", "--corpus_about", about]
    assert main(arguments + options) == 0
    assert load_folder(tmp_path / "model")["labels"] == ["calm", "tense"]
    data, text = card_of(tmp_path / "model")
    assert (data.license, data.language) == ("cc-by-4.0", ["fr"])
    assert "licence cc-by-4.0" in text
    with pytest.raises(InputError, match=r"expected \(3, 8\)"):
        export_run(own_corpus, tmp_path / "model", labels=["a", "b", "c"])


def test_what_is_missing_is_named(tmp_path, capsys):
    assert main(["export", str(tmp_path), str(tmp_path / "model")]) == 2
    assert "no run: it has no file composed.yaml" in capsys.readouterr().err
    run = write_run(tmp_path / "run")
    (run / "overrides.yaml").rename(run / "kept")
    with pytest.raises(InputError, match="has no file overrides.yaml"):
        export_run(run, tmp_path / "model")
    (run / "kept").rename(run / "overrides.yaml")
    (run / "results.json").write_text("{")
    with pytest.raises(InputError, match="results.json: damaged"):
        export_run(run, tmp_path / "model")
    (run / "results.json").unlink()
    shutil.rmtree(next((run / "save").glob("CKPT+*")))
    with pytest.raises(InputError, match="save: no checkpoint .* nothing to"):
        export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_foreign_folders_are_spared_and_own_ones_replaced(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        export_run(run, tmp_path / "other")
    assert (tmp_path / "other" / "README.md").read_text() == "mine"
    export_run(run, tmp_path / "model")
    export_run(write_results(run), tmp_path / "model")
    assert "0.432" in (tmp_path / "model" / "README.md").read_text()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="found notes.txt"):
        export_run(run, tmp_path / "model")


# ---- several checkpoints --------------------------------------------------


def test_average_worked_by_hand(tmp_path):
    run = write_run(tmp_path / "run", n_checkpoints=4)
    export_run(run, tmp_path / "model", average=3)
    system = load_folder(tmp_path / "model")["system"]
    # Epochs 1, 2 and 3 are the best; their biases are their numbers.
    assert system.ser_head.classifier[-1].bias.unique().item() == 2
    text = card_of(tmp_path / "model")[1]
    assert "mean of the checkpoints of epochs 1, 2, 3" in text
    about = json.loads((tmp_path / "model" / "about.json").read_text())
    assert about["epochs"] == [1, 2, 3]


def test_mean_of_states():
    half = torch.float16
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(4)},
        {"w": torch.tensor([2.0, 4.0]), "n": torch.tensor(9)},
    ]
    mean = mean_state(states)
    assert mean["w"].tolist() == [1.5, 3.0] and mean["n"].item() == 4
    # Of large half-precision numbers the sum alone would overflow.
    large = [{"w": torch.tensor([60000.0], dtype=half)}] * 2
    assert mean_state(large)["w"].item() == 60000
    with pytest.raises(InputError, match="checkpoint 2 .* w: missing"):
        mean_state([{"w": torch.ones(1)}, {}])


def test_more_than_there_are(tmp_path):
    run = write_run(tmp_path / "run", n_checkpoints=2)
    with pytest.raises(InputError, match="3 checkpoints, found 2: train with"):
        export_run(run, tmp_path / "model", average=3)
    with pytest.raises(InputError, match="keep_checkpoints 3"):
        export_run(run, tmp_path / "model", average=3)
    with pytest.raises(InputError, match="average: expected 1 or more, got 0"):
        export_run(run, tmp_path / "model", average=0)


def test_a_checkpoint_of_another_system(tmp_path):
    run = write_run(tmp_path / "run")
    checkpointer = experiment.load_run(run)["checkpointer"]
    with pytest.raises(InputError, match="CKPT.*does not fit: .*weight"):
        load_chosen(torch.nn.Linear(2, 2), checkpointer, "uar")


@pytest.mark.slow
def test_training_keeps_as_many_as_asked(miniemo, tmp_path):
    brain = run_short(
        "sparse_merit",
        miniemo,
        tmp_path / "run",
        keep_checkpoints=2,
        stage_2_epochs=2,
        checkpoint_score="loss",
    )
    kept = find_best(brain.checkpointer, "loss", "min")
    # The last one is there to go on from, whether it is among the best.
    epochs = [checkpoint.meta["epoch"] for checkpoint in kept]
    assert len(kept) == (2 if 3 in epochs[:2] else 3) and 3 in epochs
    run = export_run(tmp_path / "run", tmp_path / "model", average=2)
    assert run.weights.epochs == epochs[:2]
    states = [
        torch.load(checkpoint.paramfiles["system"], weights_only=True)
        for checkpoint in kept[:2]
    ]
    found = load_folder(tmp_path / "model")["system"].state_dict()
    for name, value in found.items():
        expected = (states[0][name] + states[1][name]) / 2
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    best = export_run(tmp_path / "run", tmp_path / "best")
    expected = brain.system.state_dict()  # of the best, after its test
    for name, value in best.system.state_dict().items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("number", [0, "all", None])
def test_numbers_of_checkpoints_that_cannot_be(number, miniemo, tmp_path):
    with pytest.raises(InputError, match="keep_checkpoints: expected 1 or"):
        run_short("ser_only", miniemo, tmp_path, keep_checkpoints=number)


# ---- the card -------------------------------------------------------------


def test_the_card_holds_the_results(tmp_path):
    run = write_results(write_run(tmp_path / "run"))
    export_run(run, tmp_path / "model")
    data, text = card_of(tmp_path / "model")
    scores = {r.metric_name: r.metric_value for r in data.eval_results}
    assert scores["UAR"] == 0.4321 and scores["SI-SDR in dB"] == 7.65
    (conditions,) = {r.dataset_config for r in data.eval_results}
    assert conditions == "unseen_0dB"
    assert set(data.metrics) == {"f1", "recall", "si_sdr"}
    assert data.library_name == "speechbrain"
    assert (data.license, data.language) == ("other", ["en"])
    assert data.datasets == ["MiniEmo"]
    assert "| unseen_0dB | 3 |" in text and "0.432" in text
    assert "7.65 -> 7.65" in text
    assert "torch 9.8.7" in text
    assert "These results were" not in text


def test_the_card_tells_of_data_and_limits(tmp_path):
    export_run(write_run(tmp_path / "run"), tmp_path / "model")
    _, text = card_of(tmp_path / "model")
    # 15 utterances of 13 s, cut to 12 s.
    assert "train: 15 utterances, 3.0 minutes, 3 speakers." in text
    assert "trained from random weights on 3.0 minutes of speech by 3" in text
    assert "1 recordings, 0.5 minutes (rain)" in text
    assert "SNR of -15 to 30 dB" in text
    assert "the speech is synthetic; language: en" in text
    assert "not for decisions about people" in text
    assert "has not been tested" in text
    assert "1 epochs of 2 that were planned" in text
    assert 'from_hparams(source="model")' in text
    assert "`angry`, `sad`, `happy`, `neutral`" in text
    for word in ("TODO", "None", "null", "{", "placeholder"):
        assert word not in text


def test_results_of_other_weights_are_told_apart(tmp_path):
    run = write_results(write_run(tmp_path / "run", n_checkpoints=2), epoch=2)
    export_run(run, tmp_path / "model")
    data, text = card_of(tmp_path / "model")
    assert data.eval_results is None
    assert "measured with another checkpoint (epoch 2)" in text
    export_run(write_results(run, epoch=1), tmp_path / "model", average=2)
    data, text = card_of(tmp_path / "model")
    assert data.eval_results is None
    assert "measured with the best checkpoint alone" in text


@pytest.mark.slow
def test_what_is_not_known_is_said_to_be_unknown(tmp_path):
    run = write_run(tmp_path / "run", corpus_about=None)
    shutil.rmtree(run / "save" / "manifests")
    export_run(run, tmp_path / "model")
    data, text = card_of(tmp_path / "model")
    assert data.license == "other" and data.language is None
    assert "language: not stated; access: not stated" in text
    assert "train: not known" in text and "licence not stated" in text
    assert "unknown language" in text


@pytest.mark.slow
def test_facts_that_are_none(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match="expected some of kind.*got 'sound'"):
        export_run(run, tmp_path / "model", about={"sound": "good"})
    with pytest.raises(InputError, match="kind: expected one of acted"):
        export_run(run, tmp_path / "model", about={"kind": "real"})


@pytest.mark.slow
def test_a_pretrained_encoder_is_named(tmp_path):
    export_run(write_run(tmp_path / "run"), tmp_path / "model")
    start = load_folder(tmp_path / "model")["system"].ssl_encoder
    start.model.save_pretrained(tmp_path / "wavlm-mine")
    path = ROOT / "hparams" / "sparse_merit_base.yaml"
    run = write_run(
        tmp_path / "other",
        corpus=path,
        ssl_source=str(tmp_path / "wavlm-mine"),
        ssl_encoder={},
    )
    export_run(run, tmp_path / "second")
    _, text = card_of(tmp_path / "second")
    assert "pre-trained (wavlm-mine)" in text and str(tmp_path) not in text
    assert "the licence of those weights holds" in text
    assert "from random weights" not in text


def test_names_are_no_markup(tmp_path):
    """Whatever names and facts a run has, its card shows them as text."""
    evil = "x\n---\n<script>alert(1)</script> [y](javascript:z) `q` | \x1b[2J"
    facts = dict.fromkeys(("licence", "access", "url", "citation"), evil)
    facts |= {"language": [evil], "kind": "acted"}
    run = write_run(tmp_path / "run", corpus_name=evil, system_name=evil)
    labels = [evil, "a`b", "=c", "d"]
    manifests = run / "save" / "manifests"
    write_manifests(manifests, labels)
    write_results(run)
    results = json.loads((run / "results.json").read_text())
    results["emotions"] = results["labels"] = labels
    results["conditions"][0]["name"] = evil
    results["versions"] = {evil: evil}
    (run / "results.json").write_text(json.dumps(results))
    folder = tmp_path / "m'`\x1b[2J"
    export_run(run, folder, about=facts)
    data, text = card_of(folder)[0], (folder / "README.md").read_text()
    assert data.datasets is None and data.language == [evil]
    text = ModelCard(text).text
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    tokens = reader.enable("table").parse(text)
    tokens += [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in tokens}
    assert "table_open" in kinds
    assert not kinds & {"html_block", "html_inline", "link_open", "hr"}
    n_cells = [token.type for token in tokens].count("td_open")
    n_columns = [token.type for token in tokens].count("th_open")
    assert n_cells == n_columns * len(results["conditions"])
    assert "\x1b" not in text
    export_run(run, folder, about={"url": "https://x.org/a_(b)"})
    assert "<https://x.org/a_(b)>" in card_of(folder)[1]

"""Every system trains on every corpus, by the command that its page states."""

import shlex

import numpy as np
import pytest
import soundfile

from merit_modules.hparams import keys_of
from merit_modules.ssl import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL
from merit_modules.training import recipe
from tests.conftest import ROOT
from tests.helpers.copies import sections
from tests.helpers.experiments import EXPERIMENTS, SYSTEMS, name_of
from tests.helpers.iemocap import build_release

pytestmark = pytest.mark.slow
#: What makes a training one step of a tiny system; keys that a file has.
TINY = {
    "num_workers": 0,
    "num_metric_workers": 0,
    "metrics": "[si_sdr_db]",
    "test_snrs_db": "[0]",
    "test_clean": False,
    "n_examples": 0,
    "grad_accumulation_factor": 1,
    "gradient_conflict_interval": 0,
    "expert_hidden": 32,
    "expert_output": 16,  # as wide as a layer
    "se_hidden": 8,
    "ser_hidden": 8,
    "n_sentences": 1,
    "tensorboard_logger": "null",
}


def write_tone(path, rng, n_samples=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(np.arange(n_samples) * rng.uniform(0.05, 0.2))
    soundfile.write(path, 0.1 * tone, 16000)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The smallest trees of four corpora's forms, noise and an encoder."""
    folder, rng = tmp_path_factory.mktemp("corpora"), np.random.default_rng(0)
    for number in range(6):
        path = folder / "noise" / f"n{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.normal(size=20000), 20000)
    for speaker in ("03", "08", "09", *map(str, range(10, 17))):
        for letter in "WTFN":
            name = f"{speaker}a01{letter}a.wav"
            write_tone(folder / "EMO-DB" / "wav" / name, rng)
    build_release(folder / "IEMOCAP_full_release", n_samples=8000)
    msp = folder / "MSP-PODCAST-Publish-1.11"
    lines = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    for split in ("Train", "Development", "Test1", "Test2"):
        for number, emotion in enumerate("ASHN"):
            name = f"MSP-PODCAST_{split}_{number:04d}.wav"
            lines.append(f"{name},{emotion},3,4,5,{number},Male,{split}")
            write_tone(msp / "Audios" / name, rng)
    (msp / "Labels").mkdir()
    table = msp / "Labels" / "labels_consensus.csv"
    table.write_text("\n".join(lines) + "\n")
    rows = ["wav,emo,spk_id,split"]
    for split in ("train", "valid", "test"):
        for emotion in ("calm", "tense"):
            name = f"{split}_{emotion}.wav"
            rows.append(f"{name},{emotion},{split},{split}")
            write_tone(folder / "mine" / name, rng)
    (folder / "mine" / "list.csv").write_text("\n".join(rows) + "\n")
    RandomSSLEncoder("wavlm", TINY_SSL).model.save_pretrained(folder / "ssl")
    return folder


def command_of(path):
    """Read the command from a file's head: the words after train.py."""
    head, _ = sections(path.read_text())
    text = head[head.index("python train.py") :]
    words = shlex.split(text.replace("#", " ").replace("\\\n", " "))
    return words[3:]


@pytest.mark.parametrize(
    "path", [p for p in EXPERIMENTS if p.stem in SYSTEMS], ids=name_of
)
def test_a_step_by_the_documented_command(
    path, corpora, miniemo, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(str(path.parents[1]))
    words = [w.replace("/corpora", str(corpora)) for w in command_of(path)]
    known = keys_of(path.read_text())
    options = {**TINY, "output_folder": tmp_path}
    options["ssl_source"] = corpora / "ssl"
    if path.parent == ROOT / "hparams":
        options["data_folder"] = miniemo
    for key, value in options.items():
        words += [f"--{key}", str(value)] if key in known else []
    run_options = ["--debug", "--debug_batches", "1", "--debug_epochs", "1"]
    done = recipe.main([str(path), *words, *run_options, "--noprogressbar"])
    assert done["system"] == path.stem
    (condition,) = {entry["snr_db"] for entry in done["conditions"]}
    assert condition == 0


def test_the_pages_compare_every_system():
    for name in ("IEMOCAP", "MSP-Podcast"):
        page = ROOT / "recipes" / name / "joint_se_ser" / "README.md"
        text = page.read_text()
        loop = text[text.index("for system in") :]
        named = loop[: loop.index("; do")].replace("\\\n", " ").split()[3:]
        assert set(named) == SYSTEMS
        options = loop[loop.index("train.py") : loop.index("done")]
        for path in page.parent.glob("hparams/*.yaml"):
            if path.stem in SYSTEMS:
                for word in command_of(path):
                    assert word in options, (path, word)

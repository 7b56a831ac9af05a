"""The recipes as a contribution: laid over a checkout of SpeechBrain."""

import csv
import doctest
import importlib
import re
import runpy
import subprocess
import sys

import pytest
import torch
import yaml as pyyaml
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes import models
from yamllint import linter
from yamllint.config import YamlLintConfig

from merit_modules import moe
from merit_modules.hparams import load_hparams
from tests.conftest import ROOT
from tests.helpers.experiments import EXPERIMENTS, overrides_of
from tests.helpers.pages import PAGES

#: The rules of SpeechBrain 1.1.
RULES = """
extends: default
rules:
  document-start: {present: False}
  truthy: {allowed-values: ['True', 'False'], level: error}
  comments: disable
  comments-indentation: disable
  line-length: {level: warning, allow-non-breakable-inline-mappings: True}
"""
HEAD = (
    "Task,Dataset,Script_file,Hparam_file,Data_prep_file,Readme_file,"
    "Result_url,HF_repo,test_debug_flags,test_debug_checks,performance\n"
)
OTHERS = "Emotion,IEMOCAP,a.py,a.yaml,b.py,README.md,,,--x=1,,\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the command looks for in a checkout."""
    folder = tmp_path_factory.mktemp("speechbrain")
    rows = folder / "tests" / "recipes" / "IEMOCAP.csv"
    rows.parent.mkdir(parents=True)
    rows.write_text(HEAD + OTHERS)
    (folder / "pyproject.toml").write_text(
        "[tool.ruff]\nline-length = 80\n[tool.ruff.lint.isort]\n"
        'known-first-party = ["speechbrain"]\n'
    )
    (folder / "speechbrain" / "lobes" / "models").mkdir(parents=True)
    command = [sys.executable, ROOT / "recipes" / "lay_over.py", folder]
    for _ in range(2):  # a second time changes nothing
        subprocess.run([*command, "--lobes"], check=True)
    return folder


def rows_of(checkout):
    for path in sorted((checkout / "tests" / "recipes").glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as stream:
            yield from csv.DictReader(stream)


def test_the_recipes_are_laid_over(checkout):
    rows = list(rows_of(checkout))
    assert rows[0]["Hparam_file"] != OTHERS and len(rows) == len(
        {row["Hparam_file"] for row in rows}
    )
    ours = [row for row in rows if "joint_se_ser" in row["Script_file"]]
    recipes = [p for p in EXPERIMENTS if "recipes" in p.parts]
    assert len(ours) == len(recipes) == len(rows) - 1
    for row in ours:
        for column in ("Script", "Hparam", "Data_prep", "Readme"):
            assert (checkout / row[f"{column}_file"]).is_file()
        assert "--skip_prep=True" in row["test_debug_flags"]
        folder = (checkout / row["Script_file"]).parent
        assert (folder / "extra_requirements.txt").is_file()
        for script in folder.glob("*_prepare.py"):
            assert "Authors\n * " in script.read_text()


def test_nothing_leads_out_of_a_recipe(checkout):
    for path in checkout.glob("recipes/**/*"):
        if path.is_file():
            assert "../.." not in path.read_text(encoding="utf-8"), path
    page = PAGES["recipes/IEMOCAP/joint_se_ser/README.md"]
    assert "](../.." in page  # here it does


def test_the_checkout_s_order_of_imports(checkout):
    for path in checkout.glob("recipes/*/joint_se_ser/train.py"):
        text = path.read_text()
        assert text.index("hyperpyyaml") < text.index("import speechbrain as")


def test_another_folder_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "recipes" / "lay_over.py", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}: expected a checkout of SpeechBrain\n"


def test_every_row_s_options_are_keys_of_its_file(tmp_path, monkeypatch):
    """SpeechBrain loads each YAML file with them."""
    flags_of = runpy.run_path(str(ROOT / "recipes" / "lay_over.py"))["flags_of"]
    for path in EXPERIMENTS:
        if "recipes" not in path.parts or "_small" not in path.stem:
            continue
        monkeypatch.syspath_prepend(str(path.parents[1]))
        flags = re.findall(r"--(\w+)=(\S+)", flags_of(path.read_text()))
        options = {key: pyyaml.safe_load(value) for key, value in flags}
        options["output_folder"] = str(tmp_path)
        with open(path, encoding="utf-8") as stream:
            hparams = load_hyperpyyaml(stream, options)
        assert len(hparams["ser_outputs"]) == 4
    with pytest.raises(Exception, match="no key 'skip_preparation'"):
        load_hparams(
            path, {**overrides_of(path, tmp_path), "skip_preparation": 1}
        )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_yamllint_with_speechbrain_s_rules(path):
    config = YamlLintConfig(RULES)
    problems = list(linter.run(path.read_text(), config))
    assert not [p for p in problems if p.level == "error"], problems
    wrong = path.read_text() + "other: true\n"
    assert [p for p in linter.run(wrong, config) if p.level == "error"]


def test_words_are_spelt_right(tmp_path):
    places = [ROOT / name for name in ("recipes", "hparams", "train.py")]
    spell = [sys.executable, "-m", "codespell_lib", "-L", "ser"]
    done = subprocess.run([*spell, *places], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "wrong.md").write_text("recieve")
    assert subprocess.run([*spell, tmp_path], capture_output=True).returncode


def test_the_lobes_are_the_same_without_the_package(checkout, monkeypatch):
    place = checkout / "speechbrain" / "lobes" / "models"
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(place)])
    name = "speechbrain.lobes.models.sparse_merit"
    theirs = {
        path.stem: importlib.import_module(f"{name}.{path.stem}")
        for path in sorted((place / "sparse_merit").glob("[a-z]*.py"))
    }
    assert len(theirs) == 10
    for path in (place / "sparse_merit").glob("*.py"):
        text = path.read_text()
        assert "merit_modules" not in text and "onednn" not in text, path
        assert "Authors\n * " in text
    module, tests = theirs["mixture"], doctest.DocTestFinder()
    for module in theirs.values():
        for test in tests.find(module, extraglobs={"torch": torch}):
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert not doctest.DocTestRunner(optionflags=flags).run(test).failed

    def built(layer_mix, experts, routers, mixture):
        torch.manual_seed(0)
        return mixture.ExpertMixture(
            layer_mix.LayerNormConcat(3, 8),
            experts.ExpertPool(3, 24, 16, 6),
            {"ser": routers.TopKRouter(24, 3)},
        )

    ours = built(moe.layer_mix, moe.experts, moe.routers, moe.mixture)
    parts = ("layer_mix", "experts", "routers", "mixture")
    other = built(*(theirs[part] for part in parts))
    layers, lengths = torch.randn(3, 2, 50, 8), torch.tensor([1.0, 0.6])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            both = [part(layers, lengths) for part in (ours, other)]
        torch.testing.assert_close(*both, atol=1e-6, rtol=0)

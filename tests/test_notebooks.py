"""The notebooks run from top to bottom, and are kept without outputs."""

import json
import re
import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest

from merit_modules.hparams import keys_of
from tests.conftest import ROOT

NOTEBOOKS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}


def text_of(cell):
    return "".join(cell["source"])


def run_cells(notebook, **options):
    """Run the code of a notebook, with some other values in its OPTIONS."""
    names = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(text_of(cell), cell["id"], "exec"), names)
            if cell["id"] == "options":
                assert options.keys() <= keys_allowed(names["OPTIONS"])
                names["OPTIONS"] |= options
    return names


def keys_allowed(given):
    """Return what OPTIONS may hold: what is there, and keys of the YAML."""
    shipped = (ROOT / "hparams" / "sparse_merit.yaml").read_text()
    return given.keys() | set(keys_of(shipped))


@pytest.fixture
def shown(monkeypatch):
    """Run as Jupyter does, in notebooks/; return what is displayed.

    IPython, which comes with Jupyter, is not needed to run the tests: what the
    notebooks import of it is replaced.
    """
    found = []
    fake = types.ModuleType("IPython.display")
    fake.display = found.append
    fake.Audio = lambda wav, rate: (np.asarray(wav), rate)
    # Not IPython itself: where that is loaded, matplotlib asks it much.
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    backend = plt.get_backend()
    plt.switch_backend("Agg")
    yield found
    plt.close("all")
    plt.switch_backend(backend)


@pytest.mark.slow
def test_a_first_look(shown, miniemo, tmp_path, capsys):
    names = run_cells(
        NOTEBOOKS["first_look"],
        data_folder=str(miniemo),
        output_folder=str(tmp_path / "run"),
        n_sentences=1,
        stage_2_epochs=0,
        test_snrs_db=[0],
        test_clean=False,
        metrics=["si_sdr_db"],
        measure_cost=False,
        num_workers=0,
        num_metric_workers=0,
    )
    noisy, enhanced, clean, figure = shown
    assert noisy[0].shape == enhanced[0].shape == clean[0].shape
    assert all(rate == 16000 for _, rate in (noisy, enhanced, clean))
    assert not np.allclose(noisy[0], enhanced[0])
    assert not np.allclose(noisy[0], clean[0])
    # Three spectrograms; a row per router with the expert of each frame.
    assert set(names["experts"]) == {"se", "ser"}
    for experts in names["experts"].values():
        assert len(experts) == pytest.approx(len(noisy[0]) / 320, abs=2)
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert {"SE expert", "SER expert"} <= set(labels)
    for share in names["shares"].values():
        assert share.sum() == pytest.approx(1)
    assert "unseen_0dB" in capsys.readouterr().out


@pytest.mark.slow
def test_your_own_recipe(shown):
    small = {"n_steps": 12, "batch_size": 4, "duration_s": 1.0}
    names = run_cells(NOTEBOOKS["your_own_recipe"], **small)
    assert names["loss_after"] < names["loss_before"]
    assert set(names["mixture"].routing) == {"se", "ser"}
    for panel in names["panels"]:
        (line,) = panel.get_lines()
        assert len(line.get_xdata()) == names["n_frames"][0] == 49


def test_a_cell_that_fails_is_told():
    cell = {"cell_type": "code", "id": "divide", "source": ["1 / 0\n"]}
    with pytest.raises(ZeroDivisionError) as found:
        run_cells({"cells": [cell]})
    assert str(found.traceback[-1].path).endswith("divide")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_clean(name):
    notebook = NOTEBOOKS[name]
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", x) for x in ids)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_notebooks_name_is_there(name):
    """Files of the clone, targets of make."""
    text = "\n".join(map(text_of, NOTEBOOKS[name]["cells"]))
    named = re.findall(r"[\w/]+\.(?:md|yaml|ipynb|py)\b", text)
    assert named
    for path in named:
        if path != "results.md":  # a run writes it
            assert (ROOT / path).is_file(), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_pages_name_all_notebooks():
    pages = (ROOT / "README.md").read_text()
    pages += (ROOT / "docs" / "speechbrain.md").read_text()
    assert set(NOTEBOOKS) == {"first_look", "your_own_recipe"}
    for name in NOTEBOOKS:
        assert f"notebooks/{name}.ipynb" in pages

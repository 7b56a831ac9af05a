"""The report: what it compares, marks, writes and refuses."""

import csv
import json
import re

import pytest

from merit_modules.commands.__main__ import main as merit
from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.attributes import attribute_scores
from merit_modules.report import write_report
from merit_modules.report.compare import Settings
from merit_modules.report.study import Study
from tests.helpers.runs_on_disk import GRID, scores_of, write_routing, write_run

pytestmark = pytest.mark.slow

QUICK = Settings("base_line", n_resamples=400)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A baseline, a better system, a copy of the baseline; two folds."""
    folder = tmp_path_factory.mktemp("runs")
    for fold in (0, 1):
        write_run(folder / f"b{fold}", "base_line", fold=fold)
        write_run(folder / f"t{fold}", "twin", fold=fold)
        write_run(
            folder / f"g{fold}", "good", fold=fold, skill=0.9, gain_db=3.0
        )
        write_run(folder / f"s{fold}", "ser_only", fold=fold, gain_db=None)
        write_run(folder / f"e{fold}", "se_only", fold=fold, skill=None)
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out the figures: drawing takes longer than all the rest."""
    where = "merit_modules.report.report.draw_all"
    monkeypatch.setattr(where, lambda *args: [])


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return write_report([runs], out, QUICK), out


def test_scores_are_those_of_the_pooled_rows(runs, report):
    content, _ = report
    study = Study([runs])
    condition = study.conditions[0]
    observed, _ = study.shared(condition, "prediction", "f1_macro")
    rows = list(observed["good"].values())
    assert len(rows) == 2 * 96
    cell = content["scores"]["f1_macro"]["good"][condition.name]
    assert cell["score"] == pytest.approx(scores_of(rows)["f1_macro"])
    assert cell["low"] < cell["score"] < cell["high"]
    assert (cell["n"], cell["n_runs"]) == (192, 2)
    found = observed["good"].items()
    two = [
        scores_of([row for key, row in found if key[0] == fold])["f1_macro"]
        for fold in (0, 1)
    ]
    assert cell["std"] == pytest.approx(abs(two[0] - two[1]) / 2**0.5)
    mean = content["scores"]["f1_macro"]["good"]["seen mean"]["score"]
    parts = [
        content["scores"]["f1_macro"]["good"][name]["score"]
        for name in ("seen_-5dB", "seen_5dB")
    ]
    assert mean == pytest.approx(sum(parts) / 2)


def test_columns_are_snrs_by_noise_with_means(report):
    assert report[0]["columns"] == [
        *("seen_-5dB", "seen_5dB", "seen mean"),
        *("unseen_-5dB", "unseen_5dB", "unseen mean", "clean"),
    ]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "test", ["bootstrap", "permutation", "subsets", "mcnemar", "wilcoxon"]
)
def test_a_planted_difference_is_marked_and_a_copy_is_not(runs, tmp_path, test):
    settings = QUICK._replace(test=test)
    scores = write_report([runs], tmp_path, settings)["scores"]
    for name in ("f1_macro", "wa", "si_sdr_db"):
        for column, cell in scores[name]["good"].items():
            assert cell["mark"] == "+", (name, column)
            assert 0 < cell["p_value"] <= cell["p_holm"] < 0.05 or (
                test in ("subsets", "wilcoxon") and cell["p_holm"] < 0.05
            )
            assert ("relative_percent" in cell) == (name != "si_sdr_db")
            assert cell.get("relative_percent", 1) > 0
        for cell in scores[name]["twin"].values():
            assert cell["difference"] == 0
            assert cell["p_holm"] == 1 and cell["mark"] == ""
    assert "mark" not in scores["f1_macro"]["base_line"]["clean"]


def test_systems_with_one_task(report):
    scores = report[0]["scores"]
    assert "se_only" not in scores["f1_macro"]
    assert "ser_only" not in scores["si_sdr_db"]
    noisy = scores["si_sdr_db"]["noisy input"]["unseen_-5dB"]["score"]
    ours = scores["si_sdr_db"]["base_line"]["unseen_-5dB"]["score"]
    assert ours - noisy == pytest.approx(1.0, abs=0.1)
    assert "clean" not in scores["si_sdr_db"]["good"]


def test_all_forms_say_the_same(report):
    content, out = report
    assert json.loads((out / "report.json").read_text()) == json.loads(
        json.dumps(content)
    )
    with open(out / "tables.csv") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        cell = content["scores"][row["score_name"]][row["system"]][
            row["column"]
        ]
        assert float(row["score"]) == cell["score"]
        assert row["mark"] == cell.get("mark", "")
    n_cells = sum(
        len(cells)
        for table in content["scores"].values()
        for cells in table.values()
    )
    assert len(rows) == n_cells
    text = (out / "report.md").read_text()
    score = content["scores"]["f1_macro"]["good"]["clean"]["score"]
    assert re.search(rf"\| good \|.*\*\*{score:.3f}\+ ± 0\.\d+ \[", text)
    tex = (out / "tables.tex").read_text()
    assert r"base\_line" in tex and "base_line" not in tex
    assert f"{score:.3f}+" in tex
    assert tex.count("{") == tex.count("}")
    assert tex.count(r"\begin{tabular}") == len(content["scores"])


def test_what_was_compared_is_said(report):
    text = " ".join(report[0]["about"])
    assert "5 systems, 10 runs" in text
    assert "192 test utterances of 24 speakers in folds 0, 1" in text
    assert "Holm" in text and "base_line" in text
    assert "Caution" not in text
    assert report[0]["cost"]["good"]["macs_per_s"] == 3.0
    # Three systems enhance in two folds; of clean input SI-SDR is infinite.
    assert report[0]["failures"] == [
        ("clean", "noisy", "si_sdr_db", "infinite", 4 * 2 * 96)
    ]


def test_few_speakers_and_other_versions_are_cautioned(tmp_path):
    for i in (0, 1):
        folder = write_run(tmp_path / f"r{i}", f"s{i}", n_speakers=4)
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"torch": "2"', '"torch": "3"'))
    content = write_report([tmp_path], tmp_path / "out", Settings(None))
    text = " ".join(content["about"])
    assert "with 4 speakers" in text and "different versions" in text
    assert "p_value" not in content["scores"]["f1_macro"]["s1"]["clean"]


def test_the_command(runs, tmp_path, capsys):
    out = tmp_path / "out"
    argv = [str(runs), "--baseline", "base_line", "--out", str(out)]
    assert merit(["report", *argv, "--resamples", "200"]) == 0
    printed = capsys.readouterr().out
    assert "f1_macro: good: seen_-5dB 0." in printed
    assert (out / "tables.tex").is_file()
    assert (
        merit(["report", str(runs), "--baseline", "x", "--out", str(out)]) == 2
    )
    assert "baseline: expected one of base_line" in capsys.readouterr().err
    assert merit(["report", str(tmp_path / "no"), "--out", str(out)]) == 2
    assert "no finished run in it" in capsys.readouterr().err


def change(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (("results.json", '"corpus": "C"', '"corpus": "D"'), "of one corpus"),
        (("results.json", '"system": "b"', '"system": "a"'), "there already"),
        (("scores.csv", ",prob_sad", ",prob_joy"), "the same classes"),
        (("scores.csv", "n1.wav", "n99.wav"), "not the same test"),
        (("results.json", '"seed"', '"sead"'), "expected the results"),
        (("scores.csv", ",clean,", ",other,"), "no utterance of condition"),
    ],
)
def test_runs_that_do_not_go_together(tmp_path, spoil, message):
    write_run(tmp_path / "a", "a")
    change(write_run(tmp_path / "b", "b"), *spoil)
    with pytest.raises(InputError, match=message):
        write_report([tmp_path], tmp_path / "out", Settings(None))


def test_only_shared_conditions_count(tmp_path):
    write_run(tmp_path / "a", "a")
    folder = write_run(tmp_path / "b", "b")
    results = json.loads((folder / "results.json").read_text())
    results["conditions"] = results["conditions"][2:]
    (folder / "results.json").write_text(json.dumps(results))
    study = Study([tmp_path])
    assert [c.name for c in study.conditions] == [g[0] for g in GRID[2:]]


def test_a_run_within_a_run_is_no_system(tmp_path):
    folder = write_run(tmp_path / "cascade", "cascade")
    write_run(folder / "se_only", "se_only", skill=None)
    assert Study([tmp_path]).systems == ["cascade"]


def test_gain_over_the_input_is_that_of_the_same_utterances(runs, report):
    cells = report[0]["scores"]["si_sdr_db"]
    gains = report[0]["scores"]["gain_si_sdr_db"]
    for column, cell in gains["good"].items():
        noisy = cells["noisy input"][column]["score"]
        ours = cells["good"][column]["score"]
        assert cell["score"] == pytest.approx(ours - noisy)
        assert cell["score"] == pytest.approx(3.0, abs=0.05)
        assert cell["low"] < cell["score"] < cell["high"]
        assert cell["best"] and "mark" not in cell
    assert set(gains) == {"base_line", "twin", "good", "se_only"}
    assert "clean" not in gains["good"]


def test_emotions_are_scored_one_by_one(runs, report):
    content, out = report
    study = Study([runs])
    asked = study.conditions[0], "prediction", "f1_macro"
    rows = study.shared(*asked)[0]["good"].values()
    found = content["emotions"]["good"]["seen_-5dB"]
    expected = scores_of(list(rows))
    for name in ("f1_per_class", "precision_per_class", "confusion"):
        assert found[name] == expected[name]
    assert 0 <= found["ece"] <= 1
    assert "se_only" not in content["emotions"]
    text = (out / "report.md").read_text()
    mean = sum(
        content["emotions"]["good"][name]["f1_per_class"]["sad"]
        for name in ("seen_-5dB", "seen_5dB")
    )
    row = re.search(r"\| good \| seen mean \|(.*)", text)[1].split("|")
    assert float(row[2]) == pytest.approx(mean / 2, abs=5e-4)


def test_routing_is_told_in_numbers(tmp_path):
    def choose(rng, task, row, n_frames):
        if task == "ser":
            return [0] * n_frames
        return [("angry", "calm_x", "sad").index(row["label"])] * n_frames

    for fold in (0, 1):
        run = write_run(tmp_path / f"r{fold}", "routed", fold=fold)
        write_routing(run, choose)
    write_run(tmp_path / "plain", "plain")
    settings = Settings("plain", n_resamples=100)
    content = write_report([tmp_path], tmp_path / "out", settings)
    assert set(content["routing"]) == {"routed"}
    runs = content["routing"]["routed"]
    assert [run["fold"] for run in runs] == [0, 1]
    for run in runs:
        known = run["tasks"]["se"]["information"]["emotion"]
        assert known["percent"] == pytest.approx(100)
        assert run["tasks"]["ser"]["imbalance"] == 3.0
    text = (tmp_path / "out" / "report.md").read_text()
    row = re.search(r"\| routed \| SE \|(.*)", text)[1].split("|")
    assert row[0].strip() == "2"
    assert re.fullmatch(r" 100\.0\\\* \(\d+\.\d\) ", row[6])
    row = re.search(r"\| routed \| SER \|(.*)", text)[1].split("|")
    assert row[1].strip() == "3.00 ± 0.00"
    removed = re.findall(r"\| routed \| 0 \| 1 \| clean \|(.*)", text)
    assert len(removed) == 4
    assert removed[3].split("|")[:3] == [" expert 2 ", " 0.400 ", " -0.200 "]
    assert (tmp_path / "out" / "figures" / "expert_load_routed.png").is_file()


def test_routing_of_utterances_that_were_not_scored_is_refused(tmp_path):
    run = write_run(tmp_path / "a", "a", n_speakers=2)
    write_routing(run, lambda rng, task, row, n: [0] * n, ["clean"])
    table = (run / "scores.csv").read_text().splitlines(keepends=True)
    kept = [t for t in table if not t.startswith("f0_u003,f0_s1,clean")]
    assert len(kept) == len(table) - 1
    (run / "scores.csv").write_text("".join(kept))
    with pytest.raises(InputError, match="f0_u003 under clean"):
        write_report([run], tmp_path / "out", Settings(n_resamples=10))


@pytest.mark.parametrize("test", ["bootstrap", "subsets", "wilcoxon"])
def test_attributes_are_compared_by_concordance(tmp_path, test, capsys):
    options = {"attributes": True, "n_speakers": 12}
    write_run(tmp_path / "a", "base_line", skill=0.2, **options)
    write_run(tmp_path / "b", "twin", skill=0.2, **options)
    run = write_run(tmp_path / "c", "good", skill=0.9, **options)
    command = [str(tmp_path), "--baseline", "base_line", "--test", test]
    out = tmp_path / "out"
    assert (
        merit(["report", *command, "--out", str(out), "--resamples", "300"])
        == 0
    )
    assert "ccc_arousal: good" in capsys.readouterr().out
    content = json.loads((out / "report.json").read_text())
    assert set(content["scores"]) == {
        *("ccc_arousal", "si_sdr_db", "gain_si_sdr_db"),
    }
    assert content["emotions"] == {}
    cells = content["scores"]["ccc_arousal"]
    assert "noisy input" not in cells
    assert all(cell["mark"] == "+" for cell in cells["good"].values())
    assert all(cell["mark"] == "" for cell in cells["twin"].values())
    with open(run / "scores.csv") as stream:
        rows = [r for r in csv.DictReader(stream) if r["condition"] == "clean"]
    sides = [
        [[float(row[f"{side}_arousal"])] for row in rows]
        for side in ("prediction", "label")
    ]
    expected = attribute_scores(*sides, ["arousal"])["ccc_arousal"]
    assert cells["good"]["clean"]["score"] == pytest.approx(expected)
    assert "CCC, arousal over SNR" in (out / "report.html").read_text()

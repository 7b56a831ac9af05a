"""A report claims nothing that its runs do not show, and says what it left."""

import json
import re

import numpy as np
import pytest

from merit_modules.commands.__main__ import main as merit
from merit_modules.errors import InputError
from merit_modules.report import write_report
from merit_modules.report.compare import TESTS, Column, Comparer, Settings
from merit_modules.report.gallery import draw_all, take_examples
from merit_modules.report.study import Study
from merit_modules.report.writers import Grid
from tests.helpers.runs_on_disk import (
    CLASSES,
    GRID,
    change_results,
    write_examples,
    write_routing,
    write_run,
)

pytestmark = pytest.mark.slow

QUICK = Settings("base", n_resamples=200)
NOISY = "noisy input"


@pytest.fixture
def no_pictures(monkeypatch):
    where = "merit_modules.report.report.draw_all"
    monkeypatch.setattr(where, lambda *args: [])


def drop_conditions(run, *names):
    results = json.loads((run / "results.json").read_text())
    kept = [c for c in results["conditions"] if c["name"] not in names]
    change_results(run, conditions=kept)


def drop_values(run, share, seed=0):
    """Lose scores of enhancement, as failed metrics do."""
    rng = np.random.default_rng(seed)
    first, *rows = (run / "scores.csv").read_text().splitlines()
    rows = [
        r.rpartition(",")[0] + "," if rng.random() < share else r for r in rows
    ]
    (run / "scores.csv").write_text("\n".join([first, *rows]) + "\n")


def check(tables, baseline):
    """Cells, changes, marks and bold say one thing."""
    n_marks = 0
    for name, table in tables.items():
        columns = {column for cells in table.values() for column in cells}
        for column in columns:
            here = {s: c[column] for s, c in table.items() if column in c}
            assert len({cell["n"] for cell in here.values()}) == 1
            assert len({cell["n_runs"] for cell in here.values()}) == 1
            top = max(cell["score"] for cell in here.values())
            for system, cell in here.items():
                if cell.get("best"):
                    assert cell["score"] == pytest.approx(top, abs=1e-12)
                if "difference" not in cell:
                    continue
                reference = here[baseline]
                assert cell["difference"] == pytest.approx(
                    cell["score"] - reference["score"], abs=1e-9
                )
                sign = {"+": 1, "-": -1, "": 0}[cell["mark"]]
                assert sign * cell["difference"] >= 0, (name, system)
                assert not (cell["best"] and sign < 0)
                assert not (reference["best"] and sign > 0)
                if "relative_percent" in cell:
                    assert cell["relative_percent"] * cell["difference"] >= 0
                n_marks += abs(sign)
    return n_marks


# ---- the same runs ----------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_unequal_seeds_are_compared_on_what_both_have(tmp_path):
    """Once 18.57 and, in bold, "19.78- (-0.22)"."""
    runs = tmp_path / "runs"
    write_run(runs / "a1", "base", seed=1, gain_db=3.0)
    write_run(runs / "a2", "base", seed=2, gain_db=0.5)
    write_run(runs / "b1", "other", seed=1, gain_db=2.8, draw=1)
    content = write_report([runs], tmp_path / "out", QUICK)
    check(content["scores"], "base")
    for column, ours in content["scores"]["si_sdr_db"]["other"].items():
        theirs = content["scores"]["si_sdr_db"]["base"][column]
        noisy = content["scores"]["si_sdr_db"][NOISY][column]
        assert theirs["score"] - noisy["score"] == pytest.approx(3.0, abs=0.05)
        assert ours["difference"] == pytest.approx(-0.2, abs=0.05)
        assert (ours["mark"], ours["best"]) == ("-", False)
        assert theirs["best"] and theirs["n_runs"] == 1
    (left,) = content["left_out"]
    assert left["what"] == "fold 0, seed 2" and left["of"] == "base"
    assert left["because"] == "other: no such run"
    assert "F1-macro" in left["scores"] and "SI-SDR, dB" in left["scores"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| fold 0, seed 2 | base | other: no such run |" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "other: no such run" in page


@pytest.mark.parametrize("test", TESTS)
def test_no_mark_contradicts_bold_whatever_is_missing(tmp_path, test):
    rng = np.random.default_rng(3)
    n_marks = 0
    for case in range(2):
        folder = tmp_path / str(case)
        for system in ("base", "b", "c"):
            options = {
                "skill": rng.uniform(0.4, 0.8),
                "gain_db": rng.normal(),
                "n_speakers": 8,
                "n_per_speaker": 5,
                "draw": int(rng.integers(9)),
            }
            for seed in (1, rng.integers(2, 4)):
                run = folder / f"{system}{seed}"
                write_run(run, system, seed=int(seed), **options)
                drop_values(run, 0.1, seed=int(rng.integers(99)))
        settings = QUICK._replace(test=test, n_resamples=200)
        n_marks += check(Comparer(Study([folder]), settings).tables(), "base")
    assert n_marks


def test_failed_metrics_are_left_out_for_all_and_told(tmp_path):
    write_run(tmp_path / "a", "base")
    drop_values(write_run(tmp_path / "b", "other"), 0.1)
    study = Study([tmp_path])
    cells = Comparer(study, QUICK).tables()["si_sdr_db"]
    found = [k for k in study.left_out if k[0].startswith("utterances: ")]
    assert found and {why for _, _, why in found} == {"other: no value"}
    for what, of, _ in found:
        n, column = re.fullmatch(r"utterances: (\d+) of (.+)", what).groups()
        assert of == "base"
        assert {row[column]["n"] for row in cells.values()} == {96 - int(n)}


def test_a_task_of_its_own_takes_nothing_from_the_other(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / f"a{seed}", "base", seed=seed)
    write_run(tmp_path / "b", "se_only", skill=None)
    study = Study([tmp_path])
    tables = Comparer(study, QUICK).tables()
    assert tables["f1_macro"]["base"]["clean"]["n_runs"] == 2
    assert tables["si_sdr_db"]["base"]["seen_5dB"]["n_runs"] == 1
    (about,) = study.left_out
    assert set(study.left_out[about]) == {"si_sdr_db"}


def test_conditions_that_a_run_lacks_are_named(tmp_path):
    write_run(tmp_path / "a", "base")
    write_run(tmp_path / "a2", "base", seed=2)
    drop_conditions(tmp_path / "a2", "clean")
    drop_conditions(write_run(tmp_path / "b", "other", seed=2), "seen_5dB")
    study = Study([tmp_path])
    assert [c.name for c in study.conditions] == [
        name for name, _, _ in GRID if name not in ("clean", "seen_5dB")
    ]
    assert list(study.left_out) == [
        ("condition seen_5dB", "base", "other (fold 0, seed 2): not tested"),
        ("condition clean", "base, other", "base (fold 0, seed 2): not tested"),
    ]
    for run in ("a", "a2"):
        drop_conditions(
            tmp_path / run, "seen_-5dB", "unseen_-5dB", "unseen_5dB"
        )
    with pytest.raises(InputError, match="no test condition in common"):
        Study([tmp_path / "a2", tmp_path / "b"])


@pytest.mark.usefixtures("no_pictures")
def test_nothing_in_common_is_not_compared(tmp_path, capsys):
    write_run(tmp_path / "runs" / "a", "base", seed=1)
    write_run(tmp_path / "runs" / "b", "other", seed=2, gain_db=9.0)
    out = ["--out", str(tmp_path / "out"), "--resamples", "99"]
    argv = [str(tmp_path / "runs"), "--baseline", "base", *out]
    assert merit(["report", *argv]) == 0
    printed = capsys.readouterr().out
    assert "not compared, as the systems have nothing in common" in printed
    assert "Left out: all comparisons of base, other" in printed
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    for table in content["scores"].values():
        for cells in table.values():
            for cell in cells.values():
                assert not {"best", "mark", "difference"} & set(cell)
    assert "**" not in (tmp_path / "out" / "report.md").read_text()


# ---- the noisy input --------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_a_system_that_makes_speech_worse_is_not_best(tmp_path):
    write_run(tmp_path / "runs" / "a", "base", gain_db=-3.0)
    write_run(tmp_path / "runs" / "b", "other", gain_db=-1.0)
    content = write_report([tmp_path / "runs"], tmp_path / "out", QUICK)
    for column, cell in content["scores"]["si_sdr_db"][NOISY].items():
        assert cell["best"], column
        ours = content["scores"]["si_sdr_db"]["other"][column]
        assert ours["mark"] == "+" and not ours["best"]
        gain = content["scores"]["gain_si_sdr_db"]["other"][column]
        assert not gain["best"] and gain["high"] < 0
    (told,) = [t for t in content["findings"] if "no system made" in t]
    assert "seen_-5dB, seen_5dB, unseen_-5dB, unseen_5dB" in told
    text = (tmp_path / "out" / "report.md").read_text()
    part = text.partition("### Gain in SI-SDR, dB\n")[2].partition("\n#")[0]
    assert re.search(r"\| other \| -(0\.9|1\.0)", part) and "**" not in part
    assert "SI-SDR, dB, highest: seen mean: noisy input at" in text


def test_the_gain_has_a_figure_of_its_own(tmp_path):
    write_run(tmp_path / "runs" / "a", "base", n_per_speaker=9, balanced=True)
    study = Study([tmp_path / "runs"])
    comparer = Comparer(study, QUICK)
    tables = comparer.tables()
    drawn = draw_all(study, tables, comparer.columns, {}, tmp_path / "figures")
    titles = [picture.title for picture in drawn]
    assert "Gain in SI-SDR, dB over SNR" in titles
    assert (tmp_path / "figures" / "gain_si_sdr_db_over_snr.pdf").is_file()
    # Balanced classes: one figure for two scores, and a word on it.
    (both,) = [p for p in drawn if "F1-micro" in p.title or "UAR" in p.title]
    assert both.title == "weighted accuracy (F1-micro) and UAR over SNR"
    assert "the same here: one figure" in both.caption


# ---- significance -----------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("test", ["bootstrap", "permutation"])
@pytest.mark.parametrize(
    "n_speakers, n_systems, smallest",
    [(3, 1, 0.25), (5, 1, 0.0625), (6, 2, 0.0625)],
)
def test_no_mark_where_none_is_possible(
    tmp_path, test, n_speakers, n_systems, smallest
):
    options = {"n_speakers": n_speakers, "n_per_speaker": 6}
    write_run(tmp_path / "runs" / "a", "base", gain_db=1.0, **options)
    for i in range(n_systems):
        write_run(
            tmp_path / "runs" / f"b{i}", f"b{i}", gain_db=9.0 + i, **options
        )
    settings = QUICK._replace(test=test)
    content = write_report([tmp_path / "runs"], tmp_path / "out", settings)
    for table in content["scores"].values():
        for cell in table["b0"].values():
            assert cell.get("mark", "") == ""
    cell = content["scores"]["si_sdr_db"]["b0"]["seen_5dB"]
    assert cell["p_smallest"] == smallest <= cell["p_holm"]
    (said,) = [t for t in content["about"] if t.startswith("No p below")]
    assert f"No p below {smallest:.2g} is possible" in said
    assert any("too few speakers to be sure" in t for t in content["findings"])


@pytest.mark.parametrize("test", ["bootstrap", "permutation"])
def test_six_speakers_who_agree_are_enough_for_one_system(tmp_path, test):
    write_run(tmp_path / "a", "base", n_speakers=6)
    write_run(tmp_path / "b", "good", n_speakers=6, gain_db=9.0)
    settings = QUICK._replace(test=test)
    cells = Comparer(Study([tmp_path]), settings).tables()["si_sdr_db"]["good"]
    for cell in cells.values():
        assert cell["mark"] == "+"
        assert cell["p_smallest"] == cell["p_value"] == 2 / 2**6


# ---- numbers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, cell, ending",
    [
        ("uar", {"relative_percent": -0.01}, "(0.0 %)"),
        ("uar", {"relative_percent": 0.04}, "(0.0 %)"),
        ("uar", {"relative_percent": -0.06}, "(-0.1 %)"),
        ("stoi", {"difference": -0.0004}, "(0.000)"),
        ("stoi", {"difference": 0.0123}, "(+0.012)"),
    ],
)
def test_no_minus_before_a_zero(name, cell, ending):
    columns = [Column("clean", "clean", None, [])]
    cell |= {"score": -0.0001, "low": -0.0001, "high": 0.0}
    (row,) = Grid(name, {"a": {"clean": cell}}, columns).rows
    assert row[1] == f"0.000 [0.000, 0.000] {ending}"


def test_percent_are_of_decisions_alone(tmp_path):
    write_run(tmp_path / "a", "base")
    write_run(tmp_path / "b", "other")
    for run in ("a", "b"):
        for name in ("scores.csv", "results.json"):
            text = (tmp_path / run / name).read_text()
            (tmp_path / run / name).write_text(
                text.replace("si_sdr_db", "stoi")
            )
    tables = Comparer(Study([tmp_path]), QUICK).tables()
    assert "relative_percent" not in tables["stoi"]["other"]["seen_5dB"]
    assert "relative_percent" in tables["uar"]["other"]["seen_5dB"]


# ---- findings, cost ---------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_findings_come_first_and_are_in_the_tables(tmp_path):
    write_run(tmp_path / "runs" / "a", "base", skill=0.3)
    write_run(tmp_path / "runs" / "b", "good", skill=0.9, draw=1)
    content = write_report([tmp_path / "runs"], tmp_path / "out", QUICK)
    cell = content["scores"]["f1_macro"]["good"]["seen mean"]
    told = content["findings"][0]
    assert told.startswith(
        f"F1-macro, highest: seen mean: good at {cell['score']:.3f} "
        f"({cell['low']:.3f} to {cell['high']:.3f}), "
        f"{cell['difference']:+.3f} against base, significant (p = "
    )
    text = (tmp_path / "out" / "report.md").read_text()
    order = [text.index(part) for part in (told, "## Contents", "## Scores")]
    assert order == sorted(order)
    headings = re.findall(r"^##+ (.*)$", text, re.M)
    linked = re.findall(r"^ *- \[(.*)\]\(#[\w-]+\)$", text, re.M)
    assert linked == [h for h in headings if h != "Contents"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("highest: seen mean") < page.index("<nav")
    links = re.findall(r'href="#(\w+)"', page)
    assert len(links) > 8
    assert all(f'id="{link}"' in page for link in links)
    # Without a baseline, the intervals say how sure it is.
    content = write_report(
        [tmp_path / "runs"], tmp_path / "out", Settings(n_resamples=99)
    )
    assert "good at" in content["findings"][0]
    assert "within the intervals" not in content["findings"][0]
    assert "within the intervals of others" in content["findings"][1]


@pytest.mark.usefixtures("no_pictures")
def test_cost_says_how_it_was_measured(tmp_path):
    old = {"parameters": 3e6, "rtf": 0.015, "peak_memory_bytes": 8192}
    new = {**old, "threads": 2, "device": "cpu", "own_process": True}
    change_results(write_run(tmp_path / "runs" / "a", "base"), cost=old)
    change_results(write_run(tmp_path / "runs" / "b", "new"), cost=new)
    write_report([tmp_path / "runs"], tmp_path / "out", QUICK)
    text = (tmp_path / "out" / "report.md").read_text()
    part = text.partition("## Cost\n")[2]
    assert (
        "| base | 3 | - | - | not stated | not stated | not stated | not"
        in part
    )
    assert "| new | 3 | - | - | 0.015 | 0.00781 | cpu | 2 |" in part
    assert "times cannot be compared" in part


# ---- examples ---------------------------------------------------------------


def test_examples_differ_and_systems_stand_side_by_side(tmp_path):
    systems = {"base": {}, "ser": {"gain_db": None}, "good": {"skill": 0.9}}
    systems["only_se"] = {"skill": None}
    for seed in (1, 2):
        for system, options in systems.items():
            run = write_run(
                tmp_path / f"{system}{seed}", system, seed=seed, **options
            )
            sides = (
                ("noisy", "clean")
                if system == "ser"
                else ("noisy", "enhanced", "clean")
            )
            for condition in ("seen_-5dB", "seen_5dB"):
                if (system, seed) != ("good", 1):
                    utt_ids = [f"f0_u{i:03}" for i in range(8)]
                    write_examples(run, condition, utt_ids, sides)
    write_routing(run, lambda rng, task, row, n: rng.integers(3, size=n))
    study = Study([tmp_path])
    found = take_examples(study, tmp_path / "figures")
    assert len(found) == 4
    titles = [
        re.fullmatch(
            r"(\S+): (\S+), speaker (\S+), labelled (\S+)", e.title
        ).groups()
        for e in found
    ]
    conditions, utt_ids, speakers, labels = map(set, zip(*titles))
    assert conditions == {"seen_-5dB", "seen_5dB"}
    assert labels == set(CLASSES)
    assert len(speakers) == len(utt_ids) == 4
    for (condition, utt_id, _, label), example in zip(titles, found):
        assert list(example.sides) == [
            *(NOISY, "base", "good", "only_se", "ser", "clean speech"),
        ]
        said, sound = example.sides["ser"]
        row = study.runs_of("ser")[1].rows[condition][utt_id]  # of seed 2
        verdict = "right" if row["prediction"] == label else "wrong"
        assert said == f"{row['prediction']} (80 %), {verdict}"
        assert sound is None and example.sides["only_se"][0] == ""
        assert example.sides["good"][1] and example.sides[NOISY][1]


# ---- names from outside -----------------------------------------------------

NASTY = [
    *("exp/a", "../../../up", "a|b", "<script>alert(1)</script>", "_hidden"),
    *(r"$\frac{", "=cmd|'/C calc'!A0", "\x1b[2J", "x" * 300, "名前", "\u202eb"),
    *("a\nb", "[x](javascript:1)", "a\x00b"),
]


def test_any_name_can_be_reported(tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "deep" / "er" / "out"
    for i, name in enumerate(NASTY):
        run = write_run(
            runs / str(i),
            name,
            n_speakers=2,
            n_per_speaker=3,
            draw=i,
            skill=0.5,
        )
        if i < 3:
            write_routing(run, lambda rng, task, row, n: [0] * n)
        measured = [
            {"step": k, "groups": {"a": {"cosine": 0.1}}} for k in (1, 2)
        ]
        text = json.dumps({"measurements": measured})
        (run / "gradient_conflict.json").write_text(text)
        for file in ("scores.csv", "results.json"):
            text = (run / file).read_text()
            (run / file).write_text(
                text.replace("calm_x", "<b>$_{|").replace(
                    "seen_5dB", "see/n|5$^"
                )
            )
        write_examples(run, "see/n|5$^", ["f0_u001"])
    argv = [str(runs), "--baseline", NASTY[0], "--out", str(out)]
    assert merit(["report", *argv, "--resamples", "50", "--title", "<i>"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\u202e" not in printed
    files = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert all(p.is_relative_to(out) or p.is_relative_to(runs) for p in files)
    assert sum(p.name.startswith("expert_load") for p in files) == 6
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|b|i)>", page)
    assert not {"\x1b", "\x00", "\u202e"} & set(page)
    lines = (out / "report.md").read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    widths = {}
    for line in lines:
        if line.startswith("| system"):
            width = len(re.findall(r"(?<!\\)\|", line))
        elif line.startswith("| exp/a") or "名前 |" in line[:6]:
            assert len(re.findall(r"(?<!\\)\|", line)) == width, line
            widths[width] = None
    assert len(widths) > 2 and tables
    assert "<" not in "".join(lines)
    tex = (out / "tables.tex").read_text(encoding="utf-8")
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(
        r"\}"
    )


@pytest.mark.parametrize(
    "values, message",
    [
        ({"system": 5}, "results of a run: system: 5"),
        ({"system": ["a"]}, "results of a run: system"),
        ({"system": ""}, "results of a run: system"),
        ({"seed": "one"}, "results of a run: seed: 'one'"),
        ({"fold": 1.5}, "results of a run: fold: 1.5"),
        ({"system": NOISY}, "no system can be called 'noisy input'"),
    ],
)
def test_what_is_no_name_is_told(tmp_path, values, message):
    change_results(write_run(tmp_path / "a", "base"), **values)
    with pytest.raises(InputError, match=message):
        Study([tmp_path])


def damage(content):
    """Cut it, flip a byte, replace it by what is none."""
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 0xFF])
    yield content[:middle]
    yield content[:middle] + flipped + content[middle + 1 :]
    yield b"[]"


def test_a_damaged_file_is_named_and_gives_no_traceback(tmp_path, capsys):
    runs = tmp_path / "runs"
    small = {"n_speakers": 2, "n_per_speaker": 3}
    run = write_run(runs / "a", "base", **small)
    write_routing(run, lambda rng, task, row, n: rng.integers(3, size=n))
    write_examples(run, "clean", ["f0_u001"])
    measured = [{"step": 1, "groups": {"a": {"cosine": 0.1}}}]
    path = run / "gradient_conflict.json"
    path.write_text(json.dumps({"measurements": measured}))
    command = ["report", str(runs), "--out", str(tmp_path / "out")]
    command += ["--resamples", "9"]
    refused = 0
    files = [p for p in run.rglob("*") if p.is_file() and "5dB" not in p.name]
    assert len(files) == 7
    for file in files:
        content = file.read_bytes()
        for spoilt in damage(content):
            file.write_bytes(spoilt)
            code = merit(command)  # a traceback would come through
            error = capsys.readouterr().err
            assert code in (0, 2)
            assert (code == 0) or str(file) in error, (file, spoilt[:9])
            refused += code == 2
        file.write_bytes(content)
    assert refused > 12
    assert merit(command) == 0

"""The table of results, from a small document."""

import json

import pytest

from merit_modules.evaluation.metrics.scoring import summarise
from merit_modules.evaluation.metrics.table import results_table

METRICS = ("seg_snr_db", "pesq_wb", "stoi", "si_sdr_db")


def condition(name, noisy, enhanced, failures=(), n=64, **ser):
    """Return a condition whose utterances all have the same scores."""
    failures = [
        {"side": side, "metric": metric, "utt_id": f"utt{k}", "reason": reason}
        for side, metric, numbers, reason in failures
        for k in numbers
    ]
    scores = {
        f"utt{k}": {
            "noisy": dict(zip(METRICS, noisy)),
            "enhanced": dict(zip(METRICS, enhanced)),
        }
        for k in range(n)
    }
    for lost in failures:
        del scores[lost["utt_id"]][lost["side"]][lost["metric"]]
    return {
        "name": name,
        "ser": {"n": n, "f1_macro": 0.5, "f1_micro": 0.625, "uar": 1.0, **ser},
        "se": summarise(scores, failures, METRICS),
        "failures": failures,
    }


@pytest.fixture
def results():
    """Three conditions: complete, with failures, without enhancement."""
    noisy, enhanced = (-5.06, 1.075, 0.63236, -0.001), (4.5, 2.0, 0.9, 12.345)
    return {
        "corpus": "any",
        "conditions": [
            condition("seen_5dB", noisy, enhanced),
            condition(
                "unseen_0dB",
                noisy,
                enhanced,
                [
                    ("noisy", "pesq_wb", (3, 9), "no utterance detected"),
                    ("enhanced", "stoi", range(64), "too short for STOI"),
                ],
            ),
            {"name": "clean", "ser": condition("", noisy, enhanced)["ser"]},
        ],
    }


def test_text(results):
    assert results_table(results).splitlines() == [
        "condition    n  F1-macro  F1-micro    UAR      segSNR/dB"
        "           PESQ            STOI      SI-SDR/dB",
        "seen_5dB    64     0.500     0.625  1.000  -5.06 -> 4.50"
        "   1.07 -> 2.00  0.632 -> 0.900  0.00 -> 12.35",
        "unseen_0dB  64     0.500     0.625  1.000  -5.06 -> 4.50"
        "  1.07 -> 2.00*     0.632 -> -*  0.00 -> 12.35",
        "clean       64     0.500     0.625  1.000              -"
        "              -               -              -",
        "",
        "* mean of fewer utterances:",
        "PESQ not computed for 2 of 128 noisy files: first 'utt3' of "
        "unseen_0dB (no utterance detected)",
        "STOI not computed for 64 of 128 enhanced files: first 'utt0' of "
        "unseen_0dB (too short for STOI)",
    ]


def test_markdown(results):
    lines = results_table(results, markdown=True).splitlines()
    assert lines[:2] == [
        "| condition | n | F1-macro | F1-micro | UAR | segSNR/dB | PESQ | STOI "
        "| SI-SDR/dB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    assert lines[3].startswith("| unseen_0dB | 64 | 0.500 | 0.625 | 1.000 |")
    assert r"| 1.07 -> 2.00\* |" in lines[3]
    assert lines[6] == r"\* mean of fewer utterances:"
    assert lines[7].startswith("- PESQ not computed for 2 of 128 noisy files")
    assert {line.count("|") for line in lines[:5]} == {10}


def test_names_in_markdown_are_text(results):
    condition = results["conditions"][1]
    condition["name"] = "a|b <script> [x](javascript:1)\n"
    lines = results_table(results, markdown=True).splitlines()
    assert r"| a\|b &lt;script> \[x\](javascript:1) |" in "\n".join(lines)
    assert len({line.count(" | ") for line in lines[:5]}) == 1


def test_the_saved_document_gives_the_same_table(results):
    saved = json.loads(json.dumps(results, allow_nan=False))
    assert results_table(saved) == results_table(results)


def test_columns_of_a_single_task_vanish(results):
    ser, se = json.loads(json.dumps([results, results]))
    for entry in ser["conditions"]:
        entry.pop("se", None)
        entry.pop("failures", None)
    header = results_table(ser).splitlines()[0].split()
    assert header == ["condition", "n", "F1-macro", "F1-micro", "UAR"]
    for entry in se["conditions"]:
        entry.pop("ser", None)
    lines = [line.split() for line in results_table(se).splitlines()]
    assert lines[0] == "condition n segSNR/dB PESQ STOI SI-SDR/dB".split()
    assert lines[1][:3] == ["seen_5dB", "64", "-5.06"]
    assert lines[3] == ["clean", "-", "-", "-", "-", "-"]


def test_widest_numbers_fit_in_about_110_columns():
    low, high = (-10.0, 1.001, 0.111, -10.25), (-10.0, 4.64, 0.999, -10.5)
    lost = [
        (side, metric, [0], "")
        for side in ("noisy", "enhanced")
        for metric in METRICS
    ]
    wide = condition("unseen_-10dB", low, high, lost, n=1000)
    row = results_table({"conditions": [wide]}).splitlines()[1]
    assert row.count("*") == len(METRICS)
    assert len(row) <= 115


def test_other_metrics_and_nothing_at_all():
    entry = {"mean": 1.23456, "n": 1, "n_failed": 0}
    se = {"n": 1, "noisy": {"new": entry}, "enhanced": {"new": entry}}
    table = results_table({"conditions": [{"name": "x", "se": se}]})
    assert table.splitlines() == [
        "condition  n             new",
        "x          1  1.235 -> 1.235",
    ]
    assert "No test condition" in results_table({"conditions": []})

"""Scoring beside the model: accounting, workers, crashes, averages."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from merit_modules.errors import InputError
from merit_modules.evaluation.metrics import scoring
from merit_modules.evaluation.metrics.scoring import (
    SINGLE,
    EnhancementScorer,
    score_utterance,
    summarise,
)

RATE_HZ = 16000
# Without PESQ, an optional package; it has a test of its own below.
PLAIN = ("seg_snr_db", "stoi", "si_sdr_db")


def utterance(seed, n_samples=9600):
    """Return clean, noisy and enhanced noise of a given length."""
    rng = np.random.default_rng(seed)
    clean, noise = rng.standard_normal((2, n_samples)).astype(np.float32)
    return clean, clean + noise, clean + 0.1 * noise


def score_all(utterances, n_workers, metrics=PLAIN):
    """Score utterances, a dict of id to signals."""
    with EnhancementScorer(RATE_HZ, n_workers, metrics) as scorer:
        for utt_id, signals in utterances.items():
            scorer.submit(utt_id, *signals)
        return scorer.collect()


@pytest.fixture(scope="module")
def mixed():
    """Utterances of which some cannot be scored by every metric."""
    utterances = {f"utt{k}": utterance(k) for k in range(5)}
    clean, noisy, enhanced = utterance(5)
    utterances["same"] = clean, clean, enhanced
    utterances["short"] = utterance(6, 1000)
    broken = enhanced.copy()
    broken[7] = np.nan
    utterances["nan"] = clean, noisy, broken
    utterances["silent"] = 0 * clean, noisy, enhanced
    return utterances


@pytest.fixture(scope="module")
def expected(mixed):
    """Scores and failures computed in this process."""
    return score_all(mixed, 0)


# ---- what is scored and what is not ----------------------------------------


def test_scores_are_those_of_the_metrics(mixed, expected):
    scores, _ = expected
    assert list(scores) == list(mixed)
    for utt_id in ("utt0", "utt4"):
        clean, noisy, enhanced = mixed[utt_id]
        for metric in PLAIN:
            assert scores[utt_id]["noisy"][metric] == SINGLE[metric](
                noisy, clean, RATE_HZ
            )
            assert scores[utt_id]["enhanced"][metric] == SINGLE[metric](
                enhanced, clean, RATE_HZ
            )


def test_a_failure_is_counted_and_has_no_score(expected):
    scores, failures = expected
    reasons = {
        (f["utt_id"], f["side"], f["metric"]): f["reason"] for f in failures
    }
    nan = "the estimate has samples that are not finite"
    short = "too short for STOI: it needs 0.4 s of speech"
    assert reasons == {
        ("same", "noisy", "si_sdr_db"): (
            "the estimate is the reference: SI-SDR is infinite"
        ),
        ("short", "noisy", "stoi"): short,
        ("short", "enhanced", "stoi"): short,
        **{("nan", "enhanced", metric): nan for metric in PLAIN},
        **{
            ("silent", side, metric): "the reference is silent"
            for side in ("noisy", "enhanced")
            for metric in PLAIN
        },
    }
    for utt_id, side, metric in reasons:
        assert metric not in scores[utt_id][side]
    n_scores = sum(len(row[s]) for row in scores.values() for s in row)
    assert n_scores + len(failures) == len(scores) * 2 * len(PLAIN)
    json.dumps([scores, failures], allow_nan=False)


@pytest.mark.slow
def test_golden_pair_with_pesq(golden):
    pytest.importorskip("pesq")
    import torch  # not above: the workers of the crash test import this file

    path = golden / "enhancement_metrics.pt"
    pair = torch.load(path, weights_only=True)["pairs"][0]
    clean, noisy = pair["clean"], pair["degraded"]
    signals = {"real": (clean, noisy, noisy.double())}
    scores, failures = score_all(signals, 1, tuple(SINGLE))
    for side in ("noisy", "enhanced"):
        assert scores["real"][side] == pytest.approx(
            {
                "seg_snr_db": pair["ssnr"],
                "seg_snr_rescaled_db": pair["ssnr_rescaled"],
                "pesq_wb": pair["pesq_wb"],
                "stoi": pair["stoi"],
                "estoi": pair["estoi"],
                "si_sdr_db": pair["si_sdr"],
            },
            rel=1e-5,
        )
    assert failures == []


# ---- workers ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_do_not_change_the_result(mixed, expected, n_workers):
    scores, failures = score_all(mixed, n_workers)
    assert (scores, failures) == expected
    assert list(scores) == list(mixed)


@pytest.mark.slow
def test_conditions_in_turn_and_a_bounded_backlog(monkeypatch):
    monkeypatch.setattr(scoring, "_BACKLOG", 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    program = sys.modules["__main__"]  # put aside for a moment
    with EnhancementScorer(RATE_HZ, 1, ["seg_snr_db"]) as scorer:
        assert scorer.collect() == ({}, [])
        for _ in range(2):
            for k in range(6):
                scorer.submit(f"utt{k}", *utterance(k, 800))
                assert len(scorer._pending) <= 2
            scores, failures = scorer.collect()
            assert len(scores) == 6
            assert not failures
        # Workers stay light: none has imported PyTorch.
        code = "'torch' in __import__('sys').modules"
        assert scorer._pool.submit(eval, code).result() is False
        # Each has one core: more threads would wait for each other.
        code = "__import__('threadpoolctl').threadpool_info()"
        libraries = scorer._pool.submit(eval, code).result()
        assert {library["num_threads"] for library in libraries} == {1}
        assert sys.modules["__main__"] is program


@pytest.mark.slow
def test_workers_do_not_run_the_program_again(tmp_path):
    program = tmp_path / "program.py"  # without the usual guard
    program.write_text(
        "import numpy as np\n"
        "from merit_modules.evaluation.metrics import scoring\n"
        "print('started')\n"
        "with scoring.EnhancementScorer(16000, 1, ['seg_snr_db']) as scorer:\n"
        "    scorer.submit('utt0', *np.eye(3, 800))\n"
        "    print(len(scorer.collect()[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("started\n1\n", "")


@pytest.mark.slow
def test_signals_are_copied():
    clean, noisy, enhanced = utterance(0)
    with EnhancementScorer(RATE_HZ, 1, ["seg_snr_db"]) as scorer:
        scorer.submit("utt0", clean, noisy, enhanced)
        scorer.submit("utt1", clean, noisy, enhanced)
        for wav in (clean, noisy, enhanced):
            wav[:] = 0
        scores, failures = scorer.collect()
    assert failures == []
    assert scores["utt0"] == scores["utt1"]


def end_on_stoi_of_bad(utt_id, signals, sample_rate_hz, measures, model):
    """Stand in for a metric whose C code crashes."""
    if utt_id == "bad" and ("noisy", "stoi") in measures:
        os._exit(1)
    return score_utterance(utt_id, signals, sample_rate_hz, measures, model)


@pytest.mark.slow
def test_a_crash_loses_one_score(monkeypatch):
    utterances = {f"utt{k}": utterance(k, 8000) for k in range(3)}
    utterances["bad"] = utterance(3, 8000)
    utterances.update({f"utt{k}": utterance(k, 8000) for k in range(4, 7)})
    scores, failures = score_all(utterances, 0)
    assert not failures
    del scores["bad"]["noisy"]["stoi"]
    monkeypatch.setattr(scoring, "score_utterance", end_on_stoi_of_bad)
    crash = {
        "utt_id": "bad",
        "side": "noisy",
        "metric": "stoi",
        "reason": "the worker process crashed",
    }
    assert score_all(utterances, 2) == (scores, [crash])


@pytest.mark.slow
def test_an_idle_worker_that_died_is_replaced():
    with EnhancementScorer(RATE_HZ, 1, ["seg_snr_db"]) as scorer:
        scorer.submit("first", *utterance(0, 800))
        before = scorer.collect()[0]
        with pytest.raises(scoring.BrokenProcessPool):
            scorer._pool.submit(os._exit, 1).result()
        scorer.submit("first", *utterance(0, 800))
        assert scorer.collect() == (before, [])


@pytest.mark.slow
def test_leaving_early_ends_the_workers():
    with pytest.raises(KeyboardInterrupt):
        with EnhancementScorer(RATE_HZ, 1, ["seg_snr_db"]) as scorer:
            scorer.submit("utt0", *utterance(0, 800))
            workers = list(scorer._pool._processes.values())
            raise KeyboardInterrupt
    assert [worker.is_alive() for worker in workers] == [False]


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_unexpected_error_names_the_utterance(n_workers):
    # pystoi cannot resample from a rate that is not an integer.
    with EnhancementScorer(1e4 + 0.5, n_workers, ["stoi"]) as scorer:
        with pytest.raises(RuntimeError, match="stoi of noisy 'utt0'"):
            scorer.submit("utt0", *utterance(0))
            scorer.collect()


# ---- wrong use ------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((16000, 0, ["stoi", "pesq"]), r"metrics: .*pesq_wb.*, got 'pesq'$"),
        ((8000, 0, ["pesq_wb"]), "pesq_wb is defined at 16000 Hz"),
        ((16000, -1), "n_workers: expected .* got -1"),
        ((16000, "two"), "n_workers: expected .* got 'two'"),
    ],
)
def test_wrong_settings_fail_at_construction(arguments, message):
    with pytest.raises(InputError, match=message):
        EnhancementScorer(*arguments)


def test_wrong_signals_are_refused():
    clean, noisy, enhanced = utterance(0)
    scorer = EnhancementScorer(RATE_HZ, 0, PLAIN)
    with pytest.raises(
        ValueError, match=r"'a': .*\(9600,\), \(9600,\), \(9,\)"
    ):
        scorer.submit("a", clean, noisy, enhanced[:9])
    with pytest.raises(ValueError, match=r"'a': .*\(1, 9600\)"):
        scorer.submit("a", clean[None], noisy[None], enhanced[None])
    scorer.submit("a", clean, noisy, enhanced)
    with pytest.raises(ValueError, match="'a' was submitted before"):
        scorer.submit("a", clean, noisy, enhanced)


# ---- averages ---------------------------------------------------------------


def test_summary_of_a_worked_example():
    scores = {
        "utt1": {
            "noisy": {"stoi": 0.5, "si_sdr_db": -5.0},
            "enhanced": {"stoi": 0.75, "si_sdr_db": 4.0},
        },
        "utt2": {
            "noisy": {"stoi": 0.7},
            "enhanced": {"si_sdr_db": 8.0},
        },
    }
    failures = [
        {"utt_id": "utt2", "side": "enhanced", "metric": "stoi"},
        {"utt_id": "utt2", "side": "noisy", "metric": "si_sdr_db"},
    ]
    summary = summarise(scores, failures, ("stoi", "si_sdr_db"))
    assert summary == {
        "n": 2,
        "noisy": {
            "stoi": {"mean": pytest.approx(0.6), "n": 2, "n_failed": 0},
            "si_sdr_db": {"mean": -5.0, "n": 1, "n_failed": 1},
        },
        "enhanced": {
            "stoi": {"mean": 0.75, "n": 1, "n_failed": 1},
            "si_sdr_db": {"mean": 6.0, "n": 2, "n_failed": 0},
        },
        "gain": {
            "stoi": {"mean": pytest.approx(0.25), "n": 1},
            "si_sdr_db": {"mean": 9.0, "n": 1},
        },
    }


def test_summary_of_nothing_has_no_mean():
    scores, failures = score_all({"zero": np.zeros((3, 800))}, 0)
    summary = summarise(scores, failures, PLAIN)
    assert summary["n"] == 1
    assert summary["noisy"]["stoi"] == {"n": 0, "n_failed": 1}
    assert summary["gain"]["stoi"] == {"n": 0}

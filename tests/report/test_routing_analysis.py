"""Routing in numbers: worked values, planted and absent relations."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from merit_modules.errors import InputError
from merit_modules.evaluation.routing_log import Routing
from merit_modules.report.routing_analysis import (
    analyse_routing,
    mutual_information,
    switches_per_s,
    voicing_information,
)

EMOTIONS = ("angry", "sad")
N_UTTERANCES = 24


def make(choose, conditions=(("n_-5dB", "-5.0"), ("n_5dB", "5.0"))):
    """Make decisions of both tasks: ``choose`` gives the experts of one."""
    rng = np.random.default_rng(3)
    ids = np.array([f"u{i:02}" for i in range(N_UTTERANCES)])
    n_frames = rng.integers(40, 60, N_UTTERANCES)
    routings, rows = {}, {}
    for name, snr_db in conditions:
        voicing = np.repeat(
            rng.integers(0, 3, n_frames.sum() // 5 + 1), 5
        ).astype(np.uint8)[: n_frames.sum()]
        utterance = np.repeat(np.arange(N_UTTERANCES), n_frames)
        experts, probs = {}, {}
        for task in ("se", "ser"):
            chosen = choose(rng, task, utterance, float(snr_db or 99), voicing)
            experts[task] = chosen.astype(np.uint8)
            probs[task] = np.where(
                np.arange(2) == chosen[:, None], 0.75, 0.25
            ).astype(np.float16)
        routings[name] = Routing(ids, n_frames, voicing, experts, probs)
        rows[name] = {
            utt_id: {
                "label": EMOTIONS[i % 2],
                "snr_db": snr_db,
                "noise_type": ("hum", "rain")[rng.integers(2)],
            }
            for i, utt_id in enumerate(ids)
        }
    return routings, rows


def at_random(rng, task, utterance, snr_db, voicing):
    return rng.integers(0, 2, len(utterance))


def test_random_choice_knows_nothing():
    found = analyse_routing(*make(at_random))
    assert found["n_experts"] == 2
    assert found["n_utterances"] == N_UTTERANCES
    for task in found["tasks"].values():
        assert task["imbalance"] == pytest.approx(1.0, abs=0.1)
        assert task["load_entropy_bits"] == pytest.approx(1.0, abs=0.01)
        assert task["switches_per_s"] == pytest.approx(25, abs=2)
        expected = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
        assert task["router_entropy_bits"] == pytest.approx(expected, abs=1e-3)
        for name, values in task["information"].items():
            assert values["p_value"] > 0.005, name
            assert values["bits"] < 0.02
    between = found["between_tasks"]
    assert between["agreement"] == pytest.approx(0.5, abs=0.05)
    assert between["kappa"] == pytest.approx(0.0, abs=0.1)
    assert between["information"]["p_value"] > 0.005


@pytest.mark.parametrize(
    ("factor", "choose"),
    [
        ("emotion", lambda rng, task, utt, snr, voicing: utt % 2),
        ("snr_db", lambda rng, task, utt, snr, voicing: (utt * 0 + snr) > 0),
        ("voicing", lambda rng, task, utt, snr, voicing: voicing > 1),
    ],
)
def test_a_planted_relation_is_found(factor, choose):
    found = analyse_routing(*make(choose))
    for task in found["tasks"].values():
        values = task["information"][factor]
        assert values["percent"] == pytest.approx(100, abs=0.1)
        # 1 of 201: no permutation has as much.
        assert values["p_value"] == pytest.approx(1 / 201)
        assert values["chance_bits"] < 0.2 * values["bits"]
        others = {"emotion", "snr_db", "voicing"} - {factor}
        for name in others & set(task["information"]):
            assert task["information"][name]["p_value"] > 0.005
        loads = np.array(list(task["load_by"][factor].values()))
        assert set(np.unique(loads)) == {0.0, 1.0}
    assert found["between_tasks"]["agreement"] == 1.0
    assert found["between_tasks"]["kappa"] == 1.0


def test_an_expert_per_task_is_all_there_is_to_know_of_the_task():
    found = analyse_routing(
        *make(lambda rng, task, utt, snr, voicing: utt * 0 + (task == "ser"))
    )
    between = found["between_tasks"]
    assert between["information"]["bits"] == pytest.approx(1.0)
    assert between["information"]["p_value"] == pytest.approx(1 / 201)
    assert (between["agreement"], between["kappa"]) == (0.0, 0.0)
    task = found["tasks"]["se"]
    assert task["load"] == [1.0, 0.0]
    assert task["imbalance"] == 2.0
    assert task["switches_per_s"] == 0.0
    assert task["information"]["snr_db"]["percent"] == 0.0


def test_frames_of_one_utterance_are_no_evidence_for_an_emotion():
    # Each utterance has an expert of its own, drawn by lot: frame by frame
    # that looks like a strong relation to the emotion of few utterances.
    lot = np.random.default_rng(0).integers(0, 2, N_UTTERANCES)
    found = analyse_routing(
        *make(lambda rng, task, utt, snr, voicing: lot[utt])
    )
    values = found["tasks"]["se"]["information"]["emotion"]
    assert values["p_value"] > 0.01


def test_bits_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    groups = np.repeat(rng.integers(0, 3, 30), 20)
    experts = (groups + rng.integers(0, 2, 600)) % 3
    counts = np.eye(3)[experts]
    found = mutual_information(counts, groups, n_permutations=1)
    expected = mutual_info_score(groups, experts) / np.log(2)
    assert found["bits"] == pytest.approx(expected)
    voiced = voicing_information(experts, groups, [600], n_permutations=1)
    assert voiced["bits"] == pytest.approx(expected)


@pytest.mark.slow
def test_permutations_hang_on_the_seed_alone():
    routings, rows = make(at_random)
    assert analyse_routing(routings, rows) == analyse_routing(routings, rows)
    one = mutual_information(np.eye(2)[[0, 1] * 9], [0, 1, 1] * 6, seed=1)
    two = mutual_information(np.eye(2)[[0, 1] * 9], [0, 1, 1] * 6, seed=2)
    assert one["bits"] == two["bits"]
    assert one["chance_bits"] != two["chance_bits"]


def test_nothing_to_tell_apart_is_left_out():
    routings, rows = make(at_random, conditions=(("clean", None),))
    for row in rows["clean"].values():
        row["noise_type"] = ""
        row["label"] = ""
    found = analyse_routing(routings, rows)["tasks"]["se"]
    assert set(found["information"]) == {"voicing"}
    assert set(found["load_by"]) == {"snr_db", "voicing"}
    assert list(found["load_by"]["snr_db"]) == ["clean"]


def test_switches_do_not_cross_utterances():
    experts = np.array([0, 0, 0, 1, 1, 1])
    assert switches_per_s(experts, [3, 3]) == 0.0
    assert switches_per_s(experts, [6]) == pytest.approx(10.0)
    assert switches_per_s(np.array([0, 1]), [1, 1]) is None


def test_an_utterance_without_scores_is_named():
    routings, rows = make(at_random)
    del rows["n_5dB"]["u03"]
    with pytest.raises(InputError, match="u03 under n_5dB"):
        analyse_routing(routings, rows)
    with pytest.raises(InputError, match="some condition"):
        analyse_routing({}, {})

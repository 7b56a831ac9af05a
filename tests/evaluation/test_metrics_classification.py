"""Classification scores against worked values."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merit_modules.evaluation.metrics.classification import (
    calibration_error,
    classification_scores,
    fit_temperature,
    tempered,
)

EMOTIONS = ["anger", "happiness", "neutral", "sadness"]


def test_worked_example():
    labels = [0, 0, 0, 1, 1, 2, 2, 3]
    predictions = [0, 0, 1, 1, 2, 2, 2, 0]
    scores = classification_scores(predictions, labels, EMOTIONS)
    assert scores["confusion"] == [
        [2, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 2, 0],
        [1, 0, 0, 0],
    ]
    # F1 = 2 TP / (labelled + predicted)
    expected = {
        "anger": 4 / 6,
        "happiness": 2 / 4,
        "neutral": 4 / 5,
        "sadness": 0.0,
    }
    assert scores["f1_per_class"] == pytest.approx(expected)
    assert scores["f1_macro"] == pytest.approx(sum(expected.values()) / 4)
    assert scores["f1_micro"] == pytest.approx(5 / 8)
    assert scores["accuracy"] == pytest.approx(5 / 8)
    assert scores["uar"] == pytest.approx((2 / 3 + 1 / 2 + 1 + 0) / 4)
    assert scores["n"] == 8
    assert scores["absent_classes"] == []


def test_class_without_label_is_named():
    scores = classification_scores([0, 1, 2], [0, 1, 1], EMOTIONS)
    assert scores["absent_classes"] == ["neutral", "sadness"]
    # Predicted wrongly: F1 of 0; neither labelled nor predicted: no F1.
    assert scores["f1_per_class"] == pytest.approx(
        {"anger": 1.0, "happiness": 2 / 3, "neutral": 0.0}
    )
    assert scores["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["uar"] == pytest.approx((1 + 1 / 2) / 2)
    assert [len(row) for row in scores["confusion"]] == [4] * 4


@given(st.lists(st.integers(0, 3), min_size=1))
def test_perfect_prediction_scores_one(labels):
    scores = classification_scores(labels, labels, EMOTIONS)
    for name in ("f1_macro", "f1_micro", "uar", "accuracy"):
        assert scores[name] == 1.0
    assert np.trace(scores["confusion"]) == len(labels)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1
    ).flatmap(lambda pairs: st.tuples(st.just(pairs), st.permutations(pairs)))
)
def test_order_of_utterances_does_not_matter(orders):
    first, second = (
        classification_scores(*zip(*pairs), EMOTIONS) for pairs in orders
    )
    assert first == second
    assert first["f1_micro"] == pytest.approx(first["accuracy"])


def test_scores_are_json_and_tensors_are_taken():
    tensor = torch.tensor([0, 1, 2, 2])
    scores = classification_scores(tensor, tensor.numpy(), EMOTIONS)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


@pytest.mark.filterwarnings("error")
def test_absent_classes_do_not_warn():
    classification_scores([1], [0], EMOTIONS)


@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        ([0, 1], [0], "got 2 predictions and 1 labels"),
        ([], [], r"predictions: .* N > 0, got \(0,\)"),
        ([[0]], [0], r"predictions: .* got \(1, 1\)"),
        ([0.5], [0], "predictions: expected integers, got float64"),
        ([0], [True], "labels: expected integers, got bool"),
        ([4], [0], "predictions: expected classes from 0 to 3, got 4"),
        ([0], [-1], "labels: expected classes from 0 to 3, got -1"),
    ],
)
def test_wrong_input_is_named(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_scores(predictions, labels, EMOTIONS)


# ---- calibration, precision, recall ----------------------------------------


def test_calibration_error_agrees_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics")
    import torch

    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), size=500)
    labels = rng.integers(0, 4, size=500)
    theirs = torchmetrics.functional.classification.multiclass_calibration_error
    assert calibration_error(probs, labels) == pytest.approx(
        theirs(
            torch.tensor(probs), torch.tensor(labels), num_classes=4, n_bins=15
        ).item(),
        abs=1e-6,
    )


def test_calibration_error_worked():
    # Bin (0.6, 0.67]: two utterances, half of them right, 0.65 sure; bin
    # (0.87, 0.93]: one, right, 0.9 sure.
    probs = [[0.65, 0.35], [0.35, 0.65], [0.9, 0.1]]
    assert calibration_error(probs, [0, 0, 0]) == pytest.approx(
        (2 * 0.15 + 0.1) / 3
    )
    with pytest.raises(ValueError, match=r"probs: expected shape \(1, C\)"):
        calibration_error([0.5], [0])


def test_precision_and_recall_worked():
    scores = classification_scores([0, 0, 1], [0, 1, 1], ["a", "b"])
    assert scores["precision_per_class"] == {"a": 0.5, "b": 1.0}
    assert scores["recall_per_class"] == {"a": 1.0, "b": 0.5}
    assert scores["precision_macro"] == scores["recall_macro"] == 0.75
    assert scores["wa"] == scores["accuracy"] == pytest.approx(2 / 3)
    assert "ece" not in scores


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature):
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2.0, size=(4000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [rng.choice(4, p=row) for row in honest]
    told = tempered(honest, 1 / temperature)  # as a model that is too sure
    found = fit_temperature(told, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    before = calibration_error(told, labels)
    after = calibration_error(tempered(told, found), labels)
    assert after < 0.03 and after <= before + 0.01


def test_few_utterances_are_not_trusted_blindly():
    # All right: likelihood alone would ask for no doubt at all.
    assert fit_temperature([[0.6, 0.4]] * 8, [0] * 8) > 0.15
    # All wrong and certain: the floor of a probability is no infinity.
    assert 1 < fit_temperature([[1.0, 0.0]] * 8, [1] * 8) <= 20


@given(
    st.lists(
        st.lists(st.floats(1e-6, 1), min_size=3, max_size=3),
        min_size=1,
        max_size=20,
    ),
    st.floats(0.05, 20),
)
def test_a_temperature_changes_no_decision(rows, temperature):
    probs = np.array(rows) / np.sum(rows, axis=1, keepdims=True)
    found = tempered(probs, temperature)
    assert np.allclose(found.sum(axis=1), 1)
    rows = np.arange(len(probs))
    assert np.allclose(found[rows, probs.argmax(axis=1)], found.max(axis=1))

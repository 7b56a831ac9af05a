"""What the SER head can learn: classes, soft classes, attributes."""

import csv
import json

import pytest
import torch
from scipy import stats

from merit_modules.data.labels import attribute_labels, soft_emotion_labels
from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.attributes import attribute_scores
from merit_modules.losses.joint import JointLoss
from merit_modules.losses.recognition import (
    AttributeLoss,
    EmotionLoss,
    concordance,
)
from merit_modules.training import recipe
from merit_modules.training.targets import EmotionTarget, make_target
from tests.helpers.training import make_short

NAMES = ["act", "val", "dom"]


def test_concordance_is_pearson_times_bias_correction():
    torch.manual_seed(0)
    x, y = torch.randn(50, 3), torch.randn(50, 3) * 2 + 1
    y = y + 0.5 * x
    scores = attribute_scores(x.tolist(), y.tolist(), NAMES)
    for i, name in enumerate(NAMES):
        a, b = x[:, i].double().numpy(), y[:, i].double().numpy()
        pearson = stats.pearsonr(a, b).statistic
        bias = 2 * a.std() * b.std()
        bias /= a.var() + b.var() + (a.mean() - b.mean()) ** 2
        assert scores[f"ccc_{name}"] == pytest.approx(pearson * bias)
        assert concordance(x, y)[i].item() == pytest.approx(
            pearson * bias, abs=1e-6
        )
    assert scores["ccc_mean"] == pytest.approx(
        1 - AttributeLoss()(x, y).item(), abs=1e-6
    )


def test_a_constant_or_a_single_estimate_is_no_nan():
    loss = AttributeLoss()
    estimate = torch.zeros(1, 3, requires_grad=True)
    value = loss(estimate, torch.ones(1, 3))
    value.backward()
    assert value.item() == 1.0 and torch.isfinite(estimate.grad).all()
    scores = attribute_scores([[1.0], [1.0]], [[2.0], [2.0]], ["val"])
    assert scores["ccc_val"] == 0.0


def test_soft_labels_of_one_class_are_hard_labels():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    probs = torch.nn.functional.one_hot(labels, 4).float()
    torch.testing.assert_close(
        EmotionLoss()(logits, probs), EmotionLoss()(logits, labels)
    )
    assert JointLoss().by_task({"ser_ccc": 0.5}) == {"ser": 0.5}


@pytest.mark.parametrize("probs", [[0, 0], [1, 2, 3], {"bored": 1.0}])
def test_impossible_soft_labels_are_named(probs):
    with pytest.raises(InputError, match="'u1': emo_probs: expected a posit"):
        soft_emotion_labels(["angry", "sad"]).encode("u1", probs)


@pytest.mark.parametrize("value", [0.5, 7.5, None, "4"])
def test_attributes_off_the_scale_are_named(value):
    manifests = {"train": {"u1": {"act": 4, "val": value, "dom": 4}}}
    with pytest.raises(InputError, match="'u1': val: expected a number from 1"):
        make_target("attributes", manifests, NAMES, [1, 7])
    with pytest.raises(InputError, match="ser_target: expected one of"):
        make_target("arousal", manifests, NAMES, [1, 7])
    with pytest.raises(InputError, match="low < high"):
        attribute_labels(NAMES, 7, 1)


def test_a_soft_target_is_scored_by_its_best_class():
    manifest = {"u1": {"emo": "sad"}, "u2": {"emo": "angry"}}
    target = EmotionTarget({"train": manifest}, ["angry", "sad"], soft=True)
    record = target.record([0.4, 0.6], [0.7, 0.3])
    assert (record["label"], record["prediction"]) == ("angry", "sad")
    assert target.scores([record])["f1_micro"] == 0.0


def relabel(folder, change):
    for path in (folder / "save" / "manifests").glob("*.json"):
        entries = json.loads(path.read_text())
        for i, entry in enumerate(entries.values()):
            if "emo" in entry:
                entry.update(change(i, entry["emo"]))
        path.write_text(json.dumps(entries))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, outputs, change, score",
    [
        (
            "attributes",
            NAMES,
            lambda i, emo: {
                "act": 1 + i % 7,
                "val": {"happy": 6.0}.get(emo, 2.0),
                "dom": 4 + i % 3,
            },
            "ccc_mean",
        ),
        (
            "soft_emotion",
            ["angry", "sad", "happy", "neutral"],
            lambda i, emo: {"emo_probs": {emo: 0.7, "neutral": 0.3}},
            "f1_macro",
        ),
    ],
)
def test_other_targets_train(
    name, outputs, change, score, miniemo, tmp_path, monkeypatch
):
    prepare = recipe.dataio_prepare

    def with_other_labels(hparams):
        relabel(tmp_path, change)
        return prepare(hparams)

    monkeypatch.setattr(recipe, "dataio_prepare", with_other_labels)
    options = {
        "ser_target": name,
        "ser_outputs": outputs,
        "checkpoint_score": score,
    }
    brain, hparams, data = make_short("ser_only", miniemo, tmp_path, **options)
    recipe.fit(brain, hparams, data)
    results = recipe.evaluate(brain, hparams, data)
    assert score in results["conditions"][0]["ser"]
    assert score in results["validation"]
    with open(tmp_path / "scores.csv") as stream:
        row = next(csv.DictReader(stream))
    assert set(brain.target.columns) < set(row)
    if name == "attributes":
        assert 1.0 <= float(row["label_act"]) <= 7.0

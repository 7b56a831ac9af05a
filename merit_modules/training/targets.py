"""What the SER head learns: classes, soft classes, or attributes.

Each target ties together how a label is read, which loss it has, and what is
recorded and scored of an utterance.
"""

from merit_modules.data.labels import (
    attribute_labels,
    emotion_labels,
    soft_emotion_labels,
)
from merit_modules.data.pipelines import check_labels, class_weights
from merit_modules.errors import InputError
from merit_modules.evaluation.metrics.attributes import attribute_scores
from merit_modules.evaluation.metrics.classification import (
    calibration_error,
    classification_scores,
    fit_temperature,
    tempered,
)
from merit_modules.losses.recognition import AttributeLoss, EmotionLoss


class EmotionTarget:
    """Emotion classes, one per utterance or a distribution over them.

    Arguments
    ---------
    manifests : dict
        Split to speech manifest; class weights come from ``train``.
    outputs : list of str
        Class names.
    soft : bool
        Learn from ``emo_probs``, and be scored by ``emo`` all the same.

    Raises
    ------
    InputError
        If a label is no class, or a class has no training utterance.

    Example
    -------
    >>> manifest = {"u1": {"emo": "sad"}, "u2": {"emo": "angry"}}
    >>> target = EmotionTarget({"train": manifest}, ["angry", "sad"])
    >>> record = target.record([0.9, 0.1], label=1)
    >>> record["prediction"], record["label"]
    ('angry', 'sad')
    """

    score_names = ("f1_macro", "f1_micro", "uar")
    #: What the logits are divided by to be probabilities; fitted in validation.
    temperature = 1.0

    def __init__(self, manifests, outputs, soft=False):
        check_labels(manifests, outputs)
        self.outputs = list(outputs)
        make = soft_emotion_labels if soft else emotion_labels
        self.reader = make(self.outputs)
        self.soft = soft
        self.loss = EmotionLoss(class_weights(manifests["train"], outputs))

    def to(self, device):
        """Move what the loss needs to a device."""
        self.loss.class_weights = self.loss.class_weights.to(device)

    def labels(self, batch):
        """Take the labels out of a batch: (B,) or (B, C)."""
        labels = batch.ser_label.data
        return labels if self.soft else labels.squeeze(1)

    def activate(self, logits):
        """Turn logits (B, C) into what is recorded: probabilities."""
        return logits.float().softmax(dim=-1)

    @property
    def columns(self):
        """Columns of the table of scores."""
        probs = [f"prob_{name}" for name in self.outputs]
        return ["label", "prediction", *probs]

    def record(self, output, label):
        """Note what came of an utterance.

        Arguments
        ---------
        output : list of float
            Probabilities (C,).
        label : int or list of float
            Its class, or probabilities (C,).

        Returns
        -------
        dict
            Column to value.
        """
        label = _best(label) if self.soft else label
        return {
            "label": self.outputs[label],
            "prediction": self.outputs[_best(output)],
            **{f"prob_{k}": p for k, p in zip(self.outputs, output)},
        }

    def scores(self, records):
        """Score records; see ``classification_scores``.

        ``ece_calibrated`` is the calibration error at ``temperature``.
        """
        index = self.outputs.index
        probs, labels = self._probs_and_labels(records)
        scores = classification_scores(
            [index(record["prediction"]) for record in records],
            labels,
            self.outputs,
            probs,
        )
        probs = tempered(probs, self.temperature)
        return scores | {"ece_calibrated": calibration_error(probs, labels)}

    def _probs_and_labels(self, records):
        index = self.outputs.index
        return (
            [[record[f"prob_{k}"] for k in self.outputs] for record in records],
            [index(record["label"]) for record in records],
        )

    def calibration(self, records):
        """Fit the temperature to records of the validation set."""
        return {
            "temperature": fit_temperature(*self._probs_and_labels(records))
        }


def _best(probs):
    return max(range(len(probs)), key=probs.__getitem__)


class AttributeTarget:
    """Arousal, valence, dominance or the like, as numbers.

    Arguments
    ---------
    manifests : dict
        Split to speech manifest; each entry has the attributes.
    outputs : list of str
        Attributes.
    scale : sequence of float
        Lowest and highest value.

    Raises
    ------
    InputError
        If an utterance lacks an attribute, or it is off the scale.

    Example
    -------
    >>> manifest = {"u1": {"act": 4.0}}
    >>> target = AttributeTarget({"train": manifest}, ["act"], [1, 7])
    >>> target.record([0.5], label=[0.0])
    {'label_act': 4.0, 'prediction_act': 5.5}
    """

    def __init__(self, manifests, outputs, scale):
        self.outputs = list(outputs)
        self.low, self.high = scale
        self.reader = attribute_labels(self.outputs, self.low, self.high)
        self.loss = AttributeLoss()
        for split, manifest in manifests.items():
            for utt_id, entry in manifest.items():
                self._check(split, utt_id, entry)

    def _check(self, split, utt_id, entry):
        for name in self.outputs:
            value = entry.get(name)
            is_number = isinstance(value, int | float)
            if not (is_number and self.low <= value <= self.high):
                raise InputError(
                    f"{split}: utterance {utt_id!r}: {name}: expected a "
                    f"number from {self.low:g} to {self.high:g}, got {value!r}"
                )

    @property
    def score_names(self):
        """Scores of a set that are logged."""
        return [f"ccc_{name}" for name in self.outputs] + ["ccc_mean"]

    def to(self, device):
        """Move what the loss needs to a device: nothing."""

    def labels(self, batch):
        """Take the labels out of a batch: (B, A)."""
        return batch.ser_label.data

    def activate(self, logits):
        """Turn the head's outputs (B, A) into what is recorded."""
        return logits.float()

    @property
    def columns(self):
        """Columns of the table of scores."""
        sides = ("label", "prediction")
        return [f"{side}_{name}" for side in sides for name in self.outputs]

    def record(self, output, label):
        """Note what came of an utterance, in the unit of the manifest.

        Arguments
        ---------
        output : list of float
            Estimates (A,), -1 to 1 over the scale.
        label : list of float
            Its attributes (A,), likewise.

        Returns
        -------
        dict
            Column to value.
        """
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        values = [middle + half * value for value in [*label, *output]]
        return dict(zip(self.columns, values, strict=True))

    def calibration(self, records):
        """Numbers have no probabilities: nothing to fit."""
        return {}

    def scores(self, records):
        """Score records; see ``attribute_scores``."""
        labels, predictions = (
            [[r[f"{side}_{name}"] for name in self.outputs] for r in records]
            for side in ("label", "prediction")
        )
        return attribute_scores(predictions, labels, self.outputs)


def make_target(kind, manifests, outputs, scale):
    """Make the target that a YAML asks for.

    Arguments
    ---------
    kind : str
        ``emotion``, ``soft_emotion`` or ``attributes``.
    manifests : dict
        Split to speech manifest.
    outputs : list of str
        Class names or attributes, in the order of the head's outputs.
    scale : sequence of float
        Lowest and highest value of an attribute.

    Returns
    -------
    EmotionTarget or AttributeTarget
        The target.

    Raises
    ------
    InputError
        If there is no such kind, or a label is not as expected.

    Example
    -------
    >>> manifests = {"train": {"u1": {"emo": "a"}, "u2": {"emo": "b"}}}
    >>> make_target("emotion", manifests, ["a", "b"], None).columns
    ['label', 'prediction', 'prob_a', 'prob_b']
    """
    if kind in ("emotion", "soft_emotion"):
        return EmotionTarget(manifests, outputs, soft=kind == "soft_emotion")
    if kind == "attributes":
        return AttributeTarget(manifests, outputs, scale)
    raise InputError(
        "ser_target: expected one of emotion, soft_emotion, attributes, "
        f"got {kind!r}"
    )

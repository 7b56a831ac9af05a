"""What a model says of the emotion: of a recording, and over its time."""

from typing import NamedTuple

import torch

from merit_modules.errors import InputError


class Emotion(NamedTuple):
    """The emotion of a recording or a part of one.

    Arguments
    ---------
    label : str
        The most probable class.
    score : float
        Its probability.
    probabilities : dict
        Class to probability.
    """

    label: str
    score: float
    probabilities: dict


class Attributes(NamedTuple):
    """Attributes of a recording or a part of one, in the corpus's own unit.

    Arguments
    ---------
    attributes : dict
        Name (arousal, valence...) to value.
    """

    attributes: dict


class Segment(NamedTuple):
    """The emotion of a stretch of a recording.

    Arguments
    ---------
    start_s : float
        Where it starts, in seconds.
    end_s : float
        Where it ends.
    emotion : Emotion or Attributes
        What the model says of it.
    """

    start_s: float
    end_s: float
    emotion: object

    def as_dict(self):
        """Give it as plain values, in one level."""
        return {
            "start_s": round(self.start_s, 4),
            "end_s": round(self.end_s, 4),
            **as_told(self.emotion),
        }


def as_told(emotion):
    """Give an emotion as plain values with sensible digits.

    Arguments
    ---------
    emotion : Emotion or Attributes
        What a model says.

    Returns
    -------
    dict
        Its fields; numbers with four decimals.

    Example
    -------
    >>> as_told(Attributes({"arousal": 1 / 3}))
    {'attributes': {'arousal': 0.3333}}
    """

    def rounded(value):
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        return round(value, 4) if isinstance(value, float) else value

    return rounded(emotion._asdict())


class ClassReader:
    """Reads the outputs of a model that tells classes apart.

    Arguments
    ---------
    labels : sequence of str
        Classes in the order of the logits.
    temperature : float
        What the logits are divided by, so that a probability is how often the
        class is right; fitted to the validation set of the training.

    Example
    -------
    >>> ClassReader(["sad", "happy"]).read(torch.tensor([0.0, 0.0])).label
    'sad'
    """

    def __init__(self, labels, temperature=1.0):
        self.labels = list(labels)
        self.temperature = temperature

    def activate(self, logits):
        """Turn logits (..., C) into probabilities (..., C)."""
        return (logits.float() / self.temperature).softmax(dim=-1)

    def read(self, logits):
        """Read the logits (C,) of one recording: an :class:`Emotion`."""
        probabilities = self.activate(logits).tolist()
        named = dict(zip(self.labels, probabilities, strict=True))
        label = max(named, key=named.__getitem__)
        return Emotion(label, named[label], named)


class AttributeReader:
    """Reads the outputs of a model that estimates attributes.

    Arguments
    ---------
    labels : sequence of str
        Attributes in the order of the outputs.
    scale : sequence of float
        Lowest and highest value of the corpus's scale.

    Example
    -------
    >>> AttributeReader(["arousal"], [1, 7]).read(torch.tensor([0.5]))
    Attributes(attributes={'arousal': 5.5})
    """

    def __init__(self, labels, scale):
        self.labels = list(labels)
        self.low, self.high = scale

    def activate(self, outputs):
        """Bring outputs (..., A), -1 to 1, to the scale."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return middle + half * outputs.float()

    def read(self, outputs):
        """Read the outputs (A,) of one recording: :class:`Attributes`."""
        values = self.activate(outputs).tolist()
        return Attributes(dict(zip(self.labels, values, strict=True)))


def make_reader(ser_target, labels, scale, temperature=1.0):
    """Make the reader for what a model's SER head learned.

    Arguments
    ---------
    ser_target : str
        ``emotion``, ``soft_emotion`` or ``attributes``.
    labels : sequence of str
        Classes or attributes in the order of the head's outputs.
    scale : sequence of float
        Lowest and highest value of an attribute.
    temperature : float
        Of classes; see :class:`ClassReader`.

    Returns
    -------
    ClassReader or AttributeReader
        The reader.

    Raises
    ------
    InputError
        If there is no such target.

    Example
    -------
    >>> make_reader("emotion", ["sad", "happy"], None).labels
    ['sad', 'happy']
    """
    if ser_target in ("emotion", "soft_emotion"):
        return ClassReader(labels, temperature)
    if ser_target == "attributes":
        return AttributeReader(labels, scale)
    raise InputError(
        "ser_target: expected one of emotion, soft_emotion, attributes, "
        f"got {ser_target!r}"
    )


class EmotionTracker:
    """Follows the emotion of a recording in memory that does not grow.

    Each segment is pooled and classified by itself, the whole recording by
    pooling all its frames, as if it had been one utterance. The last segment
    is judged on the last ``segment_frames`` frames, so that it has as much to
    go by as the others.

    Arguments
    ---------
    ser_head : SERHead
        Pools and classifies.
    reader : ClassReader or AttributeReader
        Reads its outputs.
    segment_frames : int
        Frames of a segment, 1 or more.
    frame_s : float
        Seconds from one frame to the next.
    device : str
        Where the head is.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> head, reader = tiny_system().ser_head, ClassReader("asht")
    >>> tracker = EmotionTracker(head, reader, segment_frames=50, frame_s=0.02)
    >>> [(s.start_s, s.end_s) for s in tracker.add(torch.rand(120, 12))]
    [(0.0, 1.0), (1.0, 2.0)]
    >>> segments, whole = tracker.finish(duration_s=2.42)
    >>> segments[0].start_s, segments[0].end_s, len(whole.probabilities)
    (2.0, 2.42, 4)
    """

    def __init__(self, ser_head, reader, segment_frames, frame_s, device="cpu"):
        self.head = ser_head
        self.reader = reader
        self.segment_frames = segment_frames
        self.frame_s = frame_s
        self._device = device
        self._sums = None
        self._before = None  # the frames of the segment that ended last
        self._open = None  # the frames after it
        self._n_segments = 0

    def add(self, features):
        """Take the next frames.

        Arguments
        ---------
        features : torch.Tensor
            Features of the SER head (T, R).

        Returns
        -------
        list of Segment
            Those that ended with these frames.
        """
        if not len(features):
            return []
        self._pool(features)
        parts = [features] if self._open is None else [self._open, features]
        frames, size = torch.cat(parts), self.segment_frames
        n_full = len(frames) // size
        full, self._open = frames.split(
            [n_full * size, len(frames) - n_full * size]
        )
        self._open = self._open.clone()
        if not n_full:
            return []
        self._before = full[-size:].clone()
        return self._classify(full.unflatten(0, (n_full, size)))

    def _pool(self, features):
        sums = self._of(features.unsqueeze(0))
        self._sums = sums if self._sums is None else self._sums.merge(sums)

    @torch.no_grad()
    def _of(self, segments):
        segments = segments.to(self._device)
        counts = torch.full(
            segments.shape[:1], segments.shape[1], device=self._device
        )
        return self.head.pooling.sums(segments, counts)

    @torch.no_grad()
    def _read(self, sums):
        pooled = self.head.pooling.finish(sums)
        logits = self.head.classifier(pooled).cpu()
        return [self.reader.read(row) for row in logits]

    def _classify(self, segments):
        length_s = self.segment_frames * self.frame_s
        found = []
        for emotion in self._read(self._of(segments)):
            start_s = self._n_segments * length_s
            found.append(Segment(start_s, start_s + length_s, emotion))
            self._n_segments += 1
        return found

    def finish(self, duration_s):
        """End the recording.

        Arguments
        ---------
        duration_s : float
            Its length in seconds.

        Returns
        -------
        segments : list of Segment
            The last one, if it is not out yet.
        emotion : Emotion or Attributes
            Of the whole recording.
        """
        segments = []
        if len(self._open):
            parts = [self._open]
            if self._before is not None:
                parts = [self._before, self._open]
            frames = torch.cat(parts)[-self.segment_frames :]
            (segment,) = self._classify(frames.unsqueeze(0))
            segments = [segment._replace(end_s=duration_s)]
        (emotion,) = self._read(self._sums)
        return segments, emotion

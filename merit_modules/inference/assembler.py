"""From windows to what a listener wants: sound, emotion over time, routing."""

from typing import NamedTuple

import torch

from merit_modules.inference.joiner import WindowJoiner


class Update(NamedTuple):
    """What became known of a recording.

    Arguments
    ---------
    enhanced : torch.Tensor or None
        The next enhanced samples (n,) at the recording's own sample rate;
        None if not asked for.
    segments : list
        Each :class:`~merit_modules.inference.emotion.Segment` that ended.
    routing : dict
        Task name to the best expert of the next frames (T,), int8.
    emotion : Emotion, Attributes or None
        Of the whole recording, once it is over.
    """

    enhanced: torch.Tensor | None
    segments: list
    routing: dict
    emotion: object


class Assembler:
    """Puts one recording together again.

    Arguments
    ---------
    windowing : Windowing
        How it was cut.
    tracker : EmotionTracker or None
        Follows the emotion; None if that is not asked for.
    convert : BlockResampler
        From the system's sample rate to the recording's own.
    """

    def __init__(self, windowing, tracker, convert):
        self.tracker = tracker
        self.convert = convert
        self._joiner = WindowJoiner(windowing)

    def add(self, window, result):
        """Take the next window.

        Arguments
        ---------
        window : Window
            Where it lies.
        result : WindowResult
            What the system made of it.

        Returns
        -------
        Update
            What became known.
        """
        return self._update(self._joiner.add(window, result))

    def _update(self, piece):
        enhanced, segments = piece.enhanced, []
        if enhanced is not None:
            enhanced = self.convert(enhanced)
        if self.tracker is not None:
            segments = self.tracker.add(piece.features)
        return Update(enhanced, segments, piece.routing, None)

    def finish(self, n_samples, duration_s):
        """End the recording.

        Arguments
        ---------
        n_samples : int
            Its length at the system's sample rate.
        duration_s : float
            Its length in seconds.

        Returns
        -------
        Update
            The rest, and the emotion of the whole.
        """
        last = self._update(self._joiner.finish(n_samples))
        if last.enhanced is not None:
            enhanced = torch.cat([last.enhanced, self.convert.finish()])
            last = last._replace(enhanced=enhanced)
        if self.tracker is None:
            return last
        segments, emotion = self.tracker.finish(duration_s)
        segments = last.segments + segments
        return last._replace(segments=segments, emotion=emotion)

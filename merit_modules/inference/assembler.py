"""From windows to what a listener wants: sound, emotion over time, routing."""

from typing import NamedTuple

import torch

from merit_modules.inference.windows import WindowFeeder, WindowJoiner, join


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
    engine : Engine
        Runs what comes behind the windows.
    tasks : sequence of str
        What is asked for.
    windowing : Windowing
        How the recording was cut.
    se_windowing : Windowing
        Windows of the SE head.
    tracker : EmotionTracker or None
        Follows the emotion; None if that is not asked for.
    convert : BlockResampler
        From the system's sample rate to the recording's own.
    """

    def __init__(
        self, engine, tasks, windowing, se_windowing, tracker, convert
    ):
        self.tasks = tasks
        self.tracker = tracker
        self.convert = convert
        self._joiner = WindowJoiner(windowing)
        self._se_stage = self._behind = None
        if "se" in tasks or engine.is_cascade:
            self._se_stage = SEStage(se_windowing, engine.enhance)
        if engine.is_cascade and "ser" in tasks:
            self._behind = _Behind(engine, windowing)

    def add(self, window, result):
        """Take the next window.

        Arguments
        ---------
        window : Window
            Where it lies.
        result : Piece or WholeResult
            What the system made of it; the latter if it is the whole
            recording.

        Returns
        -------
        Update
            What became known.
        """
        if window.is_whole:
            self._se_stage = self._behind = self._joiner = None
            return self._update(result.enhanced, result.piece)
        return self._settle(self._joiner.add(window, result))

    def _settle(self, piece, is_last=False):
        enhanced, heard = None, piece
        if self._se_stage is not None:
            enhanced = self._se_stage.add(piece.wav, piece.features["se"])
            if is_last:
                enhanced = torch.cat([enhanced, self._se_stage.finish()])
        if self._behind is not None:
            heard = self._behind.add(enhanced, is_last)
        return self._update(enhanced, heard)

    def _update(self, enhanced, heard):
        if "se" not in self.tasks:
            enhanced = None
        elif enhanced is not None:
            enhanced = self.convert(enhanced)
        if heard is None:  # a cascade's SER system waits for more
            return Update(enhanced, [], {}, None)
        segments = []
        if self.tracker is not None:
            segments = self.tracker.add(heard.features["ser"])
        routing = {t: e for t, e in heard.routing.items() if len(e)}
        return Update(enhanced, segments, routing, None)

    def finish(self, duration_s):
        """End the recording.

        Arguments
        ---------
        duration_s : float
            Its length in seconds.

        Returns
        -------
        Update
            The rest, and the emotion of the whole.
        """
        nothing = torch.zeros(0) if "se" in self.tasks else None
        last = Update(nothing, [], {}, None)
        if self._joiner is not None:
            last = self._settle(self._joiner.finish(), is_last=True)
        if last.enhanced is not None:
            enhanced = torch.cat([last.enhanced, self.convert.finish()])
            last = last._replace(enhanced=enhanced)
        if self.tracker is None:
            return last
        segments, emotion = self.tracker.finish(duration_s)
        segments = last.segments + segments
        return last._replace(segments=segments, emotion=emotion)


class _Behind:
    """The SER system of a cascade, on enhanced speech as it comes."""

    def __init__(self, engine, windowing):
        self.engine = engine
        self._feeder = WindowFeeder(windowing)
        self._joiner = WindowJoiner(windowing)

    def add(self, enhanced, is_last):
        """Take enhanced samples (n,); return what is settled, or None."""
        pieces = [
            self._joiner.add(window, self.engine.encode_behind(wav))
            for window, wav in self._feeder.feed(enhanced)
        ]
        if is_last:
            pieces += [
                self._joiner.add(window, self.engine.encode_behind(wav))
                for window, wav in self._feeder.close()
            ]
            pieces.append(self._joiner.finish())
        return join(pieces) if pieces else None


class SEStage:
    """Turns features and noisy audio into enhanced audio as they come.

    Arguments
    ---------
    windowing : Windowing
        Windows of the SE head.
    enhance : callable
        Features (T, R) and samples (n,) of a window to enhanced samples (n,).

    Example
    -------
    >>> from merit_modules.inference.windows import Windowing
    >>> stage = SEStage(
    ...     Windowing(640, 320, 640, 160, 320), enhance=lambda f, wav: 2 * wav
    ... )
    >>> wav, features = torch.randn(3000), torch.randn(9, 4)
    >>> first = stage.add(wav[:1600], features[:5])
    >>> last = stage.add(wav[1600:], features[5:])
    >>> parts = [first, last, stage.finish()]
    >>> torch.allclose(torch.cat(parts), 2 * wav)
    True
    """

    def __init__(self, windowing, enhance):
        self.enhance = enhance
        self.windowing = windowing
        self._feeder = WindowFeeder(windowing)
        self._features = None
        self._features_from = 0  # the frame where the kept ones begin
        self._tail = None

    def add(self, wav, features):
        """Take the next stretch.

        Arguments
        ---------
        wav : torch.Tensor
            Its noisy samples (n,).
        features : torch.Tensor
            Features of its frames (T, R).

        Returns
        -------
        torch.Tensor
            Enhanced samples (m,) that are settled by now and were not before.
        """
        if self._features is not None:
            features = torch.cat([self._features, features])
        self._features = features
        return self._run(self._feeder.feed(wav))

    def finish(self):
        """End the recording; return the rest of it (m,)."""
        settled = self._run(self._feeder.close())
        return torch.cat([settled, self._tail])

    def _run(self, windows):
        settled = [torch.zeros(0)]
        grid = self.windowing.grid
        for window, wav in windows:
            first = window.start // grid
            # Also the frame that begins at the window's end, if it is there.
            frames = self._features[first - self._features_from :]
            frames = frames[: len(wav) // grid + 1]
            enhanced = self.enhance(frames, wav)[: window.stop - window.start]
            settled.append(self._fade(window, enhanced))
            # Later windows begin later, but the last one not by much.
            self._features = self._features[first - self._features_from :]
            self._features_from = first
        return torch.cat(settled)

    def _fade(self, window, enhanced):
        half = self.windowing.fade // 2
        start = max(0, window.own_start - half) - window.start
        stop = max(start, window.own_stop - half - window.start)
        piece = enhanced[start:]
        if self._tail is not None:
            piece = piece.clone()
            n_fade = min(2 * half, len(piece), len(self._tail))
            rise = torch.arange(1, n_fade + 1) / (n_fade + 1)
            before = self._tail[:n_fade] * (1 - rise)
            piece[:n_fade] = piece[:n_fade] * rise + before
        piece, tail = piece[: stop - start], piece[stop - start :]
        self._tail = tail.clone()
        return piece

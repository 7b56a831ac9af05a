"""One recording on its way through a model, and what is told of it."""

from pathlib import Path
from typing import NamedTuple

import torch

from merit_modules.inference.audio import BlockResampler
from merit_modules.inference.emotion import Emotion, as_told
from merit_modules.inference.windows import WindowFeeder

#: Stands in place of an emotion where nobody can have spoken.
NO_SPEECH = "no speech"
#: Recordings below it hold no syllable.
SHORTEST_S = 0.1


class Analysis(NamedTuple):
    """What a model says of a recording.

    Arguments
    ---------
    name : str
        The recording's path, or what it was called.
    duration_s : float
        Its length in seconds.
    sample_rate_hz : int
        Its sample rate, and that of the enhanced speech.
    emotion : Emotion, Attributes or None
        Of the whole recording; None if not asked for.
    timeline : list
        Each :class:`~merit_modules.inference.emotion.Segment`, in order.
    routing : dict
        Task name to the best expert of each frame (T,), int8.
    frame_s : float
        Seconds from one frame to the next.
    enhanced : torch.Tensor or None
        Enhanced samples (n,), as many as the recording has; None if not asked
        for or written to a file.
    enhanced_path : Path or None
        The file with the enhanced speech.
    gain : float
        What the file's samples were multiplied by, so as not to clip.
    warnings : tuple of str
        What makes one doubt the recording, or that there is speech in it.
    """

    name: str
    duration_s: float
    sample_rate_hz: int
    emotion: object
    timeline: list
    routing: dict
    frame_s: float
    enhanced: torch.Tensor | None
    enhanced_path: Path | None
    gain: float
    warnings: tuple = ()

    def as_dict(self):
        """Give all but sound and routing as plain values.

        Returns
        -------
        dict
            Ready for JSON.
        """
        told = {
            "file": self.name,
            "duration_s": round(self.duration_s, 4),
            "sample_rate_hz": self.sample_rate_hz,
        }
        if self.emotion is not None:
            told |= as_told(self.emotion)
            told["timeline"] = [segment.as_dict() for segment in self.timeline]
        if self.enhanced_path is not None:
            told |= {
                "enhanced": str(self.enhanced_path),
                "gain": round(self.gain, 4),
            }
        if self.warnings:
            told["warnings"] = list(self.warnings)
        return told


class Recording:
    """Reads a recording window by window and collects its results.

    Windows may be read by another thread than the one that collects.

    Arguments
    ---------
    source : FileSource or ArraySource
        The recording.
    windowing : Windowing
        How it is cut.
    assemble : callable
        Makes its :class:`~merit_modules.inference.assembler.Assembler`, given
        the conversion back to the recording's own sample rate.
    sample_rate_hz : int
        The system's sample rate.
    sink : AudioSink or None
        Takes the enhanced speech; without one it is kept.
    """

    def __init__(self, source, windowing, assemble, sample_rate_hz, sink=None):
        self.source = source
        self.sink = sink
        self.frame_s = windowing.grid / sample_rate_hz
        rates = source.sample_rate_hz, sample_rate_hz
        self._to_system = BlockResampler(*rates)
        self._feeder = WindowFeeder(windowing)
        self._assembler = assemble(BlockResampler(*reversed(rates)))
        self._enhanced, self._timeline, self._routing = [], [], {}

    @property
    def duration_s(self):
        """Length in seconds."""
        return self.source.n_samples / self.source.sample_rate_hz

    def windows(self):
        """Read the recording.

        Yields
        ------
        tuple
            Each window and its samples.
        """
        for block in self.source.blocks():
            yield from self._feeder.feed(self._to_system(block))
        yield from self._feeder.feed(self._to_system.finish())
        yield from self._feeder.close()

    def take(self, window, result):
        """Collect what the system made of the next window.

        Arguments
        ---------
        window : Window
            Where it lies.
        result : Piece or WholeResult
            The result.
        """
        self._collect(self._assembler.add(window, result))

    def _collect(self, update):
        if update.enhanced is not None:
            if self.sink is None:
                self._enhanced.append(update.enhanced)
            else:
                self.sink.write(update.enhanced)
        self._timeline += update.segments
        for task, experts in update.routing.items():
            self._routing.setdefault(task, []).append(experts)

    def finish(self):
        """End the recording.

        Returns
        -------
        Analysis
            All that is known of it.
        """
        last = self._assembler.finish(self.duration_s)
        self._collect(last)
        enhanced = path = None
        gain = 1.0
        if self.sink is not None:
            gain, path = self.sink.close(), self.sink.path
        elif self._enhanced:
            enhanced = torch.cat(self._enhanced)[: self.source.n_samples]
        doubts = self.source.doubts
        emotion = last.emotion
        no_speech = self._no_speech(doubts)
        if no_speech:
            doubts["speech"] = f"{NO_SPEECH}: {no_speech}"
            if isinstance(emotion, Emotion):
                emotion = emotion._replace(label=NO_SPEECH, score=None)
        return Analysis(
            self.source.name,
            self.duration_s,
            self.source.sample_rate_hz,
            emotion,
            self._timeline,
            {task: torch.cat(parts) for task, parts in self._routing.items()},
            self.frame_s,
            enhanced,
            path,
            gain,
            tuple(doubts.values()),
        )

    def _no_speech(self, doubts):
        """Say why there can be no speech in it; empty if there can."""
        if self.duration_s < SHORTEST_S:
            return f"shorter than {SHORTEST_S:g} s"
        return doubts.get("soft", "")

    def discard(self):
        """Give up: no file is written."""
        if self.sink is not None:
            self.sink.discard()

"""A trained model in use: on files, arrays, folders and live audio."""

from pathlib import Path

import torch

from merit_modules.data.kinds import RATE_HZ, Kind, number, whole
from merit_modules.files import find_audio
from merit_modules.inference.assembler import Assembler
from merit_modules.inference.audio import (
    AudioSink,
    BlockResampler,
    open_source,
)
from merit_modules.inference.batch_interface import BatchInterface
from merit_modules.inference.batches import run_recordings
from merit_modules.inference.emotion import (
    EmotionTracker,
)
from merit_modules.inference.live import LiveSession
from merit_modules.inference.recording import Recording
from merit_modules.inference.windows import (
    LIVE,
    Windowing,
    latency,
)

#: Seconds of a segment of the timeline, unless told otherwise.
SEGMENT_S = 3.0


class SparseMERIT(BatchInterface):
    """Enhances speech and recognises emotions, by a trained model.

    Any system of this package that was saved as a folder (``merit export``)
    can be loaded; see :meth:`from_hparams`.

    Waveforms are tensors at the model's sample rate; recordings are whatever
    holds audio: a path to a file, a tensor or an array. Recordings of any
    length run in memory that does not grow with them: those of more than
    ``chunking`` can hold are computed in overlapping windows.

    Arguments
    ---------
    *args : tuple
        Arguments of SpeechBrain's ``Pretrained``.
    **kwargs : dict
        Likewise.

    Example
    -------
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> model = SparseMERIT.from_hparams(source=folder)
    >>> found = model.analyze(torch.randn(8000))
    >>> found.emotion.label in model.labels, found.enhanced.shape
    (True, torch.Size([8000]))
    """

    # ---- batches ------------------------------------------------------

    # ---- files, the SpeechBrain way -----------------------------------

    def enhance_file(self, path, output_filename=None, encoding="float"):
        """Enhance a recording of any length.

        Arguments
        ---------
        path : str or Path
            File that libsndfile reads. Channels are averaged.
        output_filename : str or Path, optional
            File to write, in the format of its ending.
        encoding : str
            Samples of that file: ``float`` or ``pcm16`` (softer, if it would
            clip else).

        Returns
        -------
        torch.Tensor or Path
            Enhanced samples (n,) at the file's own rate and level, as many as
            it has; or the file that was written.
        """
        found = self._run_one(
            path, ["se"], output_filename=output_filename, encoding=encoding
        )
        return (
            found.enhanced if output_filename is None else found.enhanced_path
        )

    def classify_file(self, path):
        """Recognise the emotion of a recording of any length.

        Arguments
        ---------
        path : str or Path
            File that libsndfile reads. Channels are averaged.

        Returns
        -------
        tuple
            As of :meth:`classify_batch`, for a batch of one.
        """
        self._check_classes()
        emotion = self._run_one(path, ["ser"]).emotion
        out_prob = torch.tensor([list(emotion.probabilities.values())])
        score, index = out_prob.max(dim=-1)
        return out_prob, score, index, [emotion.label]

    def analyze_file(
        self,
        path,
        output_filename=None,
        encoding="float",
        segment_s=SEGMENT_S,
        progress=None,
    ):
        """Enhance and classify a recording of any length in one pass.

        Arguments
        ---------
        path : str or Path
            File that libsndfile reads. Channels are averaged.
        output_filename : str or Path, optional
            File for the enhanced speech; kept in memory by default.
        encoding : str
            Samples of that file: ``float`` or ``pcm16``.
        segment_s : float
            Length of a segment of the timeline in seconds.
        progress : callable, optional
            Called with the recording and each window that was computed.

        Returns
        -------
        Analysis
            Emotion, timeline, routing and enhanced speech.
        """
        return self._run_one(
            path,
            self.engine.tasks,
            output_filename=output_filename,
            encoding=encoding,
            segment_s=segment_s,
            progress=progress,
        )

    # ---- whatever holds audio -----------------------------------------

    def enhance(self, audio, sample_rate_hz=None):
        """Enhance recordings.

        Arguments
        ---------
        audio : path, torch.Tensor, numpy.ndarray, or list of them
            A recording; the path of a folder stands for all audio in it.
            Waveforms are (n,) or (channels, n).
        sample_rate_hz : int, optional
            Sample rate of waveforms; the model's by default.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            Enhanced samples (n,) at the recording's own rate.
        """
        return self._map(audio, ["se"], lambda a: a.enhanced, sample_rate_hz)

    def classify(self, audio, sample_rate_hz=None):
        """Recognise the emotion of recordings.

        Arguments
        ---------
        audio : path, torch.Tensor, numpy.ndarray, or list of them
            See :meth:`enhance`.
        sample_rate_hz : int, optional
            Sample rate of waveforms; the model's by default.

        Returns
        -------
        Emotion, Attributes or list of them
            Label, score and probabilities; or attributes.
        """
        return self._map(audio, ["ser"], lambda a: a.emotion, sample_rate_hz)

    def analyze(self, audio, sample_rate_hz=None, segment_s=SEGMENT_S):
        """Enhance and classify recordings, with timeline and routing.

        Arguments
        ---------
        audio : path, torch.Tensor, numpy.ndarray, or list of them
            See :meth:`enhance`.
        sample_rate_hz : int, optional
            Sample rate of waveforms; the model's by default.
        segment_s : float
            Length of a segment of the timeline in seconds.

        Returns
        -------
        Analysis or list of Analysis
            All that the model can tell.
        """
        return self._map(
            audio, self.engine.tasks, lambda a: a, sample_rate_hz, segment_s
        )

    def timeline(self, audio, sample_rate_hz=None, segment_s=SEGMENT_S):
        """Follow the emotion over the time of recordings.

        Arguments
        ---------
        audio : path, torch.Tensor, numpy.ndarray, or list of them
            See :meth:`enhance`.
        sample_rate_hz : int, optional
            Sample rate of waveforms; the model's by default.
        segment_s : float
            Length of a segment in seconds.

        Returns
        -------
        list of Segment, or list of such lists
            Start, end and emotion of each segment.
        """
        return self._map(
            audio, ["ser"], lambda a: a.timeline, sample_rate_hz, segment_s
        )

    def _map(self, audio, tasks, pick, sample_rate_hz, segment_s=SEGMENT_S):
        single = not isinstance(audio, list | tuple)
        if isinstance(audio, str | Path) and Path(audio).is_dir():
            single, audio = False, find_audio(audio, "recordings")
        sources = [audio] if single else audio
        items = [
            (number, self.opener(source, tasks, sample_rate_hz, segment_s))
            for number, source in enumerate(sources)
        ]
        found = []
        for outcome in self.run(items, tasks):
            if outcome.error is not None:
                raise outcome.error
            found.append(pick(outcome.analysis))
        return found[0] if single else found

    def _run_one(self, path, tasks, progress=None, **options):
        items = [(0, self.opener(path, tasks, **options))]
        (outcome,) = self.run(items, tasks, progress=progress)
        if outcome.error is not None:
            raise outcome.error
        return outcome.analysis

    # ---- the parts, for whoever wants more ----------------------------

    def opener(
        self,
        audio,
        tasks,
        sample_rate_hz=None,
        segment_s=SEGMENT_S,
        output_filename=None,
        encoding="float",
    ):
        """Make the function that opens a recording when it is its turn.

        Arguments
        ---------
        audio : path, torch.Tensor or numpy.ndarray
            The recording.
        tasks : sequence of str
            ``se``, ``ser`` or both.
        sample_rate_hz : int, optional
            Sample rate of a waveform; the model's by default.
        segment_s : float
            Length of a segment of the timeline in seconds.
        output_filename : str or Path, optional
            File for the enhanced speech; kept in memory by default.
        encoding : str
            Samples of that file: ``float`` or ``pcm16``.

        Returns
        -------
        callable
            Without arguments; gives a
            :class:`~merit_modules.inference.recording.Recording`.
        """
        self.engine.check_tasks(tasks)
        windowing = self.windowing(self.chunking)
        assemble = self._assemble(tasks, self.chunking, segment_s)

        def open_recording():
            rate_hz = sample_rate_hz
            if rate_hz is None:
                rate_hz = self.sample_rate_hz
            source = open_source(audio, rate_hz)
            sink = None
            if output_filename is not None and "se" in tasks:
                sink = AudioSink(
                    output_filename,
                    source.sample_rate_hz,
                    source.n_samples,
                    encoding,
                )
            return Recording(
                source, windowing, assemble, self.sample_rate_hz, sink
            )

        return open_recording

    def run(self, items, tasks, batch_s=0.0, n_readers=0, progress=None):
        """Run many recordings; an error ends only its own.

        Arguments
        ---------
        items : iterable of tuple
            Key, and what :meth:`opener` returned.
        tasks : sequence of str
            What to compute.
        batch_s : float
            Seconds of audio that are computed together; 0: one window at a
            time.
        n_readers : int
            Recordings that are read at the same time, beside the model.
        progress : callable, optional
            Called with the recording and each window that was computed.

        Returns
        -------
        iterator of Outcome
            Of each recording.
        """
        number("seconds", least=0).check("batch_s", batch_s)
        whole(0).check("n_readers", n_readers)
        batch_samples = round(batch_s * self.sample_rate_hz)
        return run_recordings(
            items, self.engine, tasks, batch_samples, n_readers, progress
        )

    def live(
        self,
        sample_rate_hz=None,
        tasks=None,
        chunking=LIVE,
        segment_s=SEGMENT_S,
    ):
        """Start to listen: audio comes block by block, results likewise.

        Arguments
        ---------
        sample_rate_hz : int, optional
            Sample rate of the blocks; the model's by default.
        tasks : sequence of str, optional
            ``se``, ``ser`` or both; all that the model can do by default.
        chunking : Chunking
            How much is computed at once; sets the latency.
        segment_s : float
            Length of a segment of the timeline in seconds.

        Returns
        -------
        LiveSession
            Give it blocks.
        """
        tasks = self.engine.tasks if tasks is None else tasks
        self.engine.check_tasks(tasks)
        if sample_rate_hz is None:
            sample_rate_hz = self.sample_rate_hz
        sample_rate_hz = int(RATE_HZ.check("sample_rate_hz", sample_rate_hz))
        rates = sample_rate_hz, self.sample_rate_hz
        there, back = BlockResampler(*rates), BlockResampler(*reversed(rates))
        windowing = self.windowing(chunking)
        behind = self._se_windowing(chunking) if "se" in tasks else None
        waits_s = latency(windowing, behind) / self.sample_rate_hz
        return LiveSession(
            self.engine,
            tasks,
            windowing,
            self._assemble(tasks, chunking, segment_s)(back),
            there,
            rates[0],
            waits_s + there.latency_s + back.latency_s,
        )

    def _assemble(self, tasks, chunking, segment_s):
        tracker_of = self._tracker_of(segment_s)
        cut = self.windowing(chunking), self._se_windowing(chunking)

        def assemble(convert):
            tracker = tracker_of() if "ser" in tasks else None
            return Assembler(self.engine, tasks, *cut, tracker, convert)

        return assemble

    def windowing(self, chunking=None):
        """Say how recordings are cut.

        Arguments
        ---------
        chunking : Chunking, optional
            Sizes in seconds; those of the model by default.

        Returns
        -------
        Windowing
            Sizes in samples of the windows of the encoder.
        """
        chunking = self.chunking if chunking is None else chunking
        return self._cut(chunking.encoder, 0.0)

    def _se_windowing(self, chunking):
        return self._cut(chunking.se_head, chunking.fade_s)

    def _cut(self, sizes, fade_s):
        hop = self.engine.frame_hop
        return Windowing.of(sizes, fade_s, self.sample_rate_hz, hop)

    def _tracker_of(self, segment_s):
        frame_s = self.engine.frame_hop / self.sample_rate_hz
        Kind(
            f"at least a frame ({frame_s:g} s)", number(least=frame_s).accepts
        ).check("segment_s", segment_s)
        return lambda: EmotionTracker(
            self.mods.system.ser_head,
            self.reader,
            round(segment_s / frame_s),
            frame_s,
            self.device,
        )

"""A trained model in use: SpeechBrain's ``Pretrained`` for both tasks."""

from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ruamel.yaml.error import YAMLError
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import LocalStrategy

from merit_modules.cpu.int8 import check_device, is_quantized, quantize_
from merit_modules.errors import InputError
from merit_modules.files import find_audio
from merit_modules.inference.assembler import Assembler
from merit_modules.inference.audio import (
    AudioSink,
    BlockResampler,
    open_source,
)
from merit_modules.inference.batches import run_recordings
from merit_modules.inference.emotion import (
    ClassReader,
    EmotionTracker,
    make_reader,
)
from merit_modules.inference.engine import Engine
from merit_modules.inference.live import LiveSession
from merit_modules.inference.prepack import prepack_
from merit_modules.inference.recording import Recording
from merit_modules.inference.windows import (
    LIVE,
    MIN_SAMPLES,
    RECORDED,
    Windowing,
    latency,
)
from merit_modules.lengths import absolute_lengths, valid_mask
from merit_modules.pretrained import HPARAMS_FILE

#: Seconds of a segment of the timeline, unless told otherwise.
SEGMENT_S = 3.0


class BatchAnalysis(NamedTuple):
    """What a model says of a batch; None for a task that it lacks.

    Arguments
    ---------
    enhanced : torch.Tensor or None
        Enhanced waveforms (B, N); zero in padding.
    out_prob : torch.Tensor or None
        Probabilities (B, C), or attributes (B, A).
    score : torch.Tensor or None
        Probability of the best class (B,); None for attributes.
    index : torch.Tensor or None
        The best class (B,); None for attributes.
    text_lab : list of str or None
        Its label; None for attributes.
    routing : dict
        Task name to the best expert of each frame (B, T); -1 in padding.
    n_frames : torch.Tensor
        Valid frames (B,).
    """

    enhanced: torch.Tensor | None
    out_prob: torch.Tensor | None
    score: torch.Tensor | None
    index: torch.Tensor | None
    text_lab: list | None
    routing: dict
    n_frames: torch.Tensor


class SparseMERIT(Pretrained):
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

    HPARAMS_NEEDED = ["labels", "sample_rate_hz"]
    MODULES_NEEDED = ["system"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval()
        settings = vars(self.hparams)
        self.labels = list(self.hparams.labels)
        self.sample_rate_hz = self.hparams.sample_rate_hz
        #: The training set's name; None if nobody wrote it down.
        self.corpus_name = settings.get("corpus_name")
        self.chunking = RECORDED
        self.reader = make_reader(
            settings.get("ser_target", "emotion"),
            self.labels,
            settings.get("attribute_scale"),
        )
        self.engine = Engine(self.mods.system, self.device, self.inference_ctx)

    @classmethod
    def from_hparams(
        cls,
        source,
        hparams_file=HPARAMS_FILE,
        savedir=None,
        local_strategy=None,
        int8=False,
        prepack=True,
        **kwargs,
    ):
        """Load a model from a folder or from the hub.

        Nothing is asked of the network if the files are here, and no link is
        made: a hub's files stay in its cache, unless ``savedir`` is given,
        into which they are copied.

        Arguments
        ---------
        source : str or Path
            Folder, or ``owner/name`` on the hub. Its YAML names the classes
            to build, so load from people whom you trust.
        hparams_file : str
            Name of the YAML file.
        savedir : str or Path, optional
            Folder for a copy of the files.
        local_strategy : speechbrain.utils.fetching.LocalStrategy, optional
            How the copy is made, if not by copying.
        int8 : bool
            Quantise the linear layers after loading, for CPUs; see
            :mod:`merit_modules.cpu.int8`. A folder that was exported with
            ``--int8`` is quantised anyway.
        prepack : bool
            Arrange the weights after loading as a CPU reads them fastest; see
            ``inference.prepack``. The model can then neither be
            trained nor moved nor saved. Has no effect on a GPU, in another
            precision than fp32, or with ``freeze_params=False``.
        **kwargs : dict
            As SpeechBrain takes them: ``run_opts={"device": "cuda"}``,
            ``overrides``...

        Returns
        -------
        SparseMERIT
            The model, in evaluation mode.

        Raises
        ------
        InputError
            If a file is missing or broken, or the weights do not fit; or if
            a quantised model is to run on another device than a CPU.
        """
        source = str(source)
        local = Path(source)
        if local.exists() and not (local / hparams_file).is_file():
            raise InputError(
                f"{local / hparams_file}: no such file; expected the folder of "
                "a model (merit export makes one of a finished run)"
            )
        if local_strategy is None:
            local_strategy = (
                LocalStrategy.NO_LINK if savedir is None else LocalStrategy.COPY
            )
        # The weights to be replaced must not cost the caller random numbers.
        with torch.random.fork_rng(devices=[]), _explained(source):
            model = super().from_hparams(
                source,
                hparams_file,
                savedir=savedir,
                local_strategy=local_strategy,
                **kwargs,
            )
        if int8 or is_quantized(model.mods.system):
            check_device(model.device)
            quantize_(model.mods.system)
        is_frozen = kwargs.get("freeze_params", True)
        if prepack and is_frozen and model.precision == "fp32":
            prepack_(model.mods.system)
        return model

    # ---- batches ------------------------------------------------------

    def enhance_batch(self, wavs, wav_lens=None):
        """Enhance a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N) at the model's sample rate.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.

        Returns
        -------
        torch.Tensor
            Enhanced waveforms (B, N) in the scale of the input.
        """
        return self._analyze_batch(wavs, wav_lens, ["se"]).enhanced

    def classify_batch(self, wavs, wav_lens=None):
        """Recognise the emotion of each waveform of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N) at the model's sample rate.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.

        Returns
        -------
        out_prob : torch.Tensor
            Probabilities (B, C).
        score : torch.Tensor
            Probability of the best class (B,).
        index : torch.Tensor
            The best class (B,).
        text_lab : list of str
            Its label.

        Raises
        ------
        InputError
            If the model estimates attributes: they have no class.
        """
        self._check_classes()
        return self._analyze_batch(wavs, wav_lens, ["ser"])[1:5]

    def analyze_batch(self, wavs, wav_lens=None):
        """Enhance and classify a batch in one pass of the SSL encoder.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N) at the model's sample rate.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.

        Returns
        -------
        BatchAnalysis
            All that the model can tell, with routing.
        """
        return self._analyze_batch(wavs, wav_lens, self.engine.tasks)

    def forward(self, wavs, wav_lens=None):
        """See :meth:`analyze_batch`."""
        return self.analyze_batch(wavs, wav_lens)

    def _analyze_batch(self, wavs, wav_lens, tasks):
        self.engine.check_tasks(tasks)
        n_max = wavs.shape[-1]
        wavs, wav_lens = _check_batch(wavs, wav_lens)
        output, enhanced = self.engine.forward(wavs, wav_lens, tasks)
        if enhanced is not None:
            enhanced = enhanced[:, :n_max]
        recognised = (None, None, None, None)
        if "ser" in tasks:
            recognised = self._recognise(output.logits)
        mixture = output.mixture
        return BatchAnalysis(
            enhanced,
            *recognised,
            {task: mixture.expert_map(task) for task in mixture.routing},
            mixture.valid.sum(dim=1),
        )

    def _recognise(self, logits):
        out_prob = self.reader.activate(logits)
        if not isinstance(self.reader, ClassReader):
            return out_prob, None, None, None
        score, index = out_prob.max(dim=-1)
        return out_prob, score, index, [self.labels[i] for i in index.tolist()]

    def _check_classes(self):
        if not isinstance(self.reader, ClassReader):
            raise InputError(
                "this model estimates attributes, not classes: use analyze(), "
                "analyze_file() or analyze_batch()"
            )

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
            source = open_source(audio, sample_rate_hz or self.sample_rate_hz)
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
        tasks = self.engine.tasks if tasks is None else list(tasks)
        self.engine.check_tasks(tasks)
        rates = sample_rate_hz or self.sample_rate_hz, self.sample_rate_hz
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
        if not frame_s <= segment_s < float("inf"):
            raise InputError(
                f"segment_s: expected at least a frame ({frame_s:g} s), got "
                f"{segment_s}"
            )
        return lambda: EmotionTracker(
            self.mods.system.ser_head,
            self.reader,
            round(segment_s / frame_s),
            frame_s,
            self.device,
        )


def _check_batch(wavs, wav_lens):
    """Check a batch; continue what is shorter than a frame with zeros."""
    if not torch.is_tensor(wavs):
        wavs = torch.from_numpy(np.asarray(wavs, dtype=np.float32))
    if wavs.dim() != 2 or not wavs.numel():
        raise InputError(
            f"wavs: expected waveforms (batch, samples), got a tensor of shape "
            f"{tuple(wavs.shape)}"
        )
    if wav_lens is None:
        wav_lens = torch.ones(len(wavs))
    n_samples = absolute_lengths(wav_lens.to(wavs.device), wavs.shape[1])
    samples = valid_mask(n_samples, wavs.shape[1])
    wavs = torch.where(samples, wavs.float(), 0.0)
    bad = ~torch.isfinite(wavs).all(dim=1)
    if bad.any():
        raise InputError(
            f"wavs: waveform {int(bad.nonzero()[0])} of the batch holds NaN or "
            "infinite samples"
        )
    missing = max(0, MIN_SAMPLES - wavs.shape[1])
    wavs = torch.nn.functional.pad(wavs, (0, missing))
    return wavs, n_samples.clamp_min(MIN_SAMPLES).double() / wavs.shape[1]


@contextmanager
def _explained(source):
    """Name the source in errors of loading that do not."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{source}: expected the folder of a model, or its name on the "
            f"hub: {reason}"
        ) from error

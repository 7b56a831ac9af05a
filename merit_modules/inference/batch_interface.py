"""SpeechBrain's ``Pretrained`` for both tasks, on batches of waveforms."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ruamel.yaml.error import YAMLError
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import LocalStrategy, fetch

from merit_modules.cpu.int8 import check_device, is_quantized, quantize_
from merit_modules.data.kinds import DEVICE, NULL, either, numbered
from merit_modules.errors import InputError
from merit_modules.files import naming_source
from merit_modules.inference.audio import check_scale
from merit_modules.inference.emotion import (
    ClassReader,
    make_reader,
)
from merit_modules.inference.engine import Engine
from merit_modules.inference.prepack import arrange_, prepack_
from merit_modules.inference.windows import (
    MIN_SAMPLES,
    RECORDED,
)
from merit_modules.lengths import absolute_lengths, valid_mask
from merit_modules.pretrained import HPARAMS_FILE, WEIGHTS_FILE
from merit_modules.pretrained.trust import check_files

#: Weights as SpeechBrain's ``Pretrainer`` names them in a savedir.
COLLECTED = "system.ckpt"
#: Audio has no higher sample rate.
MAX_RATE_HZ = 384_000


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


class BatchInterface(Pretrained):
    """Enhances and classifies batches, as SpeechBrain's interfaces do.

    Arguments
    ---------
    *args : tuple
        Arguments of SpeechBrain's ``Pretrained``.
    **kwargs : dict
        Likewise.
    """

    HPARAMS_NEEDED = ["labels", "sample_rate_hz"]
    MODULES_NEEDED = ["system"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval()
        settings = vars(self.hparams)
        _check_facts(settings, self.mods.system)
        self.labels = list(self.hparams.labels)
        self.sample_rate_hz = self.hparams.sample_rate_hz
        #: The training set's name; None if nobody wrote it down.
        self.corpus_name = settings.get("corpus_name")
        self.chunking = RECORDED
        self.reader = make_reader(
            settings.get("ser_target", "emotion"),
            self.labels,
            settings.get("attribute_scale"),
            settings.get("temperature", 1.0),
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
        trust=False,
        **kwargs,
    ):
        """Load a model from a folder or from the hub.

        Nothing is asked of the network if the files are here, and no link is
        made: a hub's files stay in its cache, unless ``savedir`` is given,
        into which they are copied.

        Arguments
        ---------
        source : str or Path
            Folder, or ``owner/name`` on the hub.
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
            Arrange the weights after loading as the device reads them fastest;
            see ``inference.prepack``. The model can then neither be trained
            nor moved nor saved. Has no effect with ``freeze_params=False``, or
            on a CPU in another precision than fp32. On a GPU,
            ``run_opts={"precision": "bf16"}`` keeps large weights in bf16.
        trust : bool
            Whether its YAML may build and call whatever it names, as
            SpeechBrain lets it; else only what ``merit export`` writes.
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
            If a file is missing or broken, the weights do not fit, or the
            YAML names what no model does; or if a quantised model is to run
            on another device than a CPU.
        """
        device = (kwargs.get("run_opts") or {}).get("device")
        either(NULL, DEVICE).check("device", device)
        kwargs["run_opts"] = numbered(kwargs.get("run_opts"))
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
        errors = OSError, ValueError, YAMLError
        with (
            torch.random.fork_rng(devices=[]),
            naming_source(source, "the folder of a model", errors),
        ):
            if not trust:
                # The very file that SpeechBrain is going to load.
                path = fetch(
                    hparams_file,
                    source,
                    savedir=savedir,
                    local_strategy=local_strategy,
                )
                check_files(path, _weights_of(source))
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
        if prepack and is_frozen:
            model._prepare(model.mods.system)
        return model

    def _prepare(self, system):
        if self.device_type != "cpu":
            half = {"bf16": torch.bfloat16, "fp16": torch.float16}
            arrange_(system, half.get(self.precision))
        elif self.precision == "fp32":
            prepack_(system)

    def enhance_batch(self, wavs, wav_lens=None, lengths=None):
        """Enhance a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N) at the model's sample rate.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        lengths : torch.Tensor, optional
            The same by the name that some interfaces of SpeechBrain use.

        Returns
        -------
        torch.Tensor
            Enhanced waveforms (B, N) in the scale of the input.
        """
        wav_lens = _either(wav_lens, lengths)
        return self._analyze_batch(wavs, wav_lens, ["se"]).enhanced

    def classify_batch(self, wavs, wav_lens=None, lengths=None):
        """Recognise the emotion of each waveform of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N) at the model's sample rate.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        lengths : torch.Tensor, optional
            The same by the name that some interfaces of SpeechBrain use.

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
        wav_lens = _either(wav_lens, lengths)
        return self._analyze_batch(wavs, wav_lens, ["ser"])[1:5]

    def analyze_batch(self, wavs, wav_lens=None, lengths=None):
        """Enhance and classify a batch in one pass of the SSL encoder.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms (B, N) at the model's sample rate.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        lengths : torch.Tensor, optional
            The same by the name that some interfaces of SpeechBrain use.

        Returns
        -------
        BatchAnalysis
            All that the model can tell, with routing.
        """
        wav_lens = _either(wav_lens, lengths)
        return self._analyze_batch(wavs, wav_lens, self.engine.tasks)

    def forward(self, wavs, wav_lens=None, lengths=None):
        """See :meth:`analyze_batch`."""
        return self.analyze_batch(wavs, wav_lens, lengths)

    def _analyze_batch(self, wavs, wav_lens, tasks):
        self.engine.check_tasks(tasks)
        wavs, wav_lens, n_max = _check_batch(wavs, wav_lens)
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


def _check_facts(settings, system):
    """Raise unless what a folder says of its model can be so."""
    labels, rate_hz = settings["labels"], settings["sample_rate_hz"]
    if type(rate_hz) is not int or not 1000 <= rate_hz <= MAX_RATE_HZ:
        raise InputError(
            f"sample_rate_hz: expected 1000 to {MAX_RATE_HZ} Hz, got "
            f"{rate_hz!r}"
        )
    temperature = settings.get("temperature", 1.0)
    if not (isinstance(temperature, float) and 0.01 <= temperature <= 100):
        raise InputError(
            f"temperature: expected 0.01 to 100, got {temperature!r}"
        )
    texts = isinstance(labels, list | tuple) and all(
        isinstance(label, str) and label.strip() for label in labels
    )
    if not texts or len(set(labels)) < len(labels):
        raise InputError(f"labels: expected different names, got {labels!r}")
    n_classes = getattr(system.ser_head, "n_classes", None)
    if n_classes not in (None, len(labels)):
        raise InputError(
            f"labels: expected {n_classes}, as many as the SER head has "
            f"outputs, got {len(labels)}: {', '.join(labels)}"
        )


def _weights_of(source):
    """Return the local path of the weights that are going to be loaded."""
    collected = Path(source) / COLLECTED  # in a savedir
    if collected.exists() and not (Path(source) / WEIGHTS_FILE).exists():
        return collected
    return fetch(WEIGHTS_FILE, source, local_strategy=LocalStrategy.NO_LINK)


def _either(wav_lens, lengths):
    if wav_lens is not None and lengths is not None:
        raise InputError("expected wav_lens or lengths, got both")
    return lengths if wav_lens is None else wav_lens


def _check_batch(wavs, wav_lens):
    """Check a batch; continue what is shorter than a frame with zeros."""
    try:
        if not torch.is_tensor(wavs):
            wavs = torch.from_numpy(np.asarray(wavs, dtype=np.float32))
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        wav_lens = torch.as_tensor(wav_lens)
    except (TypeError, ValueError) as error:
        raise InputError(f"wavs, wav_lens: expected tensors: {error}") from None
    if wavs.dim() != 2 or not wavs.numel():
        raise InputError(
            f"wavs: expected waveforms (batch, samples), got a tensor of shape "
            f"{tuple(wavs.shape)}"
        )
    if not wavs.is_floating_point():
        raise InputError(
            f"wavs: expected floats of full scale 1, got {wavs.dtype}; "
            "analyze() takes integers"
        )
    if wav_lens.shape != wavs.shape[:1]:
        raise InputError(
            f"wav_lens: expected {len(wavs)} relative lengths, got a tensor of "
            f"shape {tuple(wav_lens.shape)}"
        )
    n_samples = absolute_lengths(wav_lens.to(wavs.device), wavs.shape[1])
    samples = valid_mask(n_samples, wavs.shape[1])
    wavs = torch.where(samples, wavs.float(), 0.0)
    check_scale(wavs.detach(), "wavs")
    bad = ~torch.isfinite(wavs).all(dim=1)
    if bad.any():
        raise InputError(
            f"wavs: waveform {int(bad.nonzero()[0])} of the batch holds NaN or "
            "infinite samples"
        )
    n_max = wavs.shape[1]
    missing = max(0, MIN_SAMPLES - n_max)
    wavs = torch.nn.functional.pad(wavs, (0, missing))
    wav_lens = n_samples.clamp_min(MIN_SAMPLES).double() / wavs.shape[1]
    return wavs, wav_lens, n_max

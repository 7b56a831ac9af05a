"""Whatever holds audio, as blocks of mono samples: files, tensors, arrays."""

import os
import tempfile
from math import ceil, gcd, isfinite
from pathlib import Path

import numpy as np
import soundfile
import torch

from merit_modules.data.audio import (
    check_finite,
    open_audio,
    unreadable,
)
from merit_modules.data.doubts import Doubts
from merit_modules.data.kinds import RATE_HZ
from merit_modules.data.resampling import resampler
from merit_modules.errors import InputError

BLOCK_S = 10.0


class FileSource:
    """An audio file that libsndfile reads, block by block.

    Arguments
    ---------
    path : str or Path
        The file.
    max_values : int, optional
        Most samples, of all channels together.

    Raises
    ------
    InputError
        If it is missing, unreadable, empty, cut off or too large.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> source = FileSource(path)
    >>> source.sample_rate_hz, [len(b) for b in source.blocks()]
    (8000, [4000])
    """

    def __init__(self, path, max_values=None):
        self.name = str(path)
        with open_audio(path, max_values) as audio:
            self.sample_rate_hz = audio.samplerate
            self.n_channels = audio.channels
            self.n_samples = audio.frames
            self._told = audio.doubts
        self._heard = Doubts()

    @property
    def doubts(self):
        """Kind of doubt to a sentence, once it has been read (dict)."""
        return {**self._told, **self._heard.found()}

    def blocks(self):
        """Read it.

        Yields
        ------
        torch.Tensor
            Samples (n,), float32, channels averaged.

        Raises
        ------
        InputError
            If a block cannot be read, or holds NaN or infinite samples.
        """
        size, done = max(1, round(BLOCK_S * self.sample_rate_hz)), 0
        self._heard = Doubts()
        with open_audio(self.name) as audio:
            while done < self.n_samples:
                try:
                    samples = audio.read(size, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise unreadable(self.name, error) from None
                if not len(samples):
                    raise InputError(
                        f"{self.name}: the audio file is truncated: its header "
                        f"promises {self.n_samples} samples, reading stopped "
                        f"at {done}"
                    )
                self._heard.hear(samples)
                yield _to_mono(self, samples, done)
                done += len(samples)


class ArraySource:
    """A waveform in memory.

    Arguments
    ---------
    samples : torch.Tensor or numpy.ndarray
        Samples (n,) or (channels, n): floats of full scale 1, or integers of
        the full scale of their type.
    sample_rate_hz : int
        Their sample rate.
    name : str
        What to call it in messages.

    Raises
    ------
    InputError
        If it is empty or has another shape or type.

    Example
    -------
    >>> source = ArraySource(np.array([0, 16384], np.int16), 8000)
    >>> next(source.blocks())
    tensor([0.0000, 0.5000])
    """

    def __init__(self, samples, sample_rate_hz, name="waveform"):
        if torch.is_tensor(samples):
            samples = samples.detach().cpu()
            if samples.dtype == torch.bfloat16:  # NumPy has none
                samples = samples.float()
        samples = np.asarray(samples)
        if samples.ndim == 1:
            samples = samples[None]
        if samples.ndim != 2 or samples.shape[0] > max(32, samples.shape[1]):
            turned = samples.ndim == 2 and samples.shape[1] <= 32
            raise InputError(
                f"{name}: expected samples (n,) or (channels, n), got an array "
                f"of shape {samples.shape}" + "; transpose it" * turned
            )
        RATE_HZ.check(f"{name}: sample_rate_hz", sample_rate_hz)
        if not samples.size:
            raise InputError(f"{name}: the audio is empty (no samples)")
        self._samples = _to_float(samples, name)
        self.name = name
        self.sample_rate_hz = int(sample_rate_hz)
        self.n_channels, self.n_samples = samples.shape
        self._heard = Doubts()

    @property
    def doubts(self):
        """Kind of doubt to a sentence, once it has been read (dict)."""
        return self._heard.found()

    def blocks(self):
        """Give it block by block; see :class:`FileSource`."""
        size = max(1, round(BLOCK_S * self.sample_rate_hz))
        self._heard = Doubts()
        for start in range(0, self.n_samples, size):
            block = self._samples[:, start : start + size].T
            self._heard.hear(block)
            yield _to_mono(self, block, start)


#: Floats of full scale 1 do not come near it; 16-bit numbers as floats do.
LARGEST = 100.0


def check_scale(samples, name):
    """Refuse samples whose full scale cannot be what their type says.

    Arguments
    ---------
    samples : numpy.ndarray or torch.Tensor
        Samples of any shape.
    name : str
        What to call them in messages.

    Raises
    ------
    InputError
        If floats are far above 1, or integers are of 64 bits, or of 32 bits
        with numbers of 16.

    Example
    -------
    >>> check_scale(np.array([0.0, 20000.0]), "waveform")
    Traceback (most recent call last):
    merit_modules.errors.InputError: waveform: expected floats of full scale 1,
    got a peak of 20000: 16-bit numbers? divide them by 32768
    """
    kind = str(samples.dtype).removeprefix("torch.")
    if kind == "int16":
        return
    peak = float(abs(samples).max()) if len(samples) else 0.0
    if kind.startswith(("float", "bfloat")):
        if peak > LARGEST and isfinite(peak):
            raise InputError(
                f"{name}: expected floats of full scale 1, got a peak of "
                f"{peak:.0f}: 16-bit numbers? divide them by 32768"
            )
    elif kind == "int64" or (kind == "int32" and 0 < peak <= 2**15):
        raise InputError(
            f"{name}: expected floats, or int16 or int32 of full scale, got "
            f"{kind} with a peak of {peak:.0f}: 16-bit numbers in a wider "
            "type? make them int16"
        )


def _to_float(samples, name):
    if samples.dtype.kind not in "fi":
        raise InputError(
            f"{name}: expected floats or signed integers, got {samples.dtype}"
        )
    check_scale(samples, name)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    full_scale = -float(np.iinfo(samples.dtype).min)
    return (samples / full_scale).astype(np.float32)


def _to_mono(source, samples, n_before):
    check_finite(
        source.name,
        samples,
        source.sample_rate_hz,
        n_before,
        source.n_samples,
    )
    return torch.from_numpy(np.ascontiguousarray(samples.mean(axis=1)))


def open_source(source, sample_rate_hz):
    """Make a source of a path or a waveform.

    Arguments
    ---------
    source : str, Path, torch.Tensor or numpy.ndarray
        An audio file, or samples (n,) or (channels, n).
    sample_rate_hz : int
        Sample rate of a waveform; a file knows its own.

    Returns
    -------
    FileSource or ArraySource
        The source.

    Raises
    ------
    InputError
        If it is neither, or cannot be read.

    Example
    -------
    >>> open_source(torch.zeros(2, 800), 16000).n_channels
    2
    """
    if isinstance(source, FileSource | ArraySource):
        return source
    if isinstance(source, str | Path):
        return FileSource(source)
    if torch.is_tensor(source) or isinstance(source, np.ndarray):
        return ArraySource(source, sample_rate_hz)
    raise InputError(
        "audio: expected a path, a tensor or an array, got "
        f"{type(source).__name__}"
    )


ENCODINGS = {"float": "FLOAT", "pcm16": "PCM_16"}
_BLOCK = 2**20
_WAV_LIMIT = 2**32 - 2**16  # bytes; longer recordings get a 64-bit header


class AudioSink:
    """Writes a recording as it comes.

    16-bit files do not clip: if a sample is beyond full scale, the whole
    recording is made softer by as much as it takes, which :meth:`close` tells.

    Arguments
    ---------
    path : str or Path
        File to write; its ending names the format. An earlier one is replaced
        when all is written.
    sample_rate_hz : int
        Sample rate.
    n_samples : int
        Length of the recording: not a sample more is written.
    encoding : str
        ``float`` or ``pcm16``.

    Raises
    ------
    InputError
        If the format or encoding cannot be written.

    Example
    -------
    >>> path = getfixture("tmp_path") / "loud.wav"
    >>> sink = AudioSink(path, 8000, 3, encoding="pcm16")
    >>> sink.write(np.array([0.0, 2.0], np.float32))
    >>> sink.write(np.array([-1.0, 0.0], np.float32))
    >>> round(sink.close(), 2), soundfile.read(path)[0].round(3)
    (0.5, array([ 0. ,  1. , -0.5]))
    """

    def __init__(self, path, sample_rate_hz, n_samples, encoding="float"):
        self.path = Path(path)
        if encoding not in ENCODINGS:
            raise InputError(
                f"encoding: expected one of {', '.join(ENCODINGS)}, got "
                f"{encoding!r}"
            )
        self.subtype = ENCODINGS[encoding]
        self.format = _format(self.path, self.subtype, n_samples)
        self.sample_rate_hz = sample_rate_hz
        self.n_samples = n_samples
        self._peak = 0.0
        self._n_written = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Float first: how soft it must be is known at the end.
            self._file = tempfile.TemporaryFile(dir=self.path.parent)
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, samples):
        """Take the next samples.

        Arguments
        ---------
        samples : numpy.ndarray or torch.Tensor
            Samples (n,), full scale 1.

        Raises
        ------
        InputError
            If the disk is full.
        """
        samples = np.asarray(samples, dtype=np.float32)
        samples = samples[: self.n_samples - self._n_written]
        if len(samples):
            self._peak = max(self._peak, float(np.abs(samples).max()))
        try:
            self._file.write(samples.tobytes())
        except OSError as error:
            raise self._unwritable(error) from error
        self._n_written += len(samples)

    def close(self):
        """Write the file.

        Returns
        -------
        float
            What the recording was multiplied by: 1, or less to avoid clipping.

        Raises
        ------
        InputError
            If it cannot be written. An earlier file of that name stays.
        """
        gain, top = 1.0, 1.0
        if self.subtype != "FLOAT":
            top = 1.0 - 2.0**-15
            gain = min(1.0, top / self._peak) if self._peak > top else 1.0
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            self._encode(partial, gain)
            os.replace(partial, self.path)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._unwritable(error) from error
        finally:
            partial.unlink(missing_ok=True)
            self._file.close()
        return gain

    def _encode(self, path, gain):
        self._file.seek(0)
        with soundfile.SoundFile(
            path,
            "w",
            samplerate=self.sample_rate_hz,
            channels=1,
            format=self.format,
            subtype=self.subtype,
        ) as audio:
            while block := self._file.read(4 * _BLOCK):
                audio.write(np.frombuffer(block, np.float32) * gain)
            rest = self.n_samples - self._n_written
            while rest > 0:
                audio.write(np.zeros(min(rest, _BLOCK), np.float32))
                rest -= _BLOCK

    def discard(self):
        """Write nothing: what was written so far is forgotten."""
        self._file.close()

    def _unwritable(self, error):
        return InputError(f"{self.path}: cannot be written: {error}")


def _format(path, subtype, n_samples):
    name = path.suffix.lstrip(".").upper()
    if not soundfile.check_format(name, subtype):
        raise InputError(
            f"{path}: expected a name that ends in .wav, or in the name of "
            f"another format that holds {subtype} samples, such as .flac for "
            "16 bits"
        )
    n_bytes = n_samples * (4 if subtype == "FLOAT" else 2)
    return "RF64" if name == "WAV" and n_bytes > _WAV_LIMIT else name


class BlockResampler:
    """Converts the sample rate of a recording that arrives in blocks.

    The same filter as everywhere else in this package, so training and use
    hear the same. However the recording is cut into blocks, the result is
    that of converting it whole.

    Arguments
    ---------
    from_hz : int
        Sample rate of the input.
    to_hz : int
        Sample rate of the output.

    Example
    -------
    >>> wav, convert = torch.randn(1001), BlockResampler(44100, 16000)
    >>> parts = [convert(block) for block in wav.split(300)]
    >>> whole = resampler(44100, 16000)(wav)
    >>> torch.allclose(torch.cat([*parts, convert.finish()]), whole, atol=1e-6)
    True
    """

    def __init__(self, from_hz, to_hz):
        common = gcd(from_hz, to_hz)
        # Every `old` samples become `new` ones.
        self.old, self.new = from_hz // common, to_hz // common
        self.from_hz = from_hz
        self._convert, self._context = None, 0
        if from_hz != to_hz:
            self._convert = resampler(from_hz, to_hz)
            self._context = ceil(self._convert.width / self.old)
        self._kept = torch.zeros(0)
        self._done = 0  # steps of `old` samples that are out
        self._kept_from = 0  # the step where the kept samples begin

    @property
    def latency_s(self):
        """Seconds of input that an output sample waits for, at the most."""
        return (
            (self._context + 1)
            * self.old
            / self.from_hz
            * (self._convert is not None)
        )

    def __call__(self, block):
        """Take a block (n,); return what can be converted by now (m,)."""
        if self._convert is None:
            return block
        self._kept = torch.cat([self._kept, block])
        there = self._kept_from + len(self._kept) // self.old
        until = there - self._context
        if until <= self._done:
            return block.new_zeros(0)
        converted = self._convert(
            self._kept[: (there - self._kept_from) * self.old]
        )
        start, stop = (
            (step - self._kept_from) * self.new for step in (self._done, until)
        )
        self._done = until
        forget = max(0, until - self._context - self._kept_from)
        self._kept = self._kept[forget * self.old :].clone()
        self._kept_from += forget
        return converted[start:stop]

    def finish(self):
        """End the recording; return the rest of it (m,)."""
        if self._convert is None or not len(self._kept):
            return torch.zeros(0)
        converted = self._convert(self._kept)
        return converted[(self._done - self._kept_from) * self.new :]

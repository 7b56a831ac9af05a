"""Whatever holds audio, as blocks of mono samples: files, tensors, arrays."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from merit_modules.data.audio import check_finite, open_audio, unreadable
from merit_modules.errors import InputError

BLOCK_S = 10.0
#: Endings of the audio files that are looked for in folders.
AUDIO_ENDINGS = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .w64 .rf64".split()
)


class FileSource:
    """An audio file that libsndfile reads, block by block.

    Arguments
    ---------
    path : str or Path
        The file.

    Raises
    ------
    InputError
        If it is missing, unreadable, empty or cut off.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> source = FileSource(path)
    >>> source.sample_rate_hz, [len(b) for b in source.blocks()]
    (8000, [4000])
    """

    def __init__(self, path):
        self.name = str(path)
        with open_audio(path) as audio:
            self.sample_rate_hz = audio.samplerate
            self.n_channels = audio.channels
            self.n_samples = audio.frames

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
        size, done = round(BLOCK_S * self.sample_rate_hz), 0
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
        samples = np.asarray(
            samples.detach().cpu() if torch.is_tensor(samples) else samples
        )
        if samples.ndim == 1:
            samples = samples[None]
        if samples.ndim != 2 or samples.shape[0] > max(32, samples.shape[1]):
            raise InputError(
                f"{name}: expected samples (n,) or (channels, n), got an array "
                f"of shape {samples.shape}"
            )
        if not samples.size:
            raise InputError(f"{name}: the audio is empty (no samples)")
        self._samples = _to_float(samples, name)
        self.name = name
        self.sample_rate_hz = int(sample_rate_hz)
        self.n_channels, self.n_samples = samples.shape

    def blocks(self):
        """Give it block by block; see :class:`FileSource`."""
        size = round(BLOCK_S * self.sample_rate_hz)
        for start in range(0, self.n_samples, size):
            block = self._samples[:, start : start + size].T
            yield _to_mono(self, block, start)


def _to_float(samples, name):
    if samples.dtype.kind == "f":
        return samples.astype(np.float32, copy=False)
    if samples.dtype.kind == "i":
        full_scale = -float(np.iinfo(samples.dtype).min)
        return (samples / full_scale).astype(np.float32)
    raise InputError(
        f"{name}: expected floats or signed integers, got {samples.dtype}"
    )


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


def find_audio(folder):
    """List the audio files of a folder, at any depth.

    Arguments
    ---------
    folder : str or Path
        The folder.

    Returns
    -------
    list of Path
        In alphabetical order; hidden files are left out.

    Raises
    ------
    InputError
        If there is none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", np.zeros(8), 8000)
    >>> [path.name for path in find_audio(folder)]
    ['a.wav']
    """
    folder = Path(folder)
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_ENDINGS
        and not any(
            part.startswith(".") for part in path.relative_to(folder).parts
        )
        and path.is_file()
    ]
    if not found:
        raise InputError(f"{folder}: no audio file in this folder")
    return found

"""Enhanced speech to an audio file, piece by piece, whole or not at all."""

import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from merit_modules.errors import InputError

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

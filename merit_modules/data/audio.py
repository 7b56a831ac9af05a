"""Read audio files as mono waveforms at one sample rate, or say why not."""

import math
import re
from pathlib import Path

import numpy as np
import soundfile
import torch

from merit_modules.data.containers import open_container
from merit_modules.data.doubts import Doubts, say_once, warn_once
from merit_modules.data.resampling import resampler
from merit_modules.errors import InputError

# One frame of a wav2vec2-style front end: 25 ms at 16 kHz.
MIN_SAMPLES = 400

# libsndfile reads on where a header promises more than the file holds, and
# says so only in its log. Of WAV and AIFF, data.containers reads the header.
_SHORTER_THAN_PROMISED = re.compile(
    r"^\s*(?:data|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.M
)
_LENGTH_UNKNOWN = 2**31 - 2**16


def probe_audio(path):
    """Read an audio file's header.

    Arguments
    ---------
    path : str or Path
        A file that libsndfile reads.

    Returns
    -------
    duration_s : float
        Length in seconds.
    sample_rate_hz : int
        Sample rate.
    n_channels : int
        Number of channels.

    Raises
    ------
    InputError
        If the file is missing, unreadable, empty or cut off.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> probe_audio(path)
    (0.5, 8000, 2)
    """
    with open_audio(path) as audio:
        return (
            audio.frames / audio.samplerate,
            audio.samplerate,
            audio.channels,
        )


def read_audio(
    path,
    sample_rate_hz=16000,
    max_duration_s=None,
    min_samples=MIN_SAMPLES,
    is_speech=True,
):
    """Read an audio file as one channel at the wanted sample rate.

    Several channels are averaged. Each kind of conversion is logged once.

    Arguments
    ---------
    path : str or Path
        A file that libsndfile reads.
    sample_rate_hz : int or None
        Rate of the result. None keeps the file's own.
    max_duration_s : float or None
        Longer audio is cut here, and no more than needed is read.
    min_samples : int
        Fewest samples that the result may have.
    is_speech : bool
        Whether to doubt what no speech would be, such as silence.

    Returns
    -------
    wav : torch.Tensor
        Samples, float32, shape (N,), full scale 1.

    Raises
    ------
    InputError
        If the file is missing, unreadable, empty, cut off or too short, or
        holds NaN or infinite samples. The message names the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.zeros((4000, 2)), 8000)
    >>> read_audio(path).shape, read_audio(path, max_duration_s=0.1).shape
    (torch.Size([8000]), torch.Size([1600]))
    """
    samples, file_rate_hz, found = _read_samples(path, max_duration_s)
    check_finite(path, samples, file_rate_hz)
    doubts = Doubts()
    doubts.hear(samples)
    warn_once({**found, **doubts.found(is_speech)}, path)
    if samples.shape[1] > 1:
        say_once(f"averaging {samples.shape[1]} channels to one", path)
    wav = torch.from_numpy(samples.mean(axis=1))
    rate_hz = sample_rate_hz or file_rate_hz
    if file_rate_hz != rate_hz:
        say_once(f"converting {file_rate_hz} Hz audio to {rate_hz} Hz", path)
        wav = resampler(file_rate_hz, rate_hz)(wav)
    if max_duration_s is not None:
        wav = wav[: round(max_duration_s * rate_hz)]
    if len(wav) < min_samples:
        raise InputError(
            f"{path}: too short: expected at least {min_samples} samples at "
            f"{rate_hz} Hz ({1000 * min_samples / rate_hz:g} ms), "
            f"got {len(wav)}"
        )
    return wav


def raise_if_broken(problems, what):
    """Report every unusable item in one error instead of the first alone.

    Arguments
    ---------
    problems : dict
        ``{name: message}``; nothing happens if it is empty.
    what : str
        What the items are, for the first line.

    Raises
    ------
    InputError
        With the number of problems and the first ten messages.

    Example
    -------
    >>> raise_if_broken({}, "audio files")
    >>> raise_if_broken({"a": "a.wav: empty"}, "audio files")
    Traceback (most recent call last):
    merit_modules.errors.InputError: 1 of the audio files cannot be used:
      a.wav: empty
    """
    if not problems:
        return
    lines = [f"{len(problems)} of the {what} cannot be used:"]
    lines += [f"  {message}" for message in list(problems.values())[:10]]
    if len(problems) > 10:
        lines.append(f"  ... and {len(problems) - 10} more")
    raise InputError("\n".join(lines))


def open_audio(path, max_values=None):
    """Open a file whose header makes sense; the caller closes it.

    Arguments
    ---------
    path : str or Path
        A file that libsndfile reads.
    max_values : int, optional
        Most samples, of all channels together.

    Returns
    -------
    soundfile.SoundFile
        At its first sample; ``doubts`` says what its header has wrong.

    Raises
    ------
    InputError
        If the file is missing, unreadable, empty, cut off or too large; the
        last without decoding more than that.

    Example
    -------
    >>> open_audio("gone.wav")
    Traceback (most recent call last):
    merit_modules.errors.InputError: gone.wav: there is no such audio file
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such audio file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the audio file is empty (0 bytes)")
    try:
        audio, doubt = open_container(path, max_values)
    except (soundfile.SoundFileError, TypeError, OSError) as error:
        raise unreadable(path, error) from None
    audio.doubts = {"length": doubt} if doubt else {}
    try:
        _check_length(path, audio, max_values)
    except InputError:
        audio.close()
        raise
    return audio


def _check_length(path, audio, max_values):
    """Raise unless a file holds samples, and as many as it promises."""
    if max_values and audio.frames * audio.channels > max_values:
        raise InputError(
            f"{path}: too large: expected at most {max_values} samples over "
            f"all channels, got {audio.frames} x {audio.channels} or more"
        )
    if audio.frames <= 0:
        raise InputError(f"{path}: the audio file is empty (no samples)")
    for promised, present in _SHORTER_THAN_PROMISED.findall(audio.extra_info):
        if int(present) < int(promised) < _LENGTH_UNKNOWN:
            raise InputError(
                f"{path}: the audio file is truncated: its header promises "
                f"{promised} bytes, the file holds {present}"
            )


def unreadable(path, error):
    """Make the error for a file that libsndfile gives up on.

    Arguments
    ---------
    path : str or Path
        The file.
    error : Exception
        What libsndfile said.

    Returns
    -------
    InputError
        To be raised.

    Example
    -------
    >>> unreadable("a.wav", TypeError("no format"))
    InputError('a.wav: cannot be read as audio: no format')
    """
    reason = getattr(error, "error_string", str(error))
    return InputError(f"{path}: cannot be read as audio: {reason}")


def _read_samples(path, max_duration_s):
    """Return samples (N, channels), rate and doubts; N may be above max."""
    if max_duration_s is not None and max_duration_s <= 0:
        raise InputError(
            f"max_duration_s: expected seconds above 0, got {max_duration_s!r}"
        )
    with open_audio(path) as audio:
        n_wanted = audio.frames
        if max_duration_s is not None:
            # The last 10 ms let the resampling filter see what follows the
            # cut: the result is then the beginning of the whole file's.
            n_cut = math.ceil((max_duration_s + 0.01) * audio.samplerate)
            n_wanted = min(n_wanted, n_cut)
        try:
            samples = audio.read(n_wanted, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise unreadable(path, error) from None
        if len(samples) < n_wanted:
            raise InputError(
                f"{path}: the audio file is truncated: its header promises "
                f"{audio.frames} samples, reading stopped at {len(samples)}"
            )
        return samples, audio.samplerate, audio.doubts


def check_finite(name, samples, rate_hz, n_before=0, n_total=None):
    """Raise if a sample is NaN or infinite.

    Arguments
    ---------
    name : str or Path
        What to call the audio.
    samples : numpy.ndarray
        Samples (n, channels).
    rate_hz : int
        Sample rate.
    n_before : int
        Samples of the audio that came before these.
    n_total : int, optional
        Samples of the whole audio; these by default.

    Raises
    ------
    InputError
        Saying how many there are and where the first one is.

    Example
    -------
    >>> check_finite("a.wav", np.array([[0.0], [np.nan]]), 8000)
    Traceback (most recent call last):
    merit_modules.errors.InputError: a.wav: 1 of 2 samples are NaN ...
    """
    bad = np.flatnonzero(~np.isfinite(samples).all(axis=1))
    if len(bad):
        first = n_before + bad[0]
        raise InputError(
            f"{name}: {len(bad)} of {n_total or len(samples)} samples are NaN "
            f"or infinite, the first one at {first / rate_hz:.3f} s "
            f"(sample {first})"
        )

"""Spectrograms of files of any length, in the columns that a picture has."""

import numpy as np
import soundfile

WINDOW_S = 0.025
HOP_S = 0.01
MAX_COLUMNS = 1000
_BLOCK = 2**18
_FLOOR = 1e-12


def spectrogram_db(path, max_columns=MAX_COLUMNS):
    """Compute a log-magnitude spectrogram block by block.

    Frames of 25 ms, one per 10 ms; where those are more than the columns, a
    column holds the mean power of its frames.

    Arguments
    ---------
    path : str or Path
        Audio file of one channel.
    max_columns : int
        Most columns of the result.

    Returns
    -------
    numpy.ndarray
        Decibels (F, columns), from 0 Hz to half the sample rate, over the
        whole length of the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(80000) / 8000)
    >>> soundfile.write(path, tone, 8000)
    >>> levels = spectrogram_db(path, max_columns=100)
    >>> levels.shape, int(levels[:, 50].argmax() * 40)  # bins of 40 Hz
    ((101, 100), 1000)
    """
    with soundfile.SoundFile(path) as audio:
        size = max(2, round(WINDOW_S * audio.samplerate))
        hop = max(1, round(HOP_S * audio.samplerate))
        n_frames = -(-audio.frames // hop)
        n_columns = min(n_frames, max_columns)
        power = np.zeros((n_columns, size // 2 + 1))
        window = np.hanning(size + 1)[:size]
        done = 0
        for frames in _frames(audio, size, hop, n_frames):
            spectrum = np.abs(np.fft.rfft(frames * window)) ** 2
            numbers = np.arange(done, done + len(frames))
            np.add.at(power, numbers * n_columns // n_frames, spectrum)
            done += len(frames)
    columns = np.arange(n_frames) * n_columns // n_frames
    power /= np.bincount(columns, minlength=n_columns)[:, None]
    return 10 * np.log10(power.T + _FLOOR)


def _frames(audio, size, hop, n_frames):
    """Yield frames (n, size), each in the middle of its hop."""
    before = (size - hop) // 2
    kept, left = np.zeros(before, np.float32), n_frames
    for block in audio.blocks(_BLOCK, dtype="float32"):
        kept = np.concatenate([kept, block])
        n_ready = min(left, max(0, (len(kept) - size) // hop + 1))
        if n_ready:
            yield _cut(kept, size, hop, n_ready)
            kept, left = kept[n_ready * hop :], left - n_ready
    if left:
        missing = (left - 1) * hop + size - len(kept)
        yield _cut(np.pad(kept, (0, max(0, missing))), size, hop, left)


def _cut(samples, size, hop, n_frames):
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)
    return frames[: (n_frames - 1) * hop + 1 : hop]

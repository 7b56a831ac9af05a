"""Synthetic noises of training, one function per type.

Every function takes the number of samples, the sampling rate and a random
generator, and returns shape (T,), float32, at an RMS level of -26 dB relative
to full scale (lower where single peaks stand out).
"""

import numpy as np

from merit_modules.data.miniemo.noise_parts import (
    burst,
    coloured,
    drip,
    of_random_spectrum,
    scattered,
    slow_curve,
    syllable,
)
from merit_modules.data.miniemo.waveform import set_level

LEVEL_DB = -26.0


def white(n_samples, sample_rate_hz, rng):
    """Noise with the same power in every hertz.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> white(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    return set_level(rng.standard_normal(n_samples), LEVEL_DB)


def pink(n_samples, sample_rate_hz, rng):
    """Noise with the same power in every octave: 3 dB less per octave.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> noise = pink(16000, 16000, np.random.default_rng(0))
    >>> round(float(10 * np.log10(np.mean(noise**2))), 3)
    -26.0
    """
    return set_level(coloured(n_samples, sample_rate_hz, rng, 1.0), LEVEL_DB)


def hum(n_samples, sample_rate_hz, rng):
    """Mains hum of 50 or 60 Hz: harmonics that drift slowly, and some hiss.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> hum(16000, 16000, np.random.default_rng(0)).dtype
    dtype('float32')
    """
    mains_hz = rng.choice([50.0, 60.0])
    drift = slow_curve(n_samples, sample_rate_hz, rng)
    phase = np.cumsum(2 * np.pi * mains_hz * (1 + 0.003 * drift))
    phase /= sample_rate_hz
    noise = np.zeros(n_samples)
    for harmonic in range(1, 25):
        # Rectifiers make even harmonics, saturated iron odd ones.
        amplitude = rng.uniform(0.2, 1.0) / harmonic**0.7
        swell = 1 + 0.3 * slow_curve(n_samples, sample_rate_hz, rng)
        start = rng.uniform(0, 2 * np.pi)
        noise += amplitude * swell * np.sin(harmonic * phase + start)
    hiss = 0.02 * rng.standard_normal(n_samples)
    return set_level(noise + hiss, LEVEL_DB)


def modulated(n_samples, sample_rate_hz, rng):
    """Coloured noise that swells and fades, 0.5 to 8 times a second.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> modulated(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    carrier = coloured(n_samples, sample_rate_hz, rng, rng.uniform(0, 2))
    rate_hz = np.exp(rng.uniform(np.log(0.5), np.log(8)))
    depth = rng.uniform(0.6, 0.95)
    time_s = np.arange(n_samples) / sample_rate_hz
    wander = 0.5 * slow_curve(n_samples, sample_rate_hz, rng)
    swing = np.sin(2 * np.pi * (rate_hz * time_s + rng.uniform() + wander))
    return set_level(carrier * (1 + depth * swing), LEVEL_DB)


def shaped(n_samples, sample_rate_hz, rng):
    """Noise of a random spectrum, which changes two to four times.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> shaped(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    time = np.linspace(0, 1, n_samples)
    noise = np.zeros(n_samples)
    n_states = int(rng.integers(2, 5))
    for state in range(n_states):
        one = of_random_spectrum(n_samples, rng)
        distance = np.abs(time * (n_states - 1) - state)
        noise += one * np.clip(1 - distance, 0, None)
    return set_level(noise, LEVEL_DB)


def bursts(n_samples, sample_rate_hz, rng):
    """Bursts of noise, 2 to 10 a second: paper, steam, steps, keys, doors.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> bursts(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    noise = scattered(burst, n_samples, sample_rate_hz, rng, 2, 10)
    return set_level(noise, LEVEL_DB)


def murmur(n_samples, sample_rate_hz, rng):
    """Syllables of no language from 4 to 10 throats: a crowd far away.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> murmur(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    noise = 0.01 * coloured(n_samples, sample_rate_hz, rng, 1.0)
    for _ in range(int(rng.integers(4, 11))):
        lowest_hz = np.exp(rng.uniform(np.log(80), np.log(280)))
        level = 10 ** (rng.uniform(-8, 0) / 20)
        start = 0
        while start < n_samples:
            sound = level * syllable(lowest_hz, sample_rate_hz, rng)
            sound = sound[: n_samples - start]
            noise[start : start + len(sound)] += sound
            pause_s = rng.uniform(0.2, 0.8) if rng.random() < 0.15 else 0.0
            start += len(sound) + int(pause_s * sample_rate_hz)
    return set_level(noise, LEVEL_DB)


def drips(n_samples, sample_rate_hz, rng):
    """Drops, bells and glass, 2 to 15 a second: tones that die away.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> drips(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    noise = scattered(drip, n_samples, sample_rate_hz, rng, 2, 15)
    return set_level(noise, LEVEL_DB)


SEEN_TYPES = {
    "white": white,
    "pink": pink,
    "hum": hum,
    "modulated": modulated,
    "shaped": shaped,
    "bursts": bursts,
    "murmur": murmur,
    "drips": drips,
}

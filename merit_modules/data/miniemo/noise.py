"""Synthetic background noises, one function per type.

Every function takes the number of samples, the sampling rate and a random
generator, and returns shape (T,), float32, at an RMS level of -26 dB relative
to full scale (lower where single peaks stand out).
"""

import numpy as np

from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.speech import BABBLE_SENTENCES, BABBLE_VOICES
from merit_modules.data.miniemo.waveform import set_level, speak_trimmed

LEVEL_DB = -26.0
# Below this the power of coloured noise stays level; it would be inaudible.
LOWEST_COLOUR_HZ = 20.0


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
    return set_level(_coloured(n_samples, sample_rate_hz, rng, 1.0), LEVEL_DB)


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
    drift = _slow_curve(n_samples, sample_rate_hz, rng)
    phase = np.cumsum(2 * np.pi * mains_hz * (1 + 0.003 * drift))
    phase /= sample_rate_hz
    noise = np.zeros(n_samples)
    for harmonic in range(1, 25):
        # Rectifiers make even harmonics, saturated iron odd ones.
        amplitude = rng.uniform(0.2, 1.0) / harmonic**0.7
        swell = 1 + 0.3 * _slow_curve(n_samples, sample_rate_hz, rng)
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
    carrier = _coloured(n_samples, sample_rate_hz, rng, rng.uniform(0, 2))
    rate_hz = np.exp(rng.uniform(np.log(0.5), np.log(8)))
    depth = rng.uniform(0.6, 0.95)
    time_s = np.arange(n_samples) / sample_rate_hz
    wander = 0.5 * _slow_curve(n_samples, sample_rate_hz, rng)
    swing = np.sin(2 * np.pi * (rate_hz * time_s + rng.uniform() + wander))
    return set_level(carrier * (1 + depth * swing), LEVEL_DB)


def impulses(n_samples, sample_rate_hz, rng):
    """Clicks and knocks that ring, 3 to 8 a second, over a soft background.

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
    >>> noise = impulses(32000, 16000, np.random.default_rng(0))
    >>> bool(np.abs(noise).max() > 6 * noise.std())
    True
    """
    # No stretch is digital silence, which could not be scaled to an SNR.
    noise = 0.01 * _coloured(n_samples, sample_rate_hz, rng, 1.0)
    start = 0
    while start < n_samples:
        knock = _knock(sample_rate_hz, rng)[: n_samples - start]
        noise[start : start + len(knock)] += knock
        start += int(rng.uniform(0.12, 0.35) * sample_rate_hz)
    return set_level(noise, LEVEL_DB)


def babble(n_samples, sample_rate_hz, rng, n_talkers=6):
    """Several people speaking at once, none of whom speaks in the corpus.

    Arguments
    ---------
    n_samples : int
        Length T.
    sample_rate_hz : int
        Sampling rate.
    rng : numpy.random.Generator
        Source of chance.
    n_talkers : int
        How many of ``BABBLE_VOICES`` speak.

    Returns
    -------
    noise : numpy.ndarray
        Shape (T,), float32.

    Example
    -------
    >>> babble(8000, 16000, np.random.default_rng(0), n_talkers=2).shape
    (8000,)
    """
    espeak = Espeak()
    noise = np.zeros(n_samples)
    for voice in rng.permutation(BABBLE_VOICES)[:n_talkers].tolist():
        level_db = LEVEL_DB + rng.uniform(-4, 4)
        stream = _talker(espeak, voice, n_samples, sample_rate_hz, rng)
        noise += set_level(stream, level_db)
    return set_level(noise, LEVEL_DB)


SEEN_TYPES = {"white": white, "pink": pink, "hum": hum, "modulated": modulated}
UNSEEN_TYPES = {"babble": babble, "impulses": impulses}


def _coloured(n_samples, sample_rate_hz, rng, exponent):
    """Return noise whose power falls as frequency to the minus exponent."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequency_hz = np.fft.rfftfreq(n_samples, 1 / sample_rate_hz)
    spectrum *= np.maximum(frequency_hz, LOWEST_COLOUR_HZ) ** (-exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / noise.std()


def _slow_curve(n_samples, sample_rate_hz, rng, points_per_s=2):
    """Return a smooth random curve within -1 and 1, shape (T,)."""
    n_points = int(n_samples / sample_rate_hz * points_per_s) + 2
    time = np.linspace(0, n_points - 1, n_samples)
    left = np.minimum(time.astype(int), n_points - 2)
    # A raised cosine between points has no corners that one could hear.
    blend = (1 - np.cos(np.pi * (time - left))) / 2
    points = rng.uniform(-1, 1, n_points)
    return points[left] * (1 - blend) + points[left + 1] * blend


def _knock(sample_rate_hz, rng):
    """Return one hit: a short burst and the modes that it sets ringing."""
    time_s = np.arange(int(0.25 * sample_rate_hz)) / sample_rate_hz
    knock = rng.uniform(0.2, 1.0) * rng.standard_normal(len(time_s))
    knock *= np.exp(-time_s / rng.uniform(0.0005, 0.002))
    for _ in range(rng.integers(2, 6)):
        mode_hz = np.exp(rng.uniform(np.log(250), np.log(6000)))
        decay_s = np.exp(rng.uniform(np.log(0.004), np.log(0.05)))
        ring = np.exp(-time_s / decay_s) * np.sin(2 * np.pi * mode_hz * time_s)
        knock += rng.uniform(0.3, 1.0) * ring
    return knock * 10 ** (rng.uniform(-12, 0) / 20)


def _talker(espeak, voice, n_samples, sample_rate_hz, rng):
    """Return one voice saying sentences without end, begun somewhere."""
    pitch, rate_wpm = int(rng.integers(40, 61)), int(rng.integers(150, 200))
    sentences, n_spoken = [], 0
    start = int(rng.integers(2 * sample_rate_hz))
    while n_spoken < start + n_samples:
        text = BABBLE_SENTENCES[rng.integers(len(BABBLE_SENTENCES))]
        sentences.append(
            speak_trimmed(
                espeak, text, voice, pitch, 50, rate_wpm, sample_rate_hz
            )
        )
        n_spoken += len(sentences[-1])
    return np.concatenate(sentences)[start : start + n_samples]

"""Synthetic noises of the test: people, things, machines, weather.

Training hears none of these types. The functions are called as those of
:mod:`merit_modules.data.miniemo.noise`.
"""

import numpy as np
from scipy.signal import oaconvolve

from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.noise import LEVEL_DB
from merit_modules.data.miniemo.noise_parts import (
    coloured,
    knock,
    slow_curve,
    talker,
    with_random_spectrum,
)
from merit_modules.data.miniemo.speech import BABBLE_VOICES
from merit_modules.data.miniemo.waveform import set_level


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
    noise = 0.01 * coloured(n_samples, sample_rate_hz, rng, 1.0)
    start = 0
    while start < n_samples:
        hit = knock(sample_rate_hz, rng)[: n_samples - start]
        noise[start : start + len(hit)] += hit
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
        stream = talker(espeak, voice, n_samples, sample_rate_hz, rng)
        noise += set_level(stream, level_db)
    return set_level(noise, LEVEL_DB)


def engine(n_samples, sample_rate_hz, rng):
    """A motor whose speed wanders: 25 to 120 beats a second, and rumble.

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
    >>> engine(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    octaves = 0.4 * slow_curve(n_samples, sample_rate_hz, rng, 1)
    beat_hz = np.exp(rng.uniform(np.log(25), np.log(120))) * 2.0**octaves
    beat = np.exp(
        -rng.uniform(4, 16) * (np.cumsum(beat_hz / sample_rate_hz) % 1)
    )
    # Gas rushes out with every beat, and is heard through pipes and a bonnet.
    rush = rng.uniform(0.1, 0.6) * beat * rng.standard_normal(n_samples)
    sound = with_random_spectrum(beat - beat.mean() + rush, rng)
    rumble = coloured(n_samples, sample_rate_hz, rng, 2.0)
    return set_level(sound / sound.std() + 0.4 * rumble, LEVEL_DB)


def rain(n_samples, sample_rate_hz, rng):
    """Hundreds of drops a second on a hard surface, and the wash behind them.

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
    >>> rain(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    drops_per_s = np.exp(rng.uniform(np.log(100), np.log(1000)))
    falls = rng.random(n_samples) < drops_per_s / sample_rate_hz
    drops = falls * np.exp(rng.standard_normal(n_samples))
    # Each place that is hit sounds in its own way.
    n_places = 24
    places = rng.integers(n_places, size=n_samples)
    sound = sum(
        oaconvolve(drops * (places == place), knock(sample_rate_hz, rng))
        for place in range(n_places)
    )[:n_samples]
    wash = coloured(n_samples, sample_rate_hz, rng, rng.uniform(0, 1))
    swell = 1 + 0.4 * slow_curve(n_samples, sample_rate_hz, rng, 1)
    noise = sound / sound.std() + rng.uniform(0.3, 1.0) * wash
    return set_level(swell * noise, LEVEL_DB)


UNSEEN_TYPES = {
    "babble": babble,
    "impulses": impulses,
    "engine": engine,
    "rain": rain,
}

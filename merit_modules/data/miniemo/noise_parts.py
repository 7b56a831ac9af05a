"""What synthetic noises are made of: colours, curves and sounds."""

import numpy as np
from scipy.signal import lfilter

from merit_modules.data.miniemo.speech import BABBLE_SENTENCES
from merit_modules.data.miniemo.waveform import speak_trimmed

# Below this the power of coloured noise stays level; it would be inaudible.
LOWEST_COLOUR_HZ = 20.0


def coloured(n_samples, sample_rate_hz, rng, exponent):
    """Return noise whose power falls as frequency to the minus exponent."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequency_hz = np.fft.rfftfreq(n_samples, 1 / sample_rate_hz)
    spectrum *= np.maximum(frequency_hz, LOWEST_COLOUR_HZ) ** (-exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n_samples)
    return noise / noise.std()


def with_random_spectrum(sound, rng):
    """Return a sound through a filter drawn at 12 points, over 30 dB."""
    spectrum = np.fft.rfft(sound)
    points_db = rng.uniform(-30, 0, 12)
    frequency = np.linspace(0, 1, len(spectrum)) ** 0.5
    gain_db = np.interp(frequency, np.linspace(0, 1, 12), points_db)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(sound))


def of_random_spectrum(n_samples, rng):
    """Return noise of a spectrum drawn as :func:`with_random_spectrum` does."""
    return with_random_spectrum(rng.standard_normal(n_samples), rng)


def slow_curve(n_samples, sample_rate_hz, rng, points_per_s=2):
    """Return a smooth random curve within -1 and 1, shape (T,)."""
    n_points = int(n_samples / sample_rate_hz * points_per_s) + 2
    time = np.linspace(0, n_points - 1, n_samples)
    left = np.minimum(time.astype(int), n_points - 2)
    # A raised cosine between points has no corners that one could hear.
    blend = (1 - np.cos(np.pi * (time - left))) / 2
    points = rng.uniform(-1, 1, n_points)
    return points[left] * (1 - blend) + points[left + 1] * blend


def knock(sample_rate_hz, rng):
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


def burst(sample_rate_hz, rng):
    """Return a burst of noise of a random spectrum, up to half a second."""
    length_s = np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    n_samples = int(length_s * sample_rate_hz)
    time = np.linspace(0, 1, n_samples)
    envelope = np.minimum(time / rng.uniform(0.01, 0.5), 1) * (1 - time)
    return envelope * of_random_spectrum(n_samples, rng)


def drip(sample_rate_hz, rng):
    """Return some tones that die away, of which half rise or fall."""
    time_s = np.arange(int(0.4 * sample_rate_hz)) / sample_rate_hz
    sound = np.zeros(len(time_s))
    for _ in range(int(rng.integers(1, 6))):
        tone_hz = np.exp(rng.uniform(np.log(200), np.log(7000)))
        rise = rng.uniform(-1, 4) if rng.random() < 0.5 else 0.0
        decay_s = np.exp(rng.uniform(np.log(0.004), np.log(0.15)))
        phase = 2 * np.pi * tone_hz * (time_s + rise * time_s**2 / 2)
        decay = rng.uniform(0.2, 1) * np.exp(-time_s / decay_s)
        sound += decay * np.sin(phase)
    return sound


def scattered(sound, n_samples, sample_rate_hz, rng, lowest_per_s, highest):
    """Return sounds at random times over a soft background, shape (T,).

    How many there are in a second is drawn; each sound is, too, by
    ``sound(sample_rate_hz, rng)``, and how loud it is, over 12 dB.
    """
    noise = 0.01 * coloured(n_samples, sample_rate_hz, rng, 1.0)
    per_s, start = rng.uniform(lowest_per_s, highest), 0
    while start < n_samples:
        one = sound(sample_rate_hz, rng)[: n_samples - start]
        gain = 10 ** (rng.uniform(-12, 0) / 20)
        noise[start : start + len(one)] += gain * one
        start += 1 + int(rng.exponential(1 / per_s) * sample_rate_hz)
    return noise


def syllable(lowest_hz, sample_rate_hz, rng):
    """Return a source, voiced or not, through three resonances that stay."""
    n_samples = int(rng.uniform(0.06, 0.25) * sample_rate_hz)
    time = np.linspace(0, 1, n_samples)
    octaves = rng.uniform(0, 0.6) + rng.uniform(-0.3, 0.3) * time
    phase = np.cumsum(lowest_hz * 2.0**octaves) / sample_rate_hz
    is_voiced = rng.random() < 0.75
    sound = phase % 1 - 0.5 if is_voiced else rng.standard_normal(n_samples)
    bands_hz = ((250, 900), (900, 2400), (2400, 3800))
    for low_hz, high_hz in bands_hz if is_voiced else ((2000, 7000),):
        angle = 2 * np.pi * rng.uniform(low_hz, high_hz) / sample_rate_hz
        poles = [1.0, -1.8 * np.cos(angle), 0.81]
        sound = lfilter([1.0], poles, sound)
    envelope = np.sin(np.pi * time) ** rng.uniform(0.3, 1)
    return envelope * sound / (sound.std() + 1e-9)


def talker(espeak, voice, n_samples, sample_rate_hz, rng):
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

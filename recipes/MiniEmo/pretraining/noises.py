"""The synthetic noises that pretraining mixes in, by type.

None of MiniEmo's test is among them.
"""

import numpy as np

from merit_modules.data.miniemo import noise
from merit_modules.data.miniemo.noise import LEVEL_DB
from merit_modules.data.miniemo.waveform import set_level


def tones(n_samples, sample_rate_hz, rng):
    """Tones that come and go, as of machines, alarms and instruments.

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
    >>> tones(16000, 16000, np.random.default_rng(0)).shape
    (16000,)
    """
    time_s = np.arange(n_samples) / sample_rate_hz
    sound = 0.003 * rng.standard_normal(n_samples)
    for _ in range(int(rng.integers(4, 30))):
        pitch_hz = np.exp(rng.uniform(np.log(60), np.log(3000)))
        start_s = rng.uniform(-1, time_s[-1])
        length_s = np.exp(rng.uniform(np.log(0.1), np.log(3)))
        inside = np.clip((time_s - start_s) / length_s, 0, 1)
        envelope = np.sin(np.pi * inside) ** rng.uniform(0.2, 2)
        for harmonic in range(1, int(rng.integers(2, 9))):
            if harmonic * pitch_hz < 0.45 * sample_rate_hz:
                phase = 2 * np.pi * harmonic * pitch_hz * time_s
                swell = envelope / harmonic ** rng.uniform(0.5, 2)
                sound += swell * np.sin(phase + rng.uniform(0, 6.28))
    return set_level(sound, LEVEL_DB)


NOISES = {
    "white": noise.white,
    "pink": noise.pink,
    "hum": noise.hum,
    "modulated": noise.modulated,
    "shaped": noise.shaped,
    "tones": tones,
}

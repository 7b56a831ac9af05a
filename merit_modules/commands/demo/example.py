"""A recording to try a model on."""

import functools
import io

import soundfile
import torch

from merit_modules.data.miniemo import noise, speech
from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.waveform import SAMPLE_RATE_HZ
from merit_modules.data.mixing import mix_at_snr
from merit_modules.errors import InputError

#: A voice and words of no corpus, in pink noise.
TEXT = "Good morning! A computer says this, and makes the noise around it."
EXAMPLE_SNR_DB = 5.0


@functools.lru_cache(maxsize=1)
def example_recording():
    """Speak a sentence in noise, as a recording to try a model on.

    Returns
    -------
    bytes or None
        A WAV file, always the same; None without ``espeakng-loader``.

    Example
    -------
    >>> example_recording()[:4]
    b'RIFF'
    """
    try:
        espeak = Espeak()
    except InputError:  # it is not installed
        return None
    prosody = speech.PROSODY["happy"]
    spoken = speech.Utterance("example", "en-us", "happy", TEXT, prosody)
    clean = torch.from_numpy(speech.speak_utterance(espeak, spoken))
    rng = speech.keyed_rng(0, "example")
    hiss = torch.from_numpy(noise.pink(len(clean), SAMPLE_RATE_HZ, rng))
    mixture = mix_at_snr(clean, hiss, EXAMPLE_SNR_DB)[0]
    stream = io.BytesIO()
    soundfile.write(
        stream, mixture.numpy(), SAMPLE_RATE_HZ, "PCM_16", format="WAV"
    )
    return stream.getvalue()

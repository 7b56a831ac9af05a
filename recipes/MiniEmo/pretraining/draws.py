"""What pretraining hears: a stretch of speech, something mixed into it."""

import random

from merit_modules.data.audio import read_audio
from merit_modules.data.mixing import NoiseMixer
from merit_modules.data.seeding import keyed_seed


class Draws:
    """What an utterance is cut to and mixed with, by seed, epoch and name.

    Arguments
    ---------
    speech : dict
        Speech manifest, from which voices are mixed in.
    noise : dict
        Noise manifest.
    chunk_s : float
        Longest stretch that is taken of an utterance.
    noise_prob : float
        How often noise is mixed in.
    voice_prob : float
        How often another voice is.
    snr_db : list of float
        Lowest and highest SNR.
    seed : int
        Seed of all draws.
    """

    def __init__(
        self, speech, noise, chunk_s, noise_prob, voice_prob, snr_db, seed
    ):
        self.noise_mixer = NoiseMixer(noise, snr_db, seed)
        self.voice_mixer = NoiseMixer(speech, snr_db, seed)
        self.chunk = int(chunk_s * 16000)
        self.noise_prob, self.voice_prob = noise_prob, voice_prob
        self.seed = seed

    def set_epoch(self, epoch):
        """Draw anew from now on."""
        self.noise_mixer.set_epoch(epoch)
        self.voice_mixer.set_epoch(epoch)

    def __call__(self, utt_id, path):
        """Read, cut and mix an utterance."""
        epoch = self.noise_mixer.epoch
        generator = random.Random(keyed_seed(self.seed, "cut", epoch, utt_id))
        clean = read_audio(path)
        spare = len(clean) - self.chunk
        if spare > 0:
            start = int(generator.random() * spare)
            clean = clean[start : start + self.chunk]
        draw = generator.random()
        if draw < self.noise_prob:
            noisy, clean, _ = self.noise_mixer(utt_id, clean)
        elif draw < self.noise_prob + self.voice_prob:
            noisy, clean, _ = self.voice_mixer(utt_id, clean)
        else:
            noisy = clean
        return noisy, clean

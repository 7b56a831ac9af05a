"""A corpus of a few files whose audio is checked as a run's start does it."""

import os

import numpy as np
import soundfile

from merit_modules.data import pipelines
from merit_modules.data.labels import emotion_labels
from merit_modules.data.mixing import NoiseMixer
from merit_modules.data.pipelines import make_dataset
from merit_modules.training import datasets

READ_AUDIO = pipelines.read_audio


def write(path, seed, n_samples=4000, offset=0.0):
    wav = 0.1 * np.random.default_rng(seed).normal(size=n_samples)
    soundfile.write(path, wav + offset, 16000)


class SmallCorpus:
    """Small splits and noise, and the files that starts of runs read."""

    def __init__(self, folder, n=(6, 2, 2)):
        self.folder, self.read = folder, []
        self.speech = {}
        for number, (split, size) in enumerate(
            zip(("train", "valid", "test"), n)
        ):
            self.speech[split] = {}
            for i in range(size):
                path = folder / f"{split}{i}.wav"
                write(path, 10 * number + i, 4000 + 80 * i)
                entry = {"wav": str(path), "duration": 0.25, "emo": "sad"}
                self.speech[split][f"{split}{i}"] = entry
        write(folder / "n.wav", 99)
        write(folder / "m.wav", 98)
        self.noise = {k: {"wav": str(folder / f"{k}.wav")} for k in "nm"}

    def start(self, run, seed=1, manifest=None, valid_snr_db=5, **options):
        """Check the audio of a run; return what it found."""
        self.read.clear()
        speech = {split: dict(m) for split, m in self.speech.items()}
        mixers = {
            "train": NoiseMixer(self.noise, (0, 10), seed),
            "valid": NoiseMixer(self.noise, valid_snr_db, 0),
            "test": NoiseMixer(None, None, 0),
        }
        folder = self.folder / run
        found = datasets.check_audio(
            speech,
            mixers,
            lambda name, mixer: make_dataset(
                speech[name], mixer, emotion_labels(["sad", "angry"]), 16000
            ),
            folder,
            folder / "save",
            [None, 16000],
            manifest=manifest or folder / "save" / "train.json",
            **options,
        )
        return found | {"left": {split: list(m) for split, m in speech.items()}}

    def names(self):
        """Return what was read at the last start, but for noise."""
        names = {os.path.basename(path) for path in self.read}
        # To see whether a recipe's own pipeline does something else.
        return names - {"n.wav", "m.wav", "train0.wav", "valid0.wav"}

    def spy(self, path, *args, **options):
        """Read a file in place of ``read_audio``, and note it."""
        self.read.append(path)
        return READ_AUDIO(path, *args, **options)

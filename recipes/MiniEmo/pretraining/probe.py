#!/usr/bin/env python3
"""Compare frozen encoders by linear probes, on voices that no probe heard.

> python probe.py emotion mel random mini --manifests DIR --data_folder DIR
> python probe.py phonemes mel random mini

Features are *mel* (log-mel, 80 bands), *random* (the first encoder with random
weights) and encoders: ``mini``, folders, names on the hub. *emotion*: each
utterance becomes the mean and the deviation over time of every layer; a
logistic regression learns from all speakers but one, clean and at 0 dB, and is
tested on that one. *phonemes*: eSpeak NG says sentences and which phoneme is
where; a logistic regression names the phoneme of each 20 ms frame, of three
voices that it has not learned from, which no pretraining has heard either.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speechbrain.lobes.features import Fbank
from torchaudio.functional import resample
from tqdm import tqdm

from merit_modules.data.audio import read_audio
from merit_modules.data.manifest import read_manifest
from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.speech import SENTENCES, VOICES
from merit_modules.data.mixing import NoiseMixer
from merit_modules.ssl import PretrainedSSLEncoder

FORMS = {"clean": None, "0 dB": 0.0}
PAUSE = "_"


def main(arguments=None):
    """Print a table of scores by features and condition."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("probe", choices=PROBES)
    parser.add_argument("features", nargs="+", metavar="mel|random|ENCODER")
    parser.add_argument(
        "--manifests", type=Path, help="folder of speech manifests and noise"
    )
    parser.add_argument("--data_folder", help="where their speech lies")
    parser.add_argument("--noise_folder", help="where their noise lies")
    parser.add_argument("--noise_set", default="train")
    parser.add_argument("--json", type=Path, help="file to write, too")
    options = parser.parse_args(arguments)
    probe = PROBES[options.probe](options)
    found = {}
    for name in options.features:
        found[name] = probe(extractor(name, options.features))
        told = ", ".join(f"{f} {s:.3f}" for f, s in found[name].items())
        print(f"{name}: {told}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def probe_emotion(options):
    """Read a corpus; return what gives F1-macro by condition."""
    speech = {}
    for split in ("train", "valid", "test"):
        path = options.manifests / f"{split}.json"
        speech |= read_manifest(path, options.data_folder)
    path = options.manifests / f"noise_{options.noise_set}.json"
    root = options.noise_folder or options.data_folder
    noise = read_manifest(path, root, "noise")
    wavs = {form: [] for form in FORMS}
    for utt_id, entry in speech.items():
        clean = read_audio(entry["wav"])
        for form, snr_db in FORMS.items():
            mixer = NoiseMixer(noise, snr_db, seed=0)
            wavs[form].append(mixer(utt_id, clean)[0])
    labels = np.array([entry["emo"] for entry in speech.values()])
    speakers = np.array([entry["spk_id"] for entry in speech.values()])
    # One scale for all, as a normaliser of the training set gives.
    scale = torch.cat(wavs["0 dB"]).std()

    def probe(extract):
        vectors = {
            form: np.stack(
                [_statistics(extract(wav / scale)) for wav in tqdm(some)]
            )
            for form, some in wavs.items()
        }
        return scores(vectors, labels, speakers)

    return probe


def _statistics(frames):
    return torch.cat([frames.mean(0), frames.std(0)]).numpy()


def probe_phonemes(options):
    """Speak sentences; return what gives the share of frames named right."""
    spoken = {"train": [], "test": []}
    for split, some in spoken.items():
        for voice in (*VOICES[split], *(VOICES["valid"] * (split == "train"))):
            for text in SENTENCES:
                wav, rate_hz, phonemes = Espeak().speak_phonemes(text, voice)
                wav = resample(torch.from_numpy(wav), rate_hz, 16000)
                starts = [start / rate_hz for start, _ in phonemes]
                names = [name for _, name in phonemes]
                some.append((wav, starts, names))
    scale = torch.cat([wav for some in spoken.values() for wav, *_ in some])
    scale = scale.std()

    def probe(extract):
        frames, names = {}, {}
        for split, some in spoken.items():
            parts = [extract(wav / scale) for wav, *_ in tqdm(some)]
            frames[split] = torch.cat(parts).numpy()
            names[split] = np.concatenate(
                [
                    _names_at((np.arange(len(part)) + 1) * 0.02, *rest)
                    for part, (_, *rest) in zip(parts, some)
                ]
            )
        # Every third frame: neighbours are alike.
        learner = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=200)
        )
        learner.fit(frames["train"][::3], names["train"][::3])
        said = names["test"] != PAUSE
        return {
            "accuracy": learner.score(frames["test"][said], names["test"][said])
        }

    return probe


def _names_at(times_s, starts_s, names):
    """Name the phonemes at some times; pauses alike."""
    index = np.searchsorted(starts_s, times_s, side="right") - 1
    found = np.array([PAUSE if n.startswith("_") else n for n in names])
    return np.where(index < 0, PAUSE, found[np.maximum(index, 0)])


PROBES = {"emotion": probe_emotion, "phonemes": probe_phonemes}


def extractor(name, names):
    """Make the function from a waveform (N,) to frames (T, D), 20 ms apart."""
    if name == "mel":
        mel = Fbank(n_mels=80)
        # As many frames as an encoder has, and of about the same times.
        return lambda wav: mel(wav[None])[0, 1:-1].unfold(0, 2, 2).flatten(1)
    source = next(n for n in names if n != "mel" and n != "random")
    torch.manual_seed(0)
    encoder = PretrainedSSLEncoder(
        source if name == "random" else name, pretrained=name != "random"
    )
    encoder.eval()

    @torch.no_grad()
    def extract(wav):
        return encoder(wav[None])[:, 0].transpose(0, 1).flatten(1)

    return extract


def scores(vectors, labels, speakers):
    """Leave out each speaker in turn.

    Arguments
    ---------
    vectors : dict
        Form of the speech to its vectors (U, D).
    labels : numpy.ndarray
        Emotions (U,).
    speakers : numpy.ndarray
        Speakers (U,).

    Returns
    -------
    dict
        Form to F1-macro over all utterances.
    """
    predicted = {form: np.empty_like(labels) for form in vectors}
    for speaker in sorted(set(speakers)):
        train, test = speakers != speaker, speakers == speaker
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=500)
        )
        probe.fit(
            np.concatenate([some[train] for some in vectors.values()]),
            np.tile(labels[train], len(vectors)),
        )
        for form, some in vectors.items():
            predicted[form][test] = probe.predict(some[test])
    return {
        form: f1_score(labels, guess, average="macro")
        for form, guess in predicted.items()
    }


if __name__ == "__main__":
    main()

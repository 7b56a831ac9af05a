"""Make the MiniEmo corpus: synthetic emotional speech and noise.

With no corpus at hand, this one lets every command run. It is made once, in
seconds, and can be made again: each file depends on the seed and its own name
alone. Speakers of training, validation and test differ, so do the noise
recordings, and four types of noise are heard in the test only.
"""

import json
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from merit_modules.data.manifest import DATA_ROOT, write_manifest
from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.noise import SEEN_TYPES
from merit_modules.data.miniemo.noise_unseen import UNSEEN_TYPES
from merit_modules.data.miniemo.speech import (
    SENTENCES,
    VOICES,
    keyed_rng,
    plan_utterances,
    speak_utterance,
)
from merit_modules.data.miniemo.waveform import SAMPLE_RATE_HZ
from merit_modules.errors import InputError
from merit_modules.files import write_atomically

# Raise it with every change of what the files contain.
VERSION = 2
STAMP = "miniemo.json"

# Manifest: (its noise types, recordings of each).
NOISE_SETS = {
    "noise_train": (SEEN_TYPES, 10),
    "noise_valid": (SEEN_TYPES, 2),
    "noise_test_seen": (SEEN_TYPES, 3),
    "noise_test_unseen": (UNSEEN_TYPES, 4),
}
NOISE_DURATION_S = (4.0, 8.0)


class _Item(NamedTuple):
    """One file of the corpus.

    Arguments
    ---------
    manifest : str
        Manifest that lists it, e.g. ``"train"``.
    name : str
        Its id there.
    entry : dict
        Its manifest entry, without the duration.
    render : callable
        Returns its waveform, shape (T,), float32, at 16 kHz.

    Example
    -------
    >>> plan_corpus(n_sentences=1, seed=0)[0].entry["wav"]
    '{data_root}/speech/en-us+f1/en-us+f1_angry_15.wav'
    """

    manifest: str
    name: str
    entry: dict
    render: object

    def path(self, data_folder):
        """Return where the file lies.

        Arguments
        ---------
        data_folder : Path
            Folder of the corpus.

        Returns
        -------
        path : Path

        Example
        -------
        >>> item = _Item("noise_valid", "pink", {"wav": "{data_root}/a.wav"}, 0)
        >>> item.path(Path("corpus")).as_posix()
        'corpus/a.wav'
        """
        return _wav_path(data_folder, self.entry)


def prepare_miniemo(
    data_folder, manifest_folder, seed=0, n_sentences=5, skip_prep=False
):
    """Make the corpus and its manifests, unless they are there already.

    The stamp ``miniemo.json`` is written last and records the parameters. With
    the same parameters, only missing files are made; without a stamp, or with
    another one, all are. Files of an earlier stamp are removed.

    Arguments
    ---------
    data_folder : str or Path
        Folder for the audio, the ``{data_root}`` of the manifests.
    manifest_folder : str or Path
        Folder for ``train.json``, ``valid.json``, ``test.json``,
        ``noise_train.json``, ``noise_valid.json``, ``noise_test_seen.json``
        and ``noise_test_unseen.json``.
    seed : int
        Seed of sentence choice, prosody and noise, at least 0.
    n_sentences : int
        Sentences that each of the 29 voices says in each of the 4 emotions;
        5 make 480, 40 and 60 utterances, 20 minutes in all.
    skip_prep : bool
        Do nothing.

    Raises
    ------
    InputError
        If an argument is out of range, a folder cannot be written, or eSpeak
        NG is missing or fails.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> prepare_miniemo(folder / "audio", folder / "out", n_sentences=1)
    >>> len(json.loads((folder / "out" / "test.json").read_text()))
    12
    """
    if skip_prep:
        return
    _check_integer("seed", seed, 0, 2**32 - 1)
    _check_integer("n_sentences", n_sentences, 1, len(SENTENCES))
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    parameters = {"version": VERSION, "seed": seed, "n_sentences": n_sentences}
    try:
        manifests = _complete_corpus(data_folder, parameters)
        for name, entries in manifests.items():
            _write_if_changed(manifest_folder / f"{name}.json", entries)
    except OSError as error:
        raise InputError(
            f"MiniEmo: cannot write below {data_folder} or {manifest_folder}: "
            f"{error}"
        ) from error


def plan_corpus(n_sentences, seed):
    """List all files of the corpus, in the order of the manifests.

    Arguments
    ---------
    n_sentences : int
        Sentences of each voice in each emotion.
    seed : int
        Seed of the corpus.

    Returns
    -------
    items : list of _Item

    Example
    -------
    >>> len(plan_corpus(n_sentences=1, seed=0))
    252
    """
    return [
        item for split in VOICES for item in _speech(split, n_sentences, seed)
    ] + [item for name in NOISE_SETS for item in _noises(name, seed)]


def _speech(split, n_sentences, seed):
    """Yield the utterances of a split."""
    for utterance in plan_utterances(split, n_sentences, seed):
        path = f"speech/{utterance.voice}/{utterance.utt_id}.wav"
        entry = {
            "wav": f"{DATA_ROOT}/{path}",
            "emo": utterance.emotion,
            "spk_id": utterance.voice,
        }
        render = partial(_render_speech, utterance)
        yield _Item(split, utterance.utt_id, entry, render)


def _noises(manifest, seed):
    """Yield the recordings of a noise manifest."""
    types, n_recordings = NOISE_SETS[manifest]
    for noise_type, make in types.items():
        for index in range(n_recordings):
            name = f"{manifest}_{noise_type}_{index}"
            entry = {
                "wav": f"{DATA_ROOT}/noise/{name}.wav",
                "noise_type": noise_type,
            }
            yield _Item(
                manifest, name, entry, partial(_render_noise, make, name, seed)
            )


def _render_speech(utterance):
    """Return an utterance's waveform, shape (T,)."""
    return speak_utterance(Espeak(), utterance)


def _render_noise(make, name, seed):
    """Return a noise recording of random length, shape (T,)."""
    rng = keyed_rng(seed, "noise", name)
    n_samples = int(rng.uniform(*NOISE_DURATION_S) * SAMPLE_RATE_HZ)
    return make(n_samples, SAMPLE_RATE_HZ, rng)


def _complete_corpus(data_folder, parameters):
    """Make what is missing; return ``{manifest: {id: entry}}``."""
    stamp_path = data_folder / STAMP
    stamp = _read_stamp(stamp_path)
    known = stamp.get("manifests", {})
    if known and stamp["parameters"] != parameters:
        # In this order, an interruption leaves no stamp that is not true.
        stamp_path.unlink()
        for entries in known.values():
            for entry in entries.values():
                _wav_path(data_folder, entry).unlink(missing_ok=True)
        known = {}
    items = plan_corpus(parameters["n_sentences"], parameters["seed"])
    missing = [
        item
        for item in items
        if not (known and item.path(data_folder).is_file())
    ]
    if not missing:
        return known
    durations = {}
    for item in tqdm(missing, desc="MiniEmo", unit="file"):
        waveform = item.render()
        _write_wav(item.path(data_folder), waveform)
        durations[item.name] = len(waveform) / SAMPLE_RATE_HZ
    if not known:
        known = _manifests(items, durations)
        stamp = {"parameters": parameters, "manifests": known}
        write_atomically(stamp_path, json.dumps(stamp, indent=2) + "\n")
    return known


def _manifests(items, durations):
    """Return ``{manifest: {id: entry}}`` with durations in seconds."""
    manifests = {}
    for item in items:
        wav, *labels = item.entry.items()
        manifests.setdefault(item.manifest, {})[item.name] = dict(
            [wav, ("duration", durations[item.name]), *labels]
        )
    return manifests


def _read_stamp(path):
    """Return what the stamp says, or nothing if there is none to be read."""
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and "parameters" in stamp else {}


def _wav_path(data_folder, entry):
    """Return the path of a manifest entry's audio."""
    return data_folder / entry["wav"].removeprefix(f"{DATA_ROOT}/")


def _write_wav(path, waveform):
    """Write 16-bit PCM so that the file is whole or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            soundfile.write(
                stream, waveform, SAMPLE_RATE_HZ, "PCM_16", format="WAV"
            )
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_if_changed(path, entries):
    """Write a manifest unless the file says the same already."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        written = None
    if written != entries:
        write_manifest(path, entries)


def _check_integer(name, value, low, high):
    """Raise if an argument is no integer in its range."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        raise InputError(
            f"{name}: expected an integer from {low} to {high}, got {value!r}"
        )

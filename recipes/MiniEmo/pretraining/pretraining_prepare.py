"""Prepare speech and noise for pretraining: synthetic, or any folders.

The synthetic speech is made with eSpeak NG, once: many voices and languages,
numbers and invented words, pitch, intonation, rate, loudness and brightness
drawn widely. No voice and no sentence of MiniEmo's validation and test is in
it, no emotion is a label, and MiniEmo's unseen types of noise are not
among the noises.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import soundfile
from noises import NOISES
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from merit_modules.data.audio import probe_audio
from merit_modules.data.manifest import DATA_ROOT, write_manifest
from merit_modules.data.miniemo.espeak import Espeak
from merit_modules.data.miniemo.speech import keyed_rng
from merit_modules.data.miniemo.waveform import (
    SAMPLE_RATE_HZ,
    set_level,
    speak_trimmed,
    tilt_spectrum,
)
from merit_modules.data.state import digest_of, read_state, write_state
from merit_modules.errors import InputError
from merit_modules.files import find_audio

logger = get_logger(__name__)

#: Raise it with every change of what the files contain.
VERSION = 1
#: eSpeak NG's languages of Latin script that invented words can be read in.
LANGUAGES = (
    *("af", "ca", "cs", "cy", "da", "de", "en", "en-us", "eo", "es"),
    *("et", "fi", "fr", "hr", "hu", "id", "is", "it", "la", "lt", "lv"),
    *("nb", "nl", "pl", "pt", "pt-br", "ro", "sk", "sl", "sq", "sv", "sw"),
    "tr",
)
#: Variants of eSpeak NG that sound like a person and are repeatable.
VARIANTS = (
    *("Alex", "Andrea", "Denis", "Diogo", "Gene", "Gene2", "Henrique"),
    *("Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "adam"),
    *("anika", "announcer", "antonio", "benjamin", "boris", "david", "ed"),
    *("edward", "edward2", "grandpa", "gustave", "ian", "iven", "iven2"),
    *("iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3"),
    *("klatt4", "linda", "marcelo", "max", "miguel", "mike2", "norbert"),
    *("pablo", "paul", "pedro", "quincy", "rob", "steph2", "steph3"),
    *("travis", "zac"),
    *("f1", "Annie", "belinda", "steph", "m1", "m3", "m4", "m7"),
)
ONSETS = "b d f g k l m n p r s t v z br dr fl gr kl pl pr sk sp st tr ch sh"
NUCLEI = "a e i o u ai au ei ie oa ou"
CODAS = ("", "", "", *"n r l s t m k".split())
#: Share of the speech that is not trained on.
VALID_SHARE = 0.02


def prepare_pretraining(
    data_folder,
    manifest_folder,
    n_hours=20.0,
    seed=0,
    speech_folder=None,
    noise_folder=None,
    n_jobs=None,
    skip_prep=False,
):
    """Write the manifests ``train.json``, ``valid.json`` and ``noise.json``.

    Arguments
    ---------
    data_folder : str or Path
        Where synthetic audio is made.
    manifest_folder : str or Path
        Where the manifests go.
    n_hours : float
        Hours of synthetic speech.
    seed : int
        Seed of voices, texts, prosody and noise.
    speech_folder : str or Path, optional
        Speech to take in place of synthetic speech, at any depth.
    noise_folder : str or Path, optional
        Noise to take in place of synthetic noise.
    n_jobs : int, optional
        Processes that synthesise; one per core by default.
    skip_prep : bool
        Do nothing.

    Raises
    ------
    InputError
        If a folder holds no audio, or eSpeak NG is missing.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> prepare_pretraining(folder, folder / "out", n_hours=0.01, n_jobs=1)
    >>> sorted(path.name for path in (folder / "out").glob("*.json"))
    ['noise.json', 'train.json', 'valid.json']
    """
    if skip_prep:
        return
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    if speech_folder is None:
        speech = _made(
            data_folder / "speech.json", plan_speech(n_hours, seed), n_jobs
        )
    else:
        speech = _found(Path(speech_folder), "speech")
    if noise_folder is None:
        noise = _made(data_folder / "noise.json", plan_noise(seed), n_jobs)
    else:
        noise = _found(Path(noise_folder), "noise")
    names = sorted(speech, key=lambda name: digest_of([seed, name]))
    n_valid = max(1, round(VALID_SHARE * len(names)))
    splits = {"valid": names[:n_valid], "train": names[n_valid:]}
    for split, chosen in splits.items():
        write_manifest(
            manifest_folder / f"{split}.json",
            {name: speech[name] for name in sorted(chosen)},
        )
    write_manifest(manifest_folder / "noise.json", noise)


def _found(folder, what):
    """List the audio of a folder as manifest entries."""
    entries = {}
    for path in find_audio(folder, what):
        duration_s, _, _ = probe_audio(path)
        name = path.relative_to(folder).as_posix()
        entries[name] = {"wav": str(path.resolve()), "duration": duration_s}
    if len(entries) < 2:
        raise InputError(
            f"{folder}: expected two {what} files or more, got {len(entries)}"
        )
    return entries


def plan_speech(n_hours, seed):
    """List the utterances to speak, of six seconds on average.

    Arguments
    ---------
    n_hours : float
        Hours of speech.
    seed : int
        Seed of all draws.

    Returns
    -------
    list of tuple
        Function that makes a waveform, relative path, seed.

    Example
    -------
    >>> len(plan_speech(n_hours=1.0, seed=0))
    600
    """
    n_utterances = max(4, round(n_hours * 600))
    return [
        (speak, f"speech/{n % 100:02d}/{n:06d}.wav", seed)
        for n in range(n_utterances)
    ]


def plan_noise(seed, n_each=40):
    """List the noise recordings to make; see :func:`plan_speech`.

    Example
    -------
    >>> len(plan_noise(seed=0, n_each=2))
    12
    """
    return [
        (make_noise, f"noise/{noise_type}_{n:03d}.wav", seed)
        for noise_type in NOISES
        for n in range(n_each)
    ]


def _made(stamp_path, plan, n_jobs):
    """Make what a plan lists, unless it is there; return its entries."""
    folder = stamp_path.parent
    key = digest_of([VERSION, [[path, seed] for _, path, seed in plan]])
    if stamp_path.is_file():
        stamp = read_state(stamp_path)
        if stamp["key"] == key:
            return stamp["entries"]
    entries = {}
    n_jobs = n_jobs or os.cpu_count()
    todo = [(folder, *item) for item in plan]
    with ProcessPoolExecutor(n_jobs) as pool:
        done = pool.map(_make, todo, chunksize=16)
        for path, duration_s in tqdm(
            done, total=len(plan), desc=stamp_path.stem, dynamic_ncols=True
        ):
            entries[Path(path).stem] = {
                "wav": f"{DATA_ROOT}/{path}",
                "duration": duration_s,
            }
    write_state(stamp_path, {"key": key, "entries": entries})
    return entries


def _make(item):
    folder, make, path, seed = item
    waveform = make(path, seed)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    soundfile.write(partial, waveform, SAMPLE_RATE_HZ, "PCM_16", format="WAV")
    partial.replace(target)
    return path, len(waveform) / SAMPLE_RATE_HZ


def speak(name, seed):
    """Speak an utterance that its name and the seed decide on.

    Arguments
    ---------
    name : str
        The utterance.
    seed : int
        Seed of all draws.

    Returns
    -------
    numpy.ndarray
        Samples at 16 kHz, shape (T,), float32.

    Example
    -------
    >>> a, b = speak("first", 0), speak("first", 0)
    >>> bool((a == b).all()), len(a) > 16000
    (True, True)
    """
    rng = keyed_rng(seed, "pretraining", name)
    voice = f"{rng.choice(LANGUAGES)}+{rng.choice(VARIANTS)}"
    # Played at another rate, a voice has another length of the vocal tract.
    rate_hz = 50 * round(rng.uniform(0.86, 1.16) * SAMPLE_RATE_HZ / 50)
    pitch = int(rng.integers(5, 96))
    waveform = speak_trimmed(
        Espeak(),
        draw_text(rng),
        voice,
        pitch=pitch,
        # Where both are extreme, eSpeak NG's pitch falls below 0: it crashes.
        pitch_range=int(rng.integers(5, min(96, 45 + pitch))),
        rate_wpm=int(rng.integers(105, 270)),
        sample_rate_hz=rate_hz,
    )
    waveform = tilt_spectrum(waveform, SAMPLE_RATE_HZ, rng.uniform(-8, 8))
    return set_level(waveform, rng.uniform(-36, -18))


def draw_text(rng):
    """Draw a text: numbers, which every language has, and invented words.

    Arguments
    ---------
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    str
        About six seconds of speech.

    Example
    -------
    >>> draw_text(keyed_rng(0, "a")) != draw_text(keyed_rng(0, "b"))
    True
    """
    parts, n_syllables = [], 0
    while n_syllables < 22:
        if rng.random() < 0.3:
            number = int(10 ** rng.uniform(0.5, 5))
            parts.append(str(number))
            n_syllables += 2 * len(parts[-1])
        else:
            size = int(rng.integers(1, 4))
            parts.append("".join(_syllable(rng) for _ in range(size)))
            n_syllables += size
        if rng.random() < 0.2:
            parts[-1] += rng.choice(list(",.?!"))
    return " ".join(parts) + rng.choice(list(".?!"))


def _syllable(rng):
    onset, nucleus = rng.choice(ONSETS.split()), rng.choice(NUCLEI.split())
    return f"{onset}{nucleus}{rng.choice(CODAS)}"


def make_noise(name, seed):
    """Make the noise that a file's name asks for; ten seconds.

    Example
    -------
    >>> make_noise("noise/tones_000.wav", seed=0).shape
    (160000,)
    """
    noise_type = Path(name).stem.rpartition("_")[0]
    rng = keyed_rng(seed, "pretraining", name)
    return NOISES[noise_type](10 * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ, rng)

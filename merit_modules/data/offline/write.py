"""Write mixtures to disk once, in a form that a stopped run can go on with."""

import json
import os
from pathlib import Path

import torch
from scipy.io import wavfile
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from merit_modules.data.audio import raise_if_broken, read_audio
from merit_modules.data.manifest import DATA_ROOT, write_manifest
from merit_modules.data.mixing import PEAK_TARGET, MixRecipe, write_recipes
from merit_modules.data.offline.read import (
    CLEAN,
    MADE_FROM,
    MANIFEST,
    RECIPES,
    audio_paths,
    read_made_from,
)
from merit_modules.data.state import digest_of, hold, write_state
from merit_modules.errors import InputError

logger = get_logger(__name__)

FORMATS = ("float", "pcm16")
PROGRESS = "progress.jsonl"


def write_mixtures(
    folder,
    manifest,
    mixer,
    max_duration_s=None,
    audio_format="float",
    num_workers=0,
    skip_broken_audio=False,
):
    """Write the noisy version of a speech manifest to disk, beside the clean.

    The waveforms are those that ``make_dataset`` gives with the same mixer:
    bit for bit as 32-bit float, rounded to the nearest step as 16-bit. What
    16 bits cannot hold (a peak above full scale in the clean target) is
    scaled down together with its mixture, and the recipe says so.

    A second call with the same arguments goes on where the first stopped.

    Arguments
    ---------
    folder : str or Path
        Made if need be.
    manifest : dict
        Speech manifest, as ``read_manifest`` returns it.
    mixer : NoiseMixer
        Mixes, at its present epoch.
    max_duration_s : float or None
        Longer utterances are cut here.
    audio_format : str
        ``float`` (32 bits) or ``pcm16``.
    num_workers : int
        Processes that read, mix and write.
    skip_broken_audio : bool
        Leave unusable utterances out instead of raising in the end.

    Raises
    ------
    InputError
        If the folder holds mixtures made otherwise, an id cannot be a file's
        name, or utterances cannot be used (after all others were written).
    OSError
        If a file cannot be written.

    Example
    -------
    >>> import soundfile
    >>> from merit_modules.data.mixing import NoiseMixer
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "u1.wav", torch.arange(8000).sin(), 16000)
    >>> entry = {"wav": str(folder / "u1.wav"), "duration": 0.5}
    >>> manifest = {"u1": {**entry, "emo": "sad", "spk_id": "1"}}
    >>> mixer = NoiseMixer(None, snr_db=None, seed=1)
    >>> write_mixtures(folder / "clean", manifest, mixer)
    >>> from merit_modules.data.offline.read import PairedFolders
    >>> PairedFolders(folder / "clean").manifest["u1"]["wav"]
    '.../clean/Audios/u1.wav'
    """
    folder = Path(folder)
    hold(folder)
    made_from = _made_from(manifest, mixer, max_duration_s, audio_format)
    if _is_complete(folder, made_from):
        logger.info(f"{folder}: all mixtures are there already")
        return
    write_state(folder / MADE_FROM, made_from)
    done = _read_progress(folder)
    left = {item: entry for item, entry in manifest.items() if item not in done}
    if done:
        logger.info(f"{folder}: {len(done)} mixtures are there already")
    writer = _Writer(folder, left, mixer, max_duration_s, audio_format)
    problems = _write_all(writer, done, num_workers)
    if not (skip_broken_audio and done):
        raise_if_broken(problems, f"utterances for {folder}")
    for problem in problems.values():
        logger.warning(f"left out: {problem}")
    _finish(folder, manifest, mixer, done)


class _Writer(Dataset):
    """Mixes and writes utterances; what comes back is small."""

    def __init__(self, folder, manifest, mixer, max_duration_s, audio_format):
        self.folder = folder
        self.items = [(item, entry["wav"]) for item, entry in manifest.items()]
        self.mixer = mixer
        self.max_duration_s = max_duration_s
        self.audio_format = audio_format

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        """Return id, recipe, number of samples and, or else, the problem."""
        utt_id, wav_path = self.items[index]
        rate_hz = self.mixer.sample_rate_hz
        try:
            clean_path, noisy_path = audio_paths(self.folder, utt_id)
            wav = read_audio(wav_path, rate_hz, self.max_duration_s)
            noisy, clean, recipe = self.mixer(utt_id, wav)
        except InputError as error:
            return utt_id, None, 0, str(error)
        if self.audio_format == "pcm16":
            noisy, clean, recipe = _below_full_scale(noisy, clean, recipe)
        _write_audio(clean_path, clean, rate_hz, self.audio_format)
        _write_audio(noisy_path, noisy, rate_hz, self.audio_format)
        return utt_id, recipe, len(clean), None


def _below_full_scale(noisy, clean, recipe):
    """Scale a pair so that neither file clips; the mixer sees to the noisy."""
    peak = max(noisy.abs().max().item(), clean.abs().max().item())
    if peak <= 1.0:
        return noisy, clean, recipe
    gain = PEAK_TARGET / peak
    mixture_gain = recipe.mixture_gain * gain
    recipe = recipe._replace(mixture_gain=mixture_gain)
    return noisy * gain, clean * gain, recipe


def _write_audio(path, wav, sample_rate_hz, audio_format):
    """Write a WAV file that is whole or not there."""
    samples = wav.numpy()
    if audio_format == "pcm16":
        # By hand: libsndfile writes times 32767 and reads by 32768.
        steps = (wav.double() * 2**15).round().clamp(-(2**15), 2**15 - 1)
        samples = steps.to(torch.int16).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}")
    try:
        # Not by libsndfile, which puts the time into files of floats.
        wavfile.write(temporary, sample_rate_hz, samples)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_all(writer, done, num_workers):
    """Write what is left, adding to ``done``; return ``{id: problem}``."""
    problems = {}
    loader = DataLoader(
        writer,
        batch_size=None,
        num_workers=num_workers,
        # Without one, a loader draws from the global random state.
        generator=torch.Generator(),
    )
    with open(writer.folder / PROGRESS, "a", encoding="utf-8") as stream:
        stream.write("\n")  # ends what a stopped run may have left
        for utt_id, recipe, n_samples, problem in tqdm(
            loader, desc="writing mixtures", dynamic_ncols=True
        ):
            if problem is not None:
                problems[utt_id] = problem
                continue
            done[utt_id] = recipe, n_samples
            stream.write(json.dumps([*recipe, n_samples]) + "\n")
            stream.flush()
    return problems


def _read_progress(folder):
    """Return ``{id: (recipe, samples)}`` of the pairs that are written."""
    done = {}
    try:
        lines = (folder / PROGRESS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return done
    for line in lines:
        try:
            *fields, n_samples = json.loads(line)
            recipe = MixRecipe(*fields)
        except (ValueError, TypeError):
            continue  # cut off when a run was stopped
        if all(p.is_file() for p in audio_paths(folder, recipe.utt_id)):
            done[recipe.utt_id] = recipe, n_samples
    return done


def _finish(folder, manifest, mixer, done):
    """Write the recipes and, last, the manifest: the folder is whole."""
    recipes = [recipe for recipe, _ in done.values()]
    write_recipes(folder / RECIPES, recipes, mixer.noise)
    entries = {
        utt_id: {
            **entry,
            "wav": f"{DATA_ROOT}/{CLEAN}/{utt_id}.wav",
            "duration": round(done[utt_id][1] / mixer.sample_rate_hz, 4),
        }
        for utt_id, entry in manifest.items()
        if utt_id in done
    }
    write_manifest(folder / MANIFEST, entries)
    (folder / PROGRESS).unlink()
    logger.info(f"{folder}: {len(entries)} mixtures")


def _made_from(manifest, mixer, max_duration_s, audio_format):
    """Return what the mixtures depend on, as JSON has it."""
    if audio_format not in FORMATS:
        raise InputError(
            f"audio_format: expected one of {', '.join(FORMATS)}, got "
            f"{audio_format!r}"
        )
    made_from = {
        "audio_format": audio_format,
        "sample_rate_hz": mixer.sample_rate_hz,
        "max_duration_s": max_duration_s,
        "snr_range_db": mixer.snr_range_db,
        **({"snr_about_mean": True} if mixer.about_mean else {}),
        "seed": mixer.seed,
        "epoch": mixer.epoch,
        "speech": _digest(manifest),
        "noise": _digest(mixer.noise),
    }
    return json.loads(json.dumps(made_from))


def _digest(manifest):
    """Return a digest of a manifest, but not of where its audio lies."""
    rows = sorted(
        [item, {k: v for k, v in entry.items() if k != "wav"}]
        for item, entry in manifest.items()
    )
    return digest_of(rows)[:16]


def _is_complete(folder, made_from):
    """Say whether a folder is whole; raise if it was made otherwise."""
    before = read_made_from(folder)
    if before is None:
        return False
    for key, value in made_from.items():
        if before.get(key) != value:
            raise InputError(
                f"{folder}: holds mixtures made with {key} "
                f"{before.get(key)!r}, expected {value!r}; write to another "
                "folder"
            )
    return (folder / MANIFEST).is_file()

"""Add noise to clean speech: which noise, from where, how loud, repeatably.

The mixing itself is that of the authors' released code (``mix_noise.py``). The
draws are not: here they depend on the seed, the epoch and the utterance's name
alone, so neither the number of loader workers, nor the order of a batch, nor
resuming a run changes a mixture, and no mixture needs to be stored.
"""

import contextlib
import csv
import io
import math
import random
from collections import OrderedDict
from typing import NamedTuple

import torch
from speechbrain.utils.logger import get_logger

from merit_modules.data.audio import read_audio
from merit_modules.data.noise.choice import NoiseChoice, uniform_below
from merit_modules.data.seeding import keyed_seed
from merit_modules.errors import InputError
from merit_modules.files import write_atomically

logger = get_logger(__name__)

SILENCE_POWER = 1e-10  # mean power, full scale 1: -100 dBFS
PEAK_TARGET = 0.99
MAX_DRAWS = 20
MAX_SNR_DB = 100.0


class MixRecipe(NamedTuple):
    """How a noisy utterance was made, enough to make it again.

    Arguments
    ---------
    utt_id : str
        The utterance.
    noise_id : str or None
        The noise file's key in the noise manifest; None for clean speech.
    offset_samples : int
        How far the noise was rolled.
    snr_db : float or None
        Signal-to-noise ratio in dB; None for clean speech.
    noise_gain : float
        Factor of the noise before it was added; 0 for clean speech.
    mixture_gain : float
        Factor of the mixture and its clean target; 1 unless the mixture
        would have clipped.

    Example
    -------
    >>> MixRecipe("a", None, 0, None, 0.0, 1.0).snr_db is None
    True
    """

    utt_id: str
    noise_id: str | None
    offset_samples: int
    snr_db: float | None
    noise_gain: float
    mixture_gain: float


def mean_power(wav, about_mean=False):
    """Return the mean of the squared samples, summed in double precision.

    Arguments
    ---------
    wav : torch.Tensor
        Samples, any shape.
    about_mean : bool
        Whether a constant offset, which nobody hears, counts for nothing.

    Returns
    -------
    power : float
        Mean power; 1 is that of a square wave at full scale.

    Example
    -------
    >>> mean_power(torch.tensor([1.0, -3.0]))
    5.0
    """
    wav = wav.to(torch.float64)
    return (wav - wav.mean() if about_mean else wav).square().mean().item()


def align_noise(noise, n_samples, offset):
    """Roll a noise recording and repeat or cut it to a length.

    Arguments
    ---------
    noise : torch.Tensor
        Samples, shape (M,), M at least 1.
    n_samples : int
        Wanted length N.
    offset : int
        Samples to roll by: the result starts ``offset`` before the
        recording's beginning, that is with what ends it.

    Returns
    -------
    aligned : torch.Tensor
        Shape (N,), periodic in M.

    Raises
    ------
    ValueError
        If ``noise`` is not of shape (M,), or is empty.

    Example
    -------
    >>> align_noise(torch.tensor([1, 2, 3]), 5, offset=1)
    tensor([3, 1, 2, 3, 1])
    """
    if noise.ndim != 1 or not len(noise):
        raise ValueError(
            "noise: expected shape (M,) with M above 0, "
            f"got {tuple(noise.shape)}"
        )
    # Not rolled: that would copy all of a recording of many minutes.
    first = -offset % len(noise)
    if first + n_samples <= len(noise):
        return noise[first : first + n_samples]
    return noise[(torch.arange(n_samples) + first) % len(noise)]


def mix_at_snr(speech, noise, snr_db, about_mean=False):
    """Add noise to speech at a ratio of mean powers.

    Arguments
    ---------
    speech : torch.Tensor
        Clean samples, shape (N,).
    noise : torch.Tensor
        Noise samples, shape (N,).
    snr_db : float
        Wanted signal-to-noise ratio in dB.
    about_mean : bool
        See :func:`mean_power`.

    Returns
    -------
    mixture : torch.Tensor
        ``speech + noise_gain * noise``, shape (N,). It may exceed 1.
    noise_gain : float
        What the noise was multiplied with.

    Raises
    ------
    ValueError
        If the shapes differ, or if either signal is digital silence.

    Example
    -------
    >>> speech, noise = torch.tensor([2.0, -2.0]), torch.tensor([1.0, 1.0])
    >>> mix_at_snr(speech, noise, snr_db=0.0)
    (tensor([4., 0.]), 2.0)
    """
    if speech.shape != noise.shape:
        raise ValueError(
            "noise: expected the shape of the speech "
            f"{tuple(speech.shape)}, got {tuple(noise.shape)}"
        )
    powers = {
        "speech": mean_power(speech, about_mean),
        "noise": mean_power(noise, about_mean),
    }
    for name, power in powers.items():
        if not power > 0:
            raise ValueError(f"{name}: silent, no SNR can be reached")
    noise_gain = math.sqrt(
        powers["speech"] / powers["noise"] / 10 ** (snr_db / 10)
    )
    return speech + noise_gain * noise, noise_gain


class NoiseMixer:
    """Make the noisy version of an utterance, the same one every time.

    The noise file, the offset and the SNR are drawn from a generator keyed by
    the seed, the epoch and the utterance's id, never by the SNR range: fixed
    conditions at -5 and at 5 dB share noise files and offsets. A mixture that
    would exceed full scale is scaled down, together with its clean target.

    Arguments
    ---------
    noise : dict or None
        Noise manifest, ``{id: entry}`` with ``wav`` paths; files are drawn
        uniformly, or by the weights of their corpora, see
        :class:`merit_modules.data.noise.choice.NoiseChoice`. None only where
        ``snr_db`` is None.
    snr_db : None, float or pair of float
        None leaves the speech clean, a number is a fixed SNR in dB, a pair
        is the range of a uniform draw.
    seed : int
        Seed of all draws.
    sample_rate_hz : int
        Rate of the speech; noise is converted to it.
    cache_bytes : int
        Decoded noise that each process keeps at most.
    about_mean : bool
        Whether SNR and silence are judged without any constant offset. The
        released code takes the offset for power.

    Raises
    ------
    InputError
        If ``snr_db`` is none of the above, noise is needed and absent, or
        its weights cannot be used.

    Example
    -------
    >>> import numpy, soundfile
    >>> path = str(getfixture("tmp_path") / "n.wav")
    >>> soundfile.write(path, numpy.random.default_rng(0).normal(
    ...     0, 0.1, 8000), 16000)
    >>> mixer = NoiseMixer({"n": {"wav": path}}, snr_db=5, seed=1)
    >>> speech = 0.1 * torch.sin(torch.arange(16000) / 10)
    >>> noisy, clean, recipe = mixer("utt1", speech)
    >>> ratio = mean_power(clean) / mean_power(noisy - clean)
    >>> recipe.noise_id, round(10 * math.log10(ratio), 3)
    ('n', 5.0)
    """

    def __init__(
        self,
        noise,
        snr_db,
        seed,
        sample_rate_hz=16000,
        cache_bytes=256 * 2**20,
        about_mean=True,
    ):
        self.about_mean = about_mean
        self.snr_range_db = _snr_range(snr_db)
        if self.snr_range_db is not None and not noise:
            raise InputError(
                f"noise: expected a noise manifest for snr_db {snr_db!r}, "
                f"got {noise!r}"
            )
        self.noise = dict(noise or {})
        self._choice = NoiseChoice(self.noise)
        self.seed = int(seed)
        self.sample_rate_hz = sample_rate_hz
        # Shared memory: workers that live on hear of the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache = _WavCache(cache_bytes)
        self._silent = set()

    @property
    def epoch(self):
        """The epoch that draws are keyed by (int)."""
        return self._epoch.item()

    def set_epoch(self, epoch):
        """Draw new noise from now on, in worker processes too.

        Mixers of validation and test sets stay at epoch 0: never call it.

        Arguments
        ---------
        epoch : int
            Any number; the same one gives the same mixtures again.

        Example
        -------
        >>> mixer = NoiseMixer(None, snr_db=None, seed=1)
        >>> mixer.set_epoch(3)
        >>> mixer.epoch
        3
        """
        self._epoch.fill_(int(epoch))

    def keep_noise(self):
        """Decode all noise now, if that much is kept.

        Loader workers that are forked from this process then share it, epoch
        after epoch, instead of decoding and resampling it again.

        Example
        -------
        >>> NoiseMixer(None, snr_db=None, seed=1).keep_noise()
        """
        lengths_s = [e.get("duration", math.inf) for e in self.noise.values()]
        if sum(lengths_s) * self.sample_rate_hz * 4 > self._cache.max_bytes:
            return
        for path in self.audio_files():
            # What cannot be read is told when it is drawn.
            with contextlib.suppress(InputError):
                self._cache.get(path, self.sample_rate_hz)

    def audio_files(self):
        """List the files that mixtures depend on, beside the speech.

        Returns
        -------
        list of str
            Paths of the noise.

        Example
        -------
        >>> NoiseMixer({"n": {"wav": "n.wav"}}, 5, seed=1).audio_files()
        ['n.wav']
        """
        return [entry["wav"] for entry in self.noise.values()]

    def __call__(self, utt_id, clean):
        """Mix one utterance.

        Arguments
        ---------
        utt_id : str
            Its id, part of the key of all draws.
        clean : torch.Tensor
            Clean samples, shape (N,).

        Returns
        -------
        noisy : torch.Tensor
            Shape (N,), never above 1 in absolute value.
        clean : torch.Tensor
            The target, shape (N,), scaled as the mixture is.
        recipe : MixRecipe
            How it was made.

        Raises
        ------
        InputError
            If the speech is silent (below -100 dBFS), or if every noise
            drawn is.
        """
        if mean_power(clean, self.about_mean) < SILENCE_POWER:
            raise InputError(
                f"utterance {utt_id!r}: the speech is silent (mean power "
                "below -100 dBFS)"
            )
        noise_id, offset, snr_db, noise_gain, noisy = None, 0, None, 0.0, clean
        if self.snr_range_db is not None:
            generator = _generator(self.seed, self.epoch, utt_id)
            # First and always, so that a fixed SNR shifts no later draw.
            low, high = self.snr_range_db
            snr_db = low + (high - low) * generator.random()
            noise_id, offset, aligned = self._draw_noise(
                generator, utt_id, len(clean)
            )
            noisy, noise_gain = mix_at_snr(
                clean, aligned, snr_db, self.about_mean
            )
        noisy, clean, gain = _below_full_scale(noisy, clean)
        recipe = MixRecipe(utt_id, noise_id, offset, snr_db, noise_gain, gain)
        return noisy, clean, recipe

    def _draw_noise(self, generator, utt_id, n_samples):
        """Return noise id, offset and samples (N,) that are not silent."""
        tried = set()
        for _ in range(MAX_DRAWS):
            noise_id = self._choice.draw(generator)
            path = self.noise[noise_id]["wav"]
            wav = self._cache.get(path, self.sample_rate_hz)
            offset = uniform_below(generator, len(wav))
            aligned = align_noise(wav, n_samples, offset)
            if mean_power(aligned, self.about_mean) >= SILENCE_POWER:
                return noise_id, offset, aligned
            tried.add(path)
            if path not in self._silent:
                self._silent.add(path)
                logger.warning(
                    f"{path}: noise is silent (below -100 dBFS) where it was "
                    "drawn; drawing again"
                )
        raise InputError(
            f"utterance {utt_id!r}: all {MAX_DRAWS} noises drawn are silent "
            f"(below -100 dBFS): {', '.join(sorted(tried))}"
        )

    def __getstate__(self):
        """Leave decoded audio behind when a worker process gets a copy."""
        return {**self.__dict__, "_cache": _WavCache(self._cache.max_bytes)}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._epoch.share_memory_()

    def __deepcopy__(self, memo):
        """Return the mixer itself.

        SpeechBrain deep-copies the pipeline of a dataset that it sorts; a
        mixer in there must go on hearing ``set_epoch``.
        """
        return self


class _WavCache:
    """Least recently used decoded files, bounded by their total size."""

    def __init__(self, max_bytes):
        self.max_bytes = max_bytes
        self._n_bytes = 0
        self._wavs = OrderedDict()

    def get(self, path, sample_rate_hz):
        """Return a file's samples (M,); the caller must not change them."""
        if path in self._wavs:
            self._wavs.move_to_end(path)
            return self._wavs[path]
        wav = read_audio(path, sample_rate_hz, min_samples=1, is_speech=False)
        if wav.nbytes > self.max_bytes:
            return wav
        self._wavs[path] = wav
        self._n_bytes += wav.nbytes
        while self._n_bytes > self.max_bytes:
            self._n_bytes -= self._wavs.popitem(last=False)[1].nbytes
        return wav


def _snr_range(snr_db):
    """Return None or (low, high) in dB; raise on anything else."""
    if snr_db is None:
        return None
    pair = snr_db if isinstance(snr_db, (list, tuple)) else (snr_db, snr_db)
    numbers = len(pair) == 2 and all(
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= MAX_SNR_DB
        for value in pair
    )
    if not numbers or pair[0] > pair[1]:
        raise InputError(
            "snr_db: expected null (clean), a number or a pair [low, high] "
            f"in dB between -{MAX_SNR_DB:g} and {MAX_SNR_DB:g}, "
            f"got {snr_db!r}"
        )
    return float(pair[0]), float(pair[1])


def _generator(seed, epoch, utt_id):
    """Return a generator whose stream is fixed by its three keys alone."""
    # Of Python's generator, only random() is promised never to change.
    return random.Random(keyed_seed(seed, epoch, utt_id))


def _below_full_scale(noisy, clean):
    """Return mixture, target and the one gain that keeps the first below 1."""
    peak = noisy.abs().max().item()
    if peak <= 1.0:
        return noisy, clean, 1.0
    gain = PEAK_TARGET / peak
    return noisy * gain, clean * gain, gain


def write_recipes(path, recipes, noise):
    """Save how each utterance of a condition was mixed, atomically.

    Arguments
    ---------
    path : str or Path
        CSV file to write.
    recipes : iterable of MixRecipe
        Any order; written sorted by utterance.
    noise : dict or None
        The noise manifest, for the files' paths.

    Example
    -------
    >>> path = getfixture("tmp_path") / "recipes.csv"
    >>> recipe = MixRecipe("u1", "n1", 7, -5.0, 0.5, 1.0)
    >>> write_recipes(path, [recipe], {"n1": {"wav": "n1.wav"}})
    >>> print(path.read_text(), end="")
    utt_id,noise_id,noise_wav,offset_samples,snr_db,noise_gain,mixture_gain
    u1,n1,n1.wav,7,-5.0,0.5,1.0
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("utt_id", "noise_id", "noise_wav", *MixRecipe._fields[2:]))
    for recipe in sorted(recipes, key=lambda recipe: recipe.utt_id):
        noise_wav = noise[recipe.noise_id]["wav"] if recipe.noise_id else ""
        writer.writerow((*recipe[:2], noise_wav, *recipe[2:]))
    write_atomically(path, stream.getvalue())

"""From manifests to examples: labels, class weights, datasets, a first scan."""

import math
from collections import Counter
from typing import NamedTuple

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import (
    if_main_process,
    is_distributed_initialized,
)
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from merit_modules.data.audio import read_audio
from merit_modules.data.doubts import collected
from merit_modules.data.gathering import gathered
from merit_modules.errors import InputError


class RunningWavStats:
    """Mean and standard deviation of a set of waveforms, one at a time.

    One pass, nothing kept but three numbers: counts, means and squared
    deviations of parts are merged as in Chan, Golub and LeVeque, "Algorithms
    for computing the sample variance" (1983), which stays exact where a sum of
    squares loses a small deviation beside a large mean. The deviation is the
    biased one (divided by N), as the released code has it.

    Example
    -------
    >>> stats = RunningWavStats()
    >>> stats.update(torch.tensor([1.0, 2.0]))
    >>> stats.update(torch.tensor([3.0, 4.0]))
    >>> stats.count, stats.mean, round(stats.std, 4)
    (4, 2.5, 1.118)
    """

    # Many of them go from process to process.
    __slots__ = ("_mean", "_squared_deviation", "count")

    def __init__(self):
        self.count = 0
        self._mean = 0.0
        self._squared_deviation = 0.0

    def update(self, wav):
        """Add the samples of one waveform.

        Arguments
        ---------
        wav : torch.Tensor
            Samples, any shape, at least one.

        Raises
        ------
        ValueError
            If there is no sample, or if one is NaN or infinite: either would
            silently spoil the statistics of the whole set.

        Example
        -------
        >>> stats = RunningWavStats()
        >>> stats.update(torch.tensor([float("nan")]))
        Traceback (most recent call last):
        ValueError: wav: expected finite samples, at least one, got 1 ...
        """
        wav = wav.detach().to(torch.float64)
        mean = wav.mean().item()
        if not math.isfinite(mean):
            raise ValueError(
                "wav: expected finite samples, at least one, "
                f"got {wav.numel()} with mean {mean}"
            )
        self._merge(wav.numel(), mean, (wav - mean).square().sum().item())

    def merge(self, other):
        """Add all samples that another object has seen.

        Arguments
        ---------
        other : RunningWavStats
            Statistics of other waveforms; it may be empty.

        Example
        -------
        >>> first, second = RunningWavStats(), RunningWavStats()
        >>> first.update(torch.zeros(3))
        >>> second.update(torch.ones(1))
        >>> first.merge(second)
        >>> first.count, first.mean
        (4, 0.25)
        """
        self._merge(other.count, other._mean, other._squared_deviation)

    def _merge(self, count, mean, squared_deviation):
        total = self.count + count
        if not count:
            return
        step = mean - self._mean
        self._mean += step * count / total
        self._squared_deviation += (
            squared_deviation + step * step * self.count * count / total
        )
        self.count = total

    @property
    def mean(self):
        """Mean over all samples so far (float)."""
        self._need_samples()
        return self._mean

    @property
    def std(self):
        """Biased standard deviation over all samples so far (float)."""
        self._need_samples()
        return math.sqrt(self._squared_deviation / self.count)

    def _need_samples(self):
        if not self.count:
            raise ValueError("no waveform has been added yet")


OUTPUT_KEYS = ("id", "noisy_wav", "clean_wav", "ser_label", "recipe")


def check_labels(manifests, classes):
    """Make sure that all labels are classes and all classes can be learnt.

    Arguments
    ---------
    manifests : dict
        ``{split: speech manifest}``; the split ``train`` must be there.
    classes : list of str
        Class names.

    Raises
    ------
    InputError
        If an utterance's label is not a class, or a class has no training
        utterance.

    Example
    -------
    >>> check_labels({"train": {"u1": {"emo": "bored"}}}, ["angry", "sad"])
    Traceback (most recent call last):
    merit_modules.errors.InputError: train: utterance 'u1': expected a label
    out of angry, sad, got 'bored'
    """
    for split, manifest in manifests.items():
        for utt_id, entry in manifest.items():
            if entry.get("emo") not in classes:
                raise InputError(
                    f"{split}: utterance {utt_id!r}: expected a label out of "
                    f"{', '.join(classes)}, got {entry.get('emo')!r}"
                )
    _class_counts(manifests["train"], classes)


def class_weights(train_manifest, classes):
    """Weigh classes so that each counts alike in the cross entropy.

    ``w_c = N / (C * n_c)`` with N training utterances, C classes and n_c
    utterances of class c, as in the authors' released code.

    Arguments
    ---------
    train_manifest : dict
        Speech manifest of the training split.
    classes : list of str
        Class names, in the order of the result.

    Returns
    -------
    weights : torch.Tensor
        Shape (C,), float32.

    Raises
    ------
    InputError
        If a class has no training utterance.

    Example
    -------
    >>> labels = ("sad", "angry", "sad", "sad")
    >>> manifest = {str(i): {"emo": e} for i, e in enumerate(labels)}
    >>> class_weights(manifest, ["angry", "sad"])
    tensor([2.0000, 0.6667])
    """
    counts = _class_counts(train_manifest, classes)
    total = sum(counts)
    return torch.tensor([total / (len(classes) * n) for n in counts])


def _class_counts(train_manifest, classes):
    """Return the number of utterances per class, none of them 0."""
    counts = Counter(entry["emo"] for entry in train_manifest.values())
    for name in classes:
        if not counts[name]:
            raise InputError(
                f"train: class {name!r} has no training utterance; the "
                f"labels there are {', '.join(sorted(counts))}"
            )
    return [counts[name] for name in classes]


class _ReadAndMix:
    """Read an utterance and mix it; a class, so that workers can pickle it."""

    def __init__(self, mixer, sample_rate_hz, max_duration_s):
        self.mixer = mixer
        self.sample_rate_hz = sample_rate_hz
        self.max_duration_s = max_duration_s

    def __call__(self, utt_id, path):
        wav = read_audio(path, self.sample_rate_hz, self.max_duration_s)
        return self.mixer(utt_id, wav)


def make_dataset(
    manifest, mixer, label_reader, sample_rate_hz, max_duration_s=None
):
    """Make a dataset that reads and mixes utterances when asked for them.

    Arguments
    ---------
    manifest : dict
        Speech manifest, as ``read_manifest`` returns it.
    mixer : NoiseMixer
        Makes the noisy version.
    label_reader : LabelReader
        Makes the label; see :mod:`merit_modules.data.labels`.
    sample_rate_hz : int
        Audio of another rate is converted to it.
    max_duration_s : float or None
        Longer utterances are cut here.

    Returns
    -------
    dataset : DynamicItemDataset
        Examples with ``id``, ``noisy_wav`` (N,), ``clean_wav`` (N,),
        ``ser_label`` and ``recipe`` (a MixRecipe; a list of them in a
        batch).

    Example
    -------
    >>> import numpy, soundfile
    >>> from merit_modules.data.labels import emotion_labels
    >>> from merit_modules.data.mixing import NoiseMixer
    >>> path = str(getfixture("tmp_path") / "u1.wav")
    >>> soundfile.write(path, 0.1 * numpy.sin(numpy.arange(16000)), 16000)
    >>> dataset = make_dataset(
    ...     {"u1": {"wav": path, "duration": 1.0, "emo": "sad"}},
    ...     NoiseMixer(None, snr_db=None, seed=1),
    ...     emotion_labels(["angry", "sad"]),
    ...     sample_rate_hz=16000,
    ...     max_duration_s=0.5,
    ... )
    >>> dataset[0]["noisy_wav"].shape, dataset[0]["ser_label"]
    (torch.Size([8000]), tensor([1]))
    """
    # Copied: the dataset writes each id into its entry.
    dataset = DynamicItemDataset(
        {utt_id: dict(entry) for utt_id, entry in manifest.items()}
    )
    dataset.add_dynamic_item(
        _ReadAndMix(mixer, sample_rate_hz, max_duration_s),
        takes=["id", "wav"],
        provides=["noisy_wav", "clean_wav", "recipe"],
    )
    dataset.add_dynamic_item(
        label_reader.encode,
        takes=list(label_reader.keys),
        provides="ser_label",
    )
    dataset.set_output_keys(list(OUTPUT_KEYS))
    return dataset


class Scan(NamedTuple):
    """What :func:`scan` found in a dataset.

    Arguments
    ---------
    stats : RunningWavStats or None
        Over all samples of ``noisy_wav`` that could be read; None if no
        utterance could be. The same for any number of workers and processes.
    recipes : list of MixRecipe
        How the readable utterances were mixed.
    problems : dict
        ``{utt_id: message}`` of the unusable utterances, see
        :func:`merit_modules.data.audio.raise_if_broken`.
    clean_stats : RunningWavStats or None
        Likewise of ``clean_wav``.
    doubts : dict
        Path of a recording, of speech or noise, to its doubts: kind to
        sentence.
    """

    stats: RunningWavStats | None
    recipes: list
    problems: dict
    clean_stats: RunningWavStats | None
    doubts: dict


class _Scanned(Dataset):
    """A dataset's ids with what :func:`scan` needs, without the audio."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, number):
        index = self.indices[number]
        utt_id = self.dataset.data_ids[index]
        stats = RunningWavStats(), RunningWavStats()
        with collected() as doubts:
            try:
                example = self.dataset[index]
                stats[0].update(example["noisy_wav"])
                stats[1].update(example["clean_wav"])
            except InputError as error:
                return utt_id, stats, None, str(error), doubts
        return utt_id, stats, example["recipe"], None, doubts


def _of_all_processes(items):
    """Gather what processes found in every n-th item, in the items' order."""
    parts = gathered(items)
    in_order = [None] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        in_order[rank :: len(parts)] = part
    return in_order


def scan(dataset, num_workers=0, desc="reading audio", ids=None):
    """Read a whole dataset once, before training can stumble over a file.

    Under torchrun each process reads its share, and all get the whole.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With an output ``noisy_wav``, see :func:`make_dataset`.
    num_workers : int
        Processes that read; audio never leaves them.
    desc : str
        Title of the progress bar.
    ids : collection of str, optional
        The utterances to read, in the dataset's order; all by default.

    Returns
    -------
    Scan
        Statistics, recipes and problems.

    Example
    -------
    >>> from merit_modules.data.labels import emotion_labels
    >>> from merit_modules.data.mixing import NoiseMixer
    >>> dataset = make_dataset(
    ...     {"u1": {"wav": "gone.wav", "duration": 1.0, "emo": "sad"}},
    ...     NoiseMixer(None, snr_db=None, seed=1),
    ...     emotion_labels(["angry", "sad"]),
    ...     sample_rate_hz=16000,
    ... )
    >>> scan(dataset).problems
    {'u1': 'gone.wav: there is no such audio file'}
    """
    noisy, clean = RunningWavStats(), RunningWavStats()
    recipes, problems, doubts = [], {}, {}
    indices = [
        index
        for index, utt_id in enumerate(dataset.data_ids)
        if ids is None or utt_id in ids
    ]
    if is_distributed_initialized():
        rank = torch.distributed.get_rank()
        indices = indices[rank :: torch.distributed.get_world_size()]
    loader = DataLoader(
        _Scanned(dataset, indices),
        batch_size=None,
        num_workers=num_workers,
        # Without one, a loader draws from the global random state.
        generator=torch.Generator(),
    )
    found = tqdm(
        loader, desc=desc, disable=not if_main_process(), dynamic_ncols=True
    )
    for utt_id, stats, recipe, problem, heard in _of_all_processes(list(found)):
        noisy.merge(stats[0])
        clean.merge(stats[1])
        for kind, path, text in heard:
            doubts.setdefault(path, {}).setdefault(kind, text)
        if problem is None:
            recipes.append(recipe)
        else:
            problems[utt_id] = problem
    if not noisy.count:
        return Scan(None, recipes, problems, None, doubts)
    return Scan(noisy, recipes, problems, clean, doubts)

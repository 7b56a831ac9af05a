"""Mixtures on disk, read back in place of mixing.

A folder holds ``Audios/<id>.wav`` (clean, scaled as the mixture is) beside
``NoisyAudios/<id>.wav``, ``mixtures.csv`` (how each was made),
``manifest.json`` (a speech manifest of the clean files) and
``made_from.json``. :mod:`merit_modules.data.offline.mix` makes one.
"""

import csv
from pathlib import Path, PurePosixPath

from merit_modules.data.audio import read_audio
from merit_modules.data.manifest import read_manifest
from merit_modules.data.mixing import MixRecipe
from merit_modules.data.state import read_state
from merit_modules.errors import InputError

CLEAN, NOISY = "Audios", "NoisyAudios"
RECIPES, MANIFEST, MADE_FROM = "mixtures.csv", "manifest.json", "made_from.json"


def audio_paths(folder, utt_id):
    """Name the two files of an utterance.

    Arguments
    ---------
    folder : str or Path
        Folder of mixtures.
    utt_id : str
        The utterance.

    Returns
    -------
    clean : Path
        Clean target.
    noisy : Path
        Its noisy version.

    Raises
    ------
    InputError
        If the id would lead out of the folder.

    Example
    -------
    >>> [path.as_posix() for path in audio_paths("out", "u1")]
    ['out/Audios/u1.wav', 'out/NoisyAudios/u1.wav']
    >>> audio_paths("out", "../u1")
    Traceback (most recent call last):
    merit_modules.errors.InputError: utterance '../u1': expected an id that ...
    """
    path = PurePosixPath(f"{utt_id}.wav")
    if path.is_absolute() or ".." in path.parts or "\0" in utt_id:
        raise InputError(
            f"utterance {utt_id!r}: expected an id that can be a file's name"
        )
    return Path(folder, CLEAN, path), Path(folder, NOISY, path)


class PairedFolders:
    """Stand in for a NoiseMixer where the mixtures are on disk already.

    Pass :attr:`manifest` and the object itself to ``make_dataset``: the
    original corpora are not needed. Every epoch hears the same mixtures.

    Arguments
    ---------
    folder : str or Path
        What :func:`write_mixtures` made.
    sample_rate_hz : int
        Rate that the training expects.

    Raises
    ------
    InputError
        If the folder is not whole or of another sample rate.

    Example
    -------
    >>> PairedFolders("nowhere")
    Traceback (most recent call last):
    merit_modules.errors.InputError: nowhere: expected a whole folder ...
    """

    def __init__(self, folder, sample_rate_hz=16000):
        self.folder = Path(folder)
        made_from = read_made_from(self.folder)
        if made_from is None or not (self.folder / MANIFEST).is_file():
            raise InputError(
                f"{folder}: expected a whole folder of mixtures; python -m "
                "merit_modules.data.offline.mix makes one, or goes on making it"
            )
        if made_from["sample_rate_hz"] != sample_rate_hz:
            raise InputError(
                f"{folder}: expected mixtures at {sample_rate_hz} Hz, got "
                f"{made_from['sample_rate_hz']} Hz"
            )
        self.sample_rate_hz = sample_rate_hz
        self.seed, self.epoch = made_from["seed"], made_from["epoch"]
        self.snr_range_db = made_from["snr_range_db"]
        #: Speech manifest (dict) of the clean files in the folder.
        self.manifest = read_manifest(self.folder / MANIFEST, self.folder)
        self._recipes, self.noise = _read_recipes(self.folder / RECIPES)

    def set_epoch(self, epoch):
        """Change nothing: these mixtures were made once, for one epoch.

        Arguments
        ---------
        epoch : int
            What a NoiseMixer would draw by.
        """

    def keep_noise(self):
        """Do nothing: there is none to decode."""

    def audio_files(self):
        """List the files that mixtures depend on, beside the speech.

        Returns
        -------
        list of str
            Paths of the noisy versions.
        """
        return [str(audio_paths(self.folder, i)[1]) for i in self.manifest]

    def __call__(self, utt_id, clean):
        """Read the noisy version of an utterance.

        Arguments
        ---------
        utt_id : str
            Its id.
        clean : torch.Tensor
            Samples (N,) of the file that :attr:`manifest` names.

        Returns
        -------
        noisy : torch.Tensor
            Shape (N,).
        clean : torch.Tensor
            The target, as it came: its file is scaled as the mixture is.
        recipe : MixRecipe
            How the mixture was made.

        Raises
        ------
        InputError
            If there is no such utterance, or not as long a one.
        """
        if utt_id not in self._recipes:
            raise InputError(f"{self.folder}: there is no utterance {utt_id!r}")
        path = audio_paths(self.folder, utt_id)[1]
        noisy = read_audio(path, self.sample_rate_hz)
        if len(noisy) != len(clean):
            raise InputError(
                f"{path}: expected {len(clean)} samples, as the clean speech "
                f"has, got {len(noisy)}; were both cut at the same "
                "max_duration_s?"
            )
        return noisy, clean, self._recipes[utt_id]

    def __deepcopy__(self, memo):
        """Return the object itself: nothing in it changes."""
        return self


def read_made_from(folder):
    """Read what the mixtures of a folder were made from.

    Arguments
    ---------
    folder : str or Path
        Folder of mixtures, whole or not.

    Returns
    -------
    made_from : dict or None
        None if there are no mixtures.

    Raises
    ------
    DamagedError
        If the file that says so is damaged.

    Example
    -------
    >>> read_made_from("nowhere") is None
    True
    """
    path = Path(folder) / MADE_FROM
    try:
        return read_state(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read_recipes(path):
    """Return ``{id: recipe}`` and the noise manifest's ids with paths."""
    recipes, noise = {}, {}
    with open(path, encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["noise_id"]:
                noise[row["noise_id"]] = {"wav": row["noise_wav"]}
            recipes[row["utt_id"]] = MixRecipe(
                row["utt_id"],
                row["noise_id"] or None,
                int(row["offset_samples"]),
                float(row["snr_db"]) if row["snr_db"] else None,
                float(row["noise_gain"]),
                float(row["mixture_gain"]),
            )
    return recipes, noise

"""Which mixtures of an experiment are written to disk: see ``merit mix``."""

from hyperpyyaml import load_hyperpyyaml

from merit_modules.data.kinds import whole
from merit_modules.data.manifest import files_of, read_manifest
from merit_modules.data.mixing import NoiseMixer
from merit_modules.errors import InputError
from merit_modules.hparams import explained, format_overrides, resolved

KEYS = (
    "prepare",
    "train_annotation",
    "valid_annotation",
    "test_annotation",
    "noise_annotation",
    "speech_root",
    "noise_root",
    "sample_rate_hz",
    "max_duration_s",
    "skip_broken_audio",
    "num_workers",
    "seed",
    "mixture_seed",
    "train_snr_db",
    "valid_snr_db",
    "test_sets",
    "test_noise_sets",
    "test_snrs_db",
)
OPTIONAL = {"snr_about_mean"}  # files of version 0.1 lack it


def load_data_settings(path, overrides=None):
    """Read from an experiment's YAML file what concerns its data.

    Nothing else is built: no model is made, none is fetched.

    Arguments
    ---------
    path : str or Path
        HyperPyYAML file.
    overrides : dict, optional
        Keys to replace.

    Returns
    -------
    dict
        Values of ``KEYS``.

    Raises
    ------
    InputError
        If a key is missing or has no value, or the function that prepares
        the corpus cannot be found.

    Example
    -------
    >>> path = getfixture("tmp_path") / "run.yaml"
    >>> _ = path.write_text("".join(f"{key}: 1\\n" for key in KEYS[1:]))
    >>> load_data_settings(path)
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...run.yaml: expected a key 'prepare'
    """
    tree = resolved(path, overrides)
    for key in KEYS:
        if key not in tree:
            raise InputError(f"{path}: expected a key {key!r}")
    keys = [*KEYS, *(OPTIONAL & set(tree))]
    text = format_overrides({key: tree[key] for key in keys})
    with explained(path):
        return load_hyperpyyaml(text)


def mixtures_of(settings, split, epoch=0):
    """List what there is to mix in a split, as the recipes mix it.

    Arguments
    ---------
    settings : dict
        From :func:`load_data_settings`; the corpus is prepared.
    split : str
        ``train``, ``valid`` or one of the test sets.
    epoch : int
        Which epoch's draws the training set gets.

    Returns
    -------
    mixtures : dict
        ``{folder: NoiseMixer}``, folders relative.

    Raises
    ------
    InputError
        If there is no such split or manifest, or an epoch is asked of a set
        whose mixtures never change.

    Example
    -------
    >>> mixtures_of({"test_sets": ["test1", "test2"]}, "test")
    Traceback (most recent call last):
    merit_modules.errors.InputError: split: expected one of train, valid,
    test1, test2, got 'test'
    """
    splits = ["train", "valid", *settings["test_sets"]]
    if split not in splits:
        raise InputError(
            f"split: expected one of {', '.join(splits)}, got {split!r}"
        )
    whole(0).check("epoch", epoch)
    if epoch and split != "train":
        raise InputError(
            f"epoch: expected 0 for {split}, whose mixtures are the same in "
            f"every epoch, got {epoch}"
        )

    def mixer(noise_set, snr_db, seed):
        annotation = settings["noise_annotation"]
        path = files_of(annotation, "noise_set", [noise_set])[noise_set]
        noise = read_manifest(path, settings["noise_root"], "noise")
        return NoiseMixer(
            noise,
            snr_db,
            seed,
            settings["sample_rate_hz"],
            about_mean=settings.get("snr_about_mean", False),
        )

    if split == "train":
        train = mixer("train", settings["train_snr_db"], settings["seed"])
        train.set_epoch(epoch)
        return {split: train}
    seed = settings["mixture_seed"]
    if split == "valid":
        return {split: mixer("valid", settings["valid_snr_db"], seed)}
    return {
        f"{split}/{name.removeprefix('test_')}_{snr_db:g}dB": mixer(
            name, snr_db, seed
        )
        for name in settings["test_noise_sets"]
        for snr_db in settings["test_snrs_db"]
    }


def speech_of(settings, split):
    """Read the speech manifest of a split, as the recipes read it.

    Arguments
    ---------
    settings : dict
        From :func:`load_data_settings`; the corpus is prepared.
    split : str
        ``train``, ``valid`` or one of the test sets.

    Returns
    -------
    dict
        The manifest.
    """
    key = "test" if split in settings["test_sets"] else split
    annotation = settings[f"{key}_annotation"]
    path = files_of(annotation, "test_set", [split])[split]
    return read_manifest(path, settings["speech_root"])

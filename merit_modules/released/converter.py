"""The authors' files to a JointSystem, and to a folder that holds it."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from merit_modules.errors import InputError
from merit_modules.pretrained import check_replaceable, save_folder
from merit_modules.pretrained.weights import compare_shapes
from merit_modules.released.files import find_files, local_folder, read_all
from merit_modules.released.naming import ReleaseError
from merit_modules.released.parts import (
    PARTS,
    build_mixture,
    build_pooling,
    build_se_head,
    build_ser_head,
    is_unused,
    rename_part,
)
from merit_modules.released.wavlm import (
    add_missing_projection,
    restore_wavlm,
    wavlm_config,
)
from merit_modules.ssl.sources import RandomSSLEncoder
from merit_modules.system import JointSystem, WaveformNormalizer

#: Emotions in the order of the released classifier.
LABELS = ("angry", "sad", "happy", "neutral")
#: Where their loader cuts an utterance: longer ones their attention never saw.
MAX_DURATION_S = 12.0


class Release(NamedTuple):
    """What a release holds.

    Arguments
    ---------
    folder : Path
        Where it is.
    parts : dict
        Released part (``ssl``, ``mmoe``, ``pool``, ``ser``, ``se``) to
        :class:`~merit_modules.released.files.ReleasedPart`.
    statistics : dict or None
        Arguments of ``WaveformNormalizer.set_statistics``; None for
        pre-trained parts.
    ssl_config : dict or None
        Configuration of transformers' WavLM.
    training : dict
        Epoch and best loss, if the release tells.
    notes : list of str
        What had to be assumed, or was left aside.
    """

    folder: Path
    parts: dict
    statistics: dict | None
    ssl_config: dict | None
    training: dict
    notes: list

    @property
    def is_complete(self):
        """Whether there is all that a system needs to run."""
        return set(self.parts) == set(PARTS) and self.statistics is not None


def read_release(folder):
    """Read a folder in the authors' layout.

    Arguments
    ---------
    folder : str or Path
        See :func:`~merit_modules.released.files.find_files`; or
        ``owner/name`` on the hub.

    Returns
    -------
    Release
        Tensors, configuration and statistics. No code in the files is run.

    Raises
    ------
    InputError
        Listing what is missing or cannot be used, by file and key.

    Example
    -------
    >>> read_release(getfixture("tmp_path"))
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: expected final_ssl.pt ...
    """
    folder = local_folder(folder)
    files = find_files(folder)
    parts, statistics, training, cfg = read_all(files)
    config, notes = None, []
    if "ssl" in parts:
        own = files.cfg == parts["ssl"].path
        config, notes = _ssl_config(parts["ssl"], cfg, files.cfg, own)
        state = add_missing_projection(parts["ssl"].state, config)
        if state is not parts["ssl"].state:
            notes.append(
                "the SSL model has no projection after its front end: an "
                "identity takes its place"
            )
            parts["ssl"] = parts["ssl"]._replace(state=state)
    notes += [
        f"{part.path.name}: {name} is left aside: no system uses it"
        for key, part in parts.items()
        for name in part.state
        if is_unused(key, name)
    ]
    if "se" in parts:
        notes.append("the STFT's hop is not in the files: taken as 160 samples")
    return Release(folder, parts, statistics, config, training, notes)


def _ssl_config(part, cfg, cfg_path, own):
    try:
        return wavlm_config(cfg, part.state)
    except ReleaseError as error:
        problems = error.lines
    if cfg is not None and not own:
        # A configuration of another model than the trained one: the pre-
        # trained file's may be replaced, the trained one's tensors may not.
        try:
            config, notes = wavlm_config(None, part.state)
            reason = f"{cfg_path.name}: not used: {'; '.join(problems)}"
            return config, [reason, *notes]
        except ReleaseError as error:
            problems = error.lines
    raise ReleaseError([f"{part.path}: {line}" for line in problems])


def build_system(
    release,
    top_k=1,
    padding_rule="exact",
    router_gradient="straight_through",
):
    """Build the system of a release and load its weights.

    Arguments
    ---------
    release : Release
        From :func:`read_release`. Parts that it lacks are None.
    top_k : int
        Experts per frame and task: 1 for the sparse models, all for the dense
        ones. The files do not tell.
    padding_rule : str
        ``exact`` or ``released``; see :mod:`merit_modules.lengths`.
    router_gradient : str
        How routers learn from here on; see
        :class:`~merit_modules.moe.routers.TopKRouter`.

    Returns
    -------
    JointSystem
        The system, in evaluation mode.

    Raises
    ------
    InputError
        Listing each tensor that is missing, unknown or of another shape, by
        file and name.

    Example
    -------
    >>> build_system(read_release(getfixture("tmp_path")))
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: expected final_ssl.pt ...
    """
    problems = []
    # The weights to be replaced must not cost the caller random numbers.
    with torch.random.fork_rng(devices=[]):
        system = JointSystem(
            WaveformNormalizer(),
            _encoder(release, padding_rule),
            _mixture(release, top_k, router_gradient, problems),
        )
        width = system.mixture.output_size if system.mixture else None
        system.se_head = _se_head(release, width, problems)
        system.ser_head = _ser_head(release, width, problems)
    for key in release.parts:
        problems += _differences(key, release, system.state_dict())
    if problems:
        raise ReleaseError(problems)
    for key, part in release.parts.items():
        system.load_state_dict(rename_part(key, part.state), strict=False)
    if release.statistics is not None:
        system.normalizer.set_statistics(**release.statistics)
    return system.eval()


def _encoder(release, padding_rule):
    if release.ssl_config is None:
        return None
    return RandomSSLEncoder(
        "wavlm",
        release.ssl_config,
        train_front_end=False,
        padding_rule=padding_rule,
        attention_span_s=MAX_DURATION_S,
    )


def _mixture(release, top_k, gradient, problems):
    if "mmoe" not in release.parts:
        return None
    # As many layers as the SSL model gives: if the file has others, its
    # tensors are the ones that do not fit.
    config = release.ssl_config
    layers = config["num_hidden_layers"] + 1, config["hidden_size"]
    part = release.parts["mmoe"]
    with _named(problems, part):
        return build_mixture(part.state, layers, top_k, gradient)


def _se_head(release, width, problems):
    if "se" not in release.parts:
        return None
    part = release.parts["se"]
    with _named(problems, part):
        return build_se_head(part.state, width)


def _ser_head(release, width, problems):
    if "ser" not in release.parts:
        return None
    pool, ser = release.parts["pool"], release.parts["ser"]
    with _named(problems, pool):
        pooling = build_pooling(pool.state, width)
    with _named(problems, ser):
        return build_ser_head(ser.state, pooling)


@contextmanager
def _named(problems, part):
    """Collect what is wrong with a part, with the name of its file."""
    try:
        yield
    except ReleaseError as error:
        at = f"{part.path}: {part.prefix}"
        problems += [at + line for line in error.lines]


def _differences(key, release, state):
    part, prefix = release.parts[key], PARTS[key][1]
    found = {k: v for k, v in part.state.items() if not is_unused(key, k)}
    ours = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    if not ours:  # not built, and told why
        return []
    if key == "ssl":
        norm = release.ssl_config["feat_extract_norm"]
        expected = restore_wavlm(ours, norm)
    else:
        expected = PARTS[key][0].restore(ours)
    at = f"{part.path}: {part.prefix}"
    return [at + line for line in compare_shapes(found, expected)]


def convert(
    release_dir,
    out_dir,
    top_k=1,
    padding_rule="exact",
    router_gradient="straight_through",
    labels=None,
):
    """Convert a release to a folder for this package and for SpeechBrain.

    Arguments
    ---------
    release_dir : str or Path
        The authors' files; see
        :func:`~merit_modules.released.files.find_files`.
    out_dir : str or Path
        Folder to write: new, empty or converted before.
    top_k : int
        Experts per frame and task.
    padding_rule : str
        ``exact`` or ``released``; see :mod:`merit_modules.lengths`.
    router_gradient : str
        How routers learn from here on.
    labels : sequence of str, optional
        Emotions in the order of the logits. By default those of the paper if
        there are four, else ``class_0`` onwards.

    Returns
    -------
    Release
        What was found.

    Raises
    ------
    InputError
        If the release or the folder cannot be used.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> convert(folder, folder / "converted")
    Traceback (most recent call last):
    merit_modules.errors.InputError: ...: expected final_ssl.pt ...
    """
    check_replaceable(out_dir)
    release = read_release(release_dir)
    system = build_system(release, top_k, padding_rule, router_gradient)
    labels = choose_labels(system, labels)
    about = {
        "made_from": {
            key: os.path.relpath(part.path, release.folder)
            for key, part in release.parts.items()
        },
        **release.training,
        "notes": release.notes,
    }
    save_folder(system, out_dir, labels, about=about)
    return release


def choose_labels(system, labels=None):
    """Name the classes of a system.

    Arguments
    ---------
    system : JointSystem
        The system.
    labels : sequence of str, optional
        Their names; by default those of the paper if there are four, else
        ``class_0`` onwards.

    Returns
    -------
    list of str
        One name per class; none for a system without SER head.

    Raises
    ------
    InputError
        If there are more or fewer names than classes.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> choose_labels(tiny_system())
    ['angry', 'sad', 'happy', 'neutral']
    """
    n_classes = system.ser_head.n_classes if system.ser_head else 0
    if labels is None:
        numbered = [f"class_{number}" for number in range(n_classes)]
        return list(LABELS) if n_classes == len(LABELS) else numbered
    if len(labels) != n_classes:
        raise InputError(
            f"labels: expected {n_classes}, as many as the classifier has "
            f"outputs, got {len(labels)}"
        )
    return list(labels)

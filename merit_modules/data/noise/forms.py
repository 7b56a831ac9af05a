"""What the folders and file names of known noise corpora say.

Two files are one recording where a corpus says so: the channels of a DEMAND
environment, the takes of an ESC-50 clip, the pieces of a Freesound clip. DNS
Challenge, ESC-50 and Freesound name the same clips by the same numbers, so
that a clip is known again in another corpus.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from merit_modules.data.table import read_table
from merit_modules.errors import InputError
from merit_modules.files import find_audio

_DEMAND_CHANNEL = re.compile(r"ch\d\d")
_DEMAND_RATE = re.compile(r"_(?:16|48)k$")
_ESC50_CLIP = re.compile(r"(\d-(\d+))-[A-Z]-(\d+)")
_FREESOUND_PIECE = re.compile(r"(.*_Freesound_.*\d)_\d+")
_DNS_FREESOUND = re.compile(r"(.+?)_Freesound_(?:[^\W\d_]+_)*(\d+)(?:_\d+)?")
_AUDIOSET_ID = re.compile(r"[\w-]{11}", re.ASCII)
_FREESOUND_ID = re.compile(r"(\d+)(?:[_-].*)?")


class _Origin(NamedTuple):
    """Where a noise file comes from.

    Arguments
    ---------
    recording : str
        Shared by all files that were cut from one recording.
    noise_type : str
        What is to be heard.
    clip : str or None
        A name of the recording that other corpora use, too.
    """

    recording: str
    noise_type: str
    clip: str | None = None


class _NoiseForm(NamedTuple):
    """How a corpus lies on the disk.

    Arguments
    ---------
    places : tuple of str
        Where its audio may lie below the folder given; the first that exists
        counts, the folder itself otherwise.
    parts : tuple of str
        Subfolders of that place to use; empty: all.
    origins : callable
        From the place to a function of a file's relative name that returns
        its :class:`_Origin`.
    """

    places: tuple
    parts: tuple
    origins: Callable


def guess_noise_type(name):
    """Guess from a relative path what kind of noise it is.

    Arguments
    ---------
    name : str
        Path of a file, relative to its corpus.

    Returns
    -------
    str
        The folder's name, or the letters that the file's name begins with.

    Example
    -------
    >>> guess_noise_type("TBUS/ch01.wav"), guess_noise_type("rain12.wav")
    ('TBUS', 'rain')
    """
    path = Path(name)
    esc50 = _ESC50_CLIP.fullmatch(path.stem)
    if esc50:
        return f"esc50_{esc50[3]}"
    if path.parent.name:
        return path.parent.name
    return re.match(r"[^\W\d_]*", path.stem)[0] or "noise"


def guess_recording(name):
    """Guess a name that all files share that are cut from one recording.

    Arguments
    ---------
    name : str
        Path of a file, relative to its corpus.

    Returns
    -------
    str
        ``name`` itself where it is not of a known form.

    Example
    -------
    >>> guess_recording("TBUS/ch01.wav"), guess_recording("rain12.wav")
    ('TBUS', 'rain12.wav')
    """
    path = Path(name)
    if _DEMAND_CHANNEL.fullmatch(path.stem):
        return path.parent.as_posix()
    pieces = _ESC50_CLIP.fullmatch(path.stem) or _FREESOUND_PIECE.fullmatch(
        path.stem
    )
    if pieces:
        # ESC-50's first field is its fold, and clips keep to one fold.
        return (path.parent / pieces[1]).as_posix()
    return name


def find_noise(folder, form, parts=None):
    """List the files of a noise corpus and where each comes from.

    Arguments
    ---------
    folder : str or Path
        The corpus.
    form : str
        A key of ``FORMS``.
    parts : list of str, optional
        Subfolders to use instead of the form's own choice.

    Returns
    -------
    files : dict
        ``{name: (path, _Origin)}``, names relative to ``folder``, sorted.

    Raises
    ------
    InputError
        If a folder is missing or empty, or is not of the form.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("DKITCHEN/ch01.wav", "DKITCHEN/ch02.wav"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     (folder / name).touch()
    >>> files = find_noise(folder, "demand")
    >>> {name: origin.clip for name, (_, origin) in files.items()}
    {'DKITCHEN/ch01.wav': 'demand:DKITCHEN',
     'DKITCHEN/ch02.wav': 'demand:DKITCHEN'}
    """
    if form not in FORMS:
        raise InputError(
            f"form: expected one of {', '.join(FORMS)}, got {form!r}"
        )
    folder = Path(folder)
    rules = FORMS[form]
    place = next(
        (folder / p for p in rules.places if (folder / p).is_dir()), folder
    )
    origin_of = rules.origins(place)
    what = f"noise recordings, {form}"
    found = {}
    for part in parts or rules.parts or [""]:
        for path in find_audio(place / part, what):
            name = path.relative_to(place).as_posix()
            found[path.relative_to(folder).as_posix()] = path, origin_of(name)
    return dict(sorted(found.items()))


def _any_folder(place):
    def origin(name):
        return _Origin(guess_recording(name), guess_noise_type(name))

    return origin


def _dns(place):
    subfolders = {"datasets", "datasets_fullband", "clean", "clean_fullband"}
    if any((place / name).is_dir() for name in subfolders):
        raise InputError(
            f"{place}: expected datasets_fullband/noise_fullband or "
            "datasets/noise of the DNS Challenge, found neither, but speech"
        )

    def origin(name):
        stem = Path(name).stem
        freesound = _DNS_FREESOUND.fullmatch(stem)
        if freesound:
            return _Origin(name, freesound[1], f"freesound:{freesound[2]}")
        if _AUDIOSET_ID.fullmatch(stem):
            return _Origin(name, "audioset", f"audioset:{stem}")
        return _Origin(guess_recording(name), guess_noise_type(name))

    return origin


def _freesound(place):
    def origin(name):
        path = Path(name)
        noise_type = path.parent.name or "freesound"
        number = _FREESOUND_ID.fullmatch(path.stem)
        clip = f"freesound:{number[1]}" if number else None
        return _Origin(guess_recording(name), noise_type, clip)

    return origin


def _musan(place):
    def origin(name):
        return _Origin(name, Path(name).parent.as_posix())

    return origin


def _esc50(place):
    categories = _esc50_categories(place.parent / "meta" / "esc50.csv")

    def origin(name):
        clip = _ESC50_CLIP.fullmatch(Path(name).stem)
        if not clip:
            raise InputError(
                f"{place / name}: expected a name of ESC-50, such as "
                "1-100032-A-17.wav (fold, clip, take, class)"
            )
        noise_type = categories.get(clip[3], f"esc50_{clip[3]}")
        return _Origin(name, noise_type, f"freesound:{clip[2]}")

    return origin


def _esc50_categories(path):
    """Return ``{class number: name}``, empty without the corpus's table."""
    if not path.is_file():
        return {}
    rows = read_table(path, ["target", "category"]).rows
    return {row.cells["target"]: row.cells["category"] for row in rows}


def _demand(place):
    def origin(name):
        path = Path(name)
        if not (_DEMAND_CHANNEL.fullmatch(path.stem) and path.parent.name):
            raise InputError(
                f"{place / name}: expected a name of DEMAND, such as "
                "DKITCHEN/ch01.wav (environment, channel)"
            )
        # The archives of both rates may lie side by side.
        environment = _DEMAND_RATE.sub("", path.parent.name)
        return _Origin(name, environment, f"demand:{environment}")

    return origin


FORMS = {
    "dns": _NoiseForm(
        (
            "datasets_fullband/noise_fullband",
            "noise_fullband",
            "datasets/noise",
            "noise",
        ),
        (),
        _dns,
    ),
    "freesound": _NoiseForm((), (), _freesound),
    "crss": _NoiseForm((), (), _any_folder),
    "musan": _NoiseForm(("musan",), ("noise",), _musan),
    "esc50": _NoiseForm(("ESC-50-master/audio", "audio"), (), _esc50),
    "demand": _NoiseForm((), (), _demand),
    "folder": _NoiseForm((), (), _any_folder),
}

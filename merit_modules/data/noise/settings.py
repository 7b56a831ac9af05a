"""What a YAML file says about each of several noise corpora, checked."""

import re
from typing import NamedTuple

from merit_modules.data.noise.choice import is_weight
from merit_modules.data.noise.forms import FORMS
from merit_modules.errors import InputError

USES = ("train_and_test", "test_only")

_NAME = re.compile(r"[\w-]+")
# These two are names of the training corpora's own test manifests.
_TAKEN = ("seen", "unseen")


class CorpusSettings(NamedTuple):
    """How one noise corpus is used.

    Arguments
    ---------
    folder : str or Path
        Where the corpus lies.
    form : str
        How: a key of :data:`merit_modules.data.noise.forms.FORMS`.
    use : str
        ``train_and_test`` or ``test_only``.
    weight : float or None
        How often the corpus is drawn, relative to the others.
    parts : list of str or None
        Subfolders to use; None: the form's own choice.
    """

    folder: str
    form: str
    use: str = USES[0]
    weight: float | None = None
    parts: list | None = None

    @property
    def test_only(self):
        """Whether nothing of the corpus may be trained on (bool)."""
        return self.use == "test_only"


def check_corpora(corpora):
    """Turn a YAML mapping into settings, or say what is wrong with it.

    Arguments
    ---------
    corpora : dict
        ``{name: settings}``, see :class:`CorpusSettings`.

    Returns
    -------
    settings : dict
        ``{name: CorpusSettings}`` in the order given.

    Raises
    ------
    InputError
        Naming the corpus and the setting; or if no corpus is for training.

    Example
    -------
    >>> check_corpora({"dns": {"folder": "/corpora/DNS", "form": "dns"}})
    {'dns': CorpusSettings(folder='/corpora/DNS', form='dns',
     use='train_and_test', weight=None, parts=None)}
    >>> check_corpora({"dns": {"folder": "/corpora/DNS", "from": "dns"}})
    Traceback (most recent call last):
    merit_modules.errors.InputError: noise corpus 'dns': unknown setting
    'from'; expected folder, form, use, weight, parts
    """
    checked = {str(n): _settings(str(n), s) for n, s in corpora.items()}
    if all(settings.test_only for settings in checked.values()):
        raise InputError(
            "noise corpora: expected one or more that are not test_only, got "
            f"{', '.join(checked) or 'none'}"
        )
    return checked


def _settings(name, given):
    what = f"noise corpus {name!r}"
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise InputError(
            f"{what}: expected a name of letters, digits, _ and -, other than "
            f"{' and '.join(_TAKEN)}"
        )
    if not isinstance(given, dict):
        raise InputError(f"{what}: expected settings, got {given!r}")
    unknown = [key for key in given if key not in CorpusSettings._fields]
    if unknown:
        raise InputError(
            f"{what}: unknown setting {unknown[0]!r}; expected "
            f"{', '.join(CorpusSettings._fields)}"
        )
    missing = [key for key in ("folder", "form") if not given.get(key)]
    if missing:
        raise InputError(f"{what}: expected a {missing[0]}, got none")
    settings = CorpusSettings(**given)
    for key, allowed in (("form", tuple(FORMS)), ("use", USES)):
        value = getattr(settings, key)
        if value not in allowed:
            raise InputError(
                f"{what}: {key}: expected one of {', '.join(allowed)}, got "
                f"{value!r}"
            )
    _check_weight(what, settings)
    _check_parts(what, settings.parts)
    return settings


def _check_weight(what, settings):
    weight = settings.weight
    if weight is None:
        return
    if not is_weight(weight):
        raise InputError(
            f"{what}: weight: expected a number above 0, got {weight!r}"
        )
    if settings.test_only:
        raise InputError(
            f"{what}: weight: expected none, for nothing is drawn beside a "
            f"test_only corpus, got {weight!r}"
        )


def _check_parts(what, parts):
    if parts is None:
        return
    names = isinstance(parts, list) and all(isinstance(p, str) for p in parts)
    if not parts or not names:
        raise InputError(
            f"{what}: parts: expected a list of subfolders, got {parts!r}"
        )

"""What is known of the corpus that a run was trained on."""

from typing import NamedTuple

from merit_modules.errors import InputError

#: How the emotions of a corpus came about.
KINDS = {
    "acted": "the emotions are acted",
    "natural": "the emotions were not acted for the corpus",
    "synthetic": "the speech is synthetic",
    None: "whether the emotions are acted is not stated",
}


class CorpusAbout(NamedTuple):
    """Facts of a corpus, for a card; None where nobody stated it.

    Arguments
    ---------
    kind : str or None
        ``acted``, ``natural`` or ``synthetic``.
    language : list of str or None
        Codes, such as ``en``.
    licence : str or None
        As the hub writes it, such as ``cc-by-4.0``.
    access : str or None
        How others get it.
    url : str or None
        Where.
    citation : str or None
        What to cite.
    """

    kind: str | None = None
    language: list | None = None
    licence: str | None = None
    access: str | None = None
    url: str | None = None
    citation: str | None = None


def corpus_about(hparams, given=None):
    """Read the facts that a corpus's YAML states.

    Arguments
    ---------
    hparams : dict
        Of a run; those of runs of earlier versions state nothing.
    given : dict, optional
        Facts that replace those of the run.

    Returns
    -------
    CorpusAbout
        The facts.

    Raises
    ------
    InputError
        If a fact is unknown, or is none of the allowed values.

    Example
    -------
    >>> corpus_about({"corpus_about": {"kind": "acted"}}).kind
    'acted'
    >>> corpus_about({}, {"license": "mit"})
    Traceback (most recent call last):
    merit_modules.errors.InputError: corpus_about: expected some of kind...
    """
    stated = {**(hparams.get("corpus_about") or {}), **(given or {})}
    fields = CorpusAbout._fields
    unknown = [key for key in stated if key not in fields]
    if unknown:
        raise InputError(
            f"corpus_about: expected some of {', '.join(fields)}, got "
            f"{unknown[0]!r}"
        )
    about = CorpusAbout(**stated)
    if about.kind not in KINDS:
        names = ", ".join(name for name in KINDS if name)
        raise InputError(
            f"corpus_about: kind: expected one of {names} or null, got "
            f"{about.kind!r}"
        )
    language = about.language
    if isinstance(language, str):
        language = [language]
    # Plain values, whatever reader of YAML they came from.
    return about._replace(language=language and [str(x) for x in language])

"""What there is to say of a model: its training and its limits."""

from pathlib import Path
from typing import NamedTuple

from merit_modules.export.card_text import general_limits
from merit_modules.inference.emotion import ClassReader
from merit_modules.pretrained import read_about

#: What is shown of a folder that others wrote: sentences, and their length.
MAX_SENTENCES, MAX_LENGTH = 20, 500


class ModelAbout(NamedTuple):
    """What there is to say of a model.

    Arguments
    ---------
    name : str
        Its folder, or its name on the hub.
    trained_on : list of str
        Sentences on what it was trained on; none if nobody wrote it down.
    limits : list of str
        Sentences on what it cannot do.
    """

    name: str
    trained_on: list
    limits: list


def about_model(model, source):
    """Collect what there is to say of a model.

    Arguments
    ---------
    model : SparseMERIT
        The model.
    source : str
        Its folder, or its name on the hub.

    Returns
    -------
    ModelAbout
        What its folder says, in plain text; else what follows from what it
        does.

    Raises
    ------
    InputError
        If the folder's ``about.json`` is damaged.

    Example
    -------
    >>> from merit_modules.inference import SparseMERIT
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path") / "tiny"
    >>> save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    >>> about = about_model(SparseMERIT.from_hparams(source=folder), folder)
    >>> about.name, about.trained_on
    ('tiny', [])
    >>> about.limits[0]
    'Emotion: it knows angry, sad, happy, calm and nothing else, and gives...'
    """
    is_folder = Path(source).is_dir()
    told = read_about(source) if is_folder else {}
    trained_on = _sentences(told.get("trained_on"))
    if not trained_on and model.corpus_name:
        trained_on = [f"Corpus: {str(model.corpus_name)[:MAX_LENGTH]}."]
    return ModelAbout(
        Path(source).resolve().name if is_folder else str(source),
        trained_on,
        _sentences(told.get("limits"))
        or general_limits(
            model.engine.tasks,
            model.labels if isinstance(model.reader, ClassReader) else None,
            model.sample_rate_hz,
        ),
    )


def _sentences(found):
    if not isinstance(found, list):
        return []
    return [str(sentence)[:MAX_LENGTH] for sentence in found[:MAX_SENTENCES]]

"""From a finished run to a folder for other people: weights, YAML, card.

> merit export RUN DIR

The folder loads with :class:`merit_modules.inference.SparseMERIT`, with
:func:`merit_modules.pretrained.load_folder` and with SpeechBrain's own
``Pretrained.from_hparams``; none of them needs the code or the data of the
training. Its ``README.md`` is a model card as the hub reads it.
"""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "exporter": "export_run",
    },
)

"""A trained model in use: enhance, recognise emotions, at any length.

> from merit_modules import SparseMERIT
> model = SparseMERIT.from_hparams(source="MODEL_DIR")
> print(model.analyze_file("recording.wav").emotion)
"""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "interface": "SparseMERIT",
    },
)

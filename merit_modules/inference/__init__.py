"""A trained model in use: enhance, recognise emotions, at any length.

> from merit_modules.inference import SparseMERIT
> model = SparseMERIT.from_hparams(source="MODEL_DIR")
> print(model.analyze_file("recording.wav").emotion)
"""

from merit_modules.inference.interface import SparseMERIT

__all__ = ["SparseMERIT"]

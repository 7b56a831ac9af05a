"""MiniEmo: a small corpus of synthetic emotional speech and noise."""

from merit_modules.names import exports

__getattr__, __all__ = exports(__name__, {"prepare": "prepare_miniemo"})

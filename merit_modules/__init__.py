"""Sparse MERIT: speech enhancement and emotion recognition learned together."""

from merit_modules.names import exports, find_old_modules

__version__ = "0.2.0"

find_old_modules()
__getattr__, __all__ = exports(
    __name__, {"inference": "SparseMERIT", "pretrained": "load_folder"}
)

"""Mixtures that are made once, before training, as the released code does."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "mix": "load_data_settings mixtures_of",
        "read": "PairedFolders audio_paths",
        "write": "write_mixtures",
    },
)

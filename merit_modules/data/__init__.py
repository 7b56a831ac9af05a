"""Corpora, noise and mixtures, in SpeechBrain's data-io form."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "manifest": "read_manifest write_manifest",
        "mixing": "NoiseMixer",
    },
)

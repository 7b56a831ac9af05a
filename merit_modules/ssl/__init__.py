"""Waveforms to the layer representations of a self-supervised encoder."""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "encoder": "SSLEncoder SSLLayers",
        "sources": "PretrainedSSLEncoder RandomSSLEncoder",
    },
)

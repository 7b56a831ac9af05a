"""Sparse MERIT: speech enhancement and emotion recognition learned together."""

__version__ = "0.1.0"

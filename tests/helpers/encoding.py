"""All layers of an encoder with the frames that it counted, for tests."""

from typing import NamedTuple


class Encoded(NamedTuple):
    """L layer representations (B, T, D) and valid frames (B,)."""

    layer_reps: tuple
    n_frames: object


def encode(encoder, wavs, lengths=None):
    """Encode a batch."""
    layers = encoder.layers(wavs, lengths)
    return Encoded(tuple(layers.reps), layers.n_frames)

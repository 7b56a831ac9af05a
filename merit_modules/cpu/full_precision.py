"""What an int8 system keeps in fp32, in PyTorch and in ONNX."""

#: Parts of a system whose linear layers stay as they are.
KEPT_PARTS = frozenset(
    {
        "routers",  # they decide
        "feature_projection",  # its error would reach all layers above it
        "classifier",  # runs once per utterance: nothing to gain
        "gru_rel_pos_linear",  # WavLM's gate: as small as the code around it
    }
)


def is_kept(name):
    """Tell whether a layer stays in fp32.

    Arguments
    ---------
    name : str
        Its name in the system, with dots between parts.

    Returns
    -------
    bool
        Whether it belongs to one of :data:`KEPT_PARTS`.

    Example
    -------
    >>> is_kept("mixture.routers.se.linear"), is_kept("mixture.experts.0.0")
    (True, False)
    """
    return not KEPT_PARTS.isdisjoint(name.split("."))

"""Random numbers that depend on a key, not on what was drawn before them."""

import hashlib
import json


def keyed_seed(*key):
    """Derive a seed from a key.

    What is drawn after seeding with it depends on the key alone: not on
    worker count, batch order, or whether a run was interrupted.

    Arguments
    ---------
    *key : int, float, str or None
        What the draw belongs to, such as seed, epoch and utterance.

    Returns
    -------
    int
        A number in [0, 2**63).

    Example
    -------
    >>> keyed_seed(1, 2, "utterance") == keyed_seed(1, 2, "utterance")
    True
    >>> keyed_seed(1, 2, "utterance") == keyed_seed(1, 3, "utterance")
    False
    """
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

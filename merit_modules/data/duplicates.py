"""The same recording in two sets that are to share none."""

import hashlib
import os
from collections import defaultdict

_BLOCK = 2**20


def shared_recordings(sets):
    """Find recordings that are in more than one set, under any name.

    Arguments
    ---------
    sets : dict
        Name of a set to the paths of its recordings.

    Returns
    -------
    dict
        Names of two sets to pairs of paths of the same recording: first by
        real path, then by content. What cannot be read is passed over.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name, data in (("a", b"1"), ("b", b"2"), ("c", b"1")):
    ...     _ = (folder / name).write_bytes(data)
    >>> found = shared_recordings(
    ...     {"train": [folder / "a", folder / "b"], "test": [folder / "c"]})
    >>> [(sets, [os.path.basename(p) for p in pairs[0]])
    ...  for sets, pairs in found.items()]
    [(('train', 'test'), ['a', 'c'])]
    """
    places = {}  # real path to set and name
    sizes = defaultdict(list)
    found = defaultdict(list)
    for name, paths in sets.items():
        for path in dict.fromkeys(map(str, paths)):
            real = os.path.realpath(path)
            if real in places:
                other, earlier = places[real]
                if other != name:
                    found[other, name].append((earlier, path))
                continue
            places[real] = name, path
            try:
                sizes[os.path.getsize(real)].append((name, real, path))
            except OSError:
                continue
    for same in sizes.values():
        if len({name for name, _, _ in same}) < 2:
            continue
        for digest in (_middle, _whole):
            same = _alike(same, digest)
        known = {}
        for name, real, path in same:
            other, earlier = known.setdefault(digest(real), (name, path))
            if other != name:
                found[other, name].append((earlier, path))
    return dict(found)


def _alike(files, digest):
    """Keep the files whose digest comes up in two sets."""
    groups = defaultdict(list)
    for file in files:
        groups[digest(file[1])].append(file)
    groups.pop(None, None)
    return [
        file
        for group in groups.values()
        if len({name for name, _, _ in group}) > 1
        for file in group
    ]


def _middle(path):
    """Return some bytes of the middle: of most files enough to tell."""
    try:
        with open(path, "rb") as stream:
            stream.seek(os.path.getsize(path) // 2)
            return stream.read(256)
    except OSError:
        return None


def _whole(path):
    digest = hashlib.blake2b()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()

"""HyperPyYAML files that differ from a shipped one in a few keys."""

import io
from pathlib import Path

import ruamel.yaml

from tests.benchmarks.whole_system import ENCODERS


def _yaml():
    yaml = ruamel.yaml.YAML()
    yaml.width = 4096  # a folded !ref string would change its meaning
    return yaml


def changed(source, changes):
    """Put the top-level keys of a YAML text into a shipped file's text."""
    tree = _yaml().load(Path(source).read_text(encoding="utf-8"))
    for key, value in _yaml().load(changes).items():
        tree[key] = value
    stream = io.StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


#: WavLM-Large with random weights: shapes without the hub.
WAVLM_LARGE = ENCODERS["wavlm_large_random"]

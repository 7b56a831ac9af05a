"""HyperPyYAML files that differ from a shipped one in a few keys."""

import io
from pathlib import Path

import ruamel.yaml


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


#: WavLM-Large with random weights: time, memory and shapes without the hub.
WAVLM_LARGE = """
ssl_encoder: !new:merit_modules.ssl.RandomSSLEncoder
    model_type: wavlm
    train_front_end: False
    padding_rule: !ref <padding_rule>
    fast: !ref <fast_path>
    checkpoint_layers: !ref <ssl_checkpointing>
    attention_span_s: !ref <max_duration_s>
    config:
        hidden_size: 1024
        num_hidden_layers: 24
        num_attention_heads: 16
        intermediate_size: 4096
        feat_extract_norm: layer
        do_stable_layer_norm: True
"""

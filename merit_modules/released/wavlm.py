"""WavLM in its original naming: to the model class of transformers.

The original code is Microsoft's (unilm/wavlm).
"""

import torch

from merit_modules.released.naming import Renaming

_CONV = "feature_extractor.conv_layers.{n}"
_POS = "encoder.pos_conv.0"
_POS_OURS = "encoder.pos_conv_embed.conv"
_LAYER = "encoder.layers.{n}"
_ATTENTION = _LAYER + ".self_attn"
_ATTENTION_OURS = _LAYER + ".attention"
_WEIGHT_NORM = ".parametrizations.weight.original"

WAVLM_NAMES = Renaming(
    [
        ("mask_emb", "masked_spec_embed"),
        (_CONV + ".0.{p}", _CONV + ".conv.{p}"),
        ("layer_norm.{p}", "feature_projection.layer_norm.{p}"),
        ("post_extract_proj.{p}", "feature_projection.projection.{p}"),
        (_POS + ".bias", _POS_OURS + ".bias"),
        (_POS + _WEIGHT_NORM + "{n}", _POS_OURS + _WEIGHT_NORM + "{n}"),
        ("encoder.layer_norm.{p}", "encoder.layer_norm.{p}"),
        (_ATTENTION + ".grep_a", _ATTENTION_OURS + ".gru_rel_pos_const"),
        (
            _ATTENTION + ".grep_linear.{p}",
            _ATTENTION_OURS + ".gru_rel_pos_linear.{p}",
        ),
        (
            _ATTENTION + ".relative_attention_bias.weight",
            _ATTENTION_OURS + ".rel_attn_embed.weight",
        ),
        (_ATTENTION + ".out_proj.{p}", _ATTENTION_OURS + ".out_proj.{p}"),
        (_ATTENTION + ".{x}_proj.{p}", _ATTENTION_OURS + ".{x}_proj.{p}"),
        (_LAYER + ".self_attn_layer_norm.{p}", _LAYER + ".layer_norm.{p}"),
        (
            _LAYER + ".fc1.{p}",
            _LAYER + ".feed_forward.intermediate_dense.{p}",
        ),
        (_LAYER + ".fc2.{p}", _LAYER + ".feed_forward.output_dense.{p}"),
        (_LAYER + ".final_layer_norm.{p}", _LAYER + ".final_layer_norm.{p}"),
        # Norms of the front end: large style, then base style. Ours are named
        # the same in both, so the way back needs to know the style.
        (_CONV + ".2.1.{p}", _CONV + ".layer_norm.{p}"),
        (_CONV + ".2.{p}", _CONV + ".layer_norm.{p}"),
    ],
    aliases=[  # torch before 2.1
        (_POS + ".weight_g", _POS + _WEIGHT_NORM + "0"),
        (_POS + ".weight_v", _POS + _WEIGHT_NORM + "1"),
    ],
)


def rename_wavlm(state):
    """Give tensors of the original WavLM the names of transformers' model.

    Arguments
    ---------
    state : dict
        Original name to tensor, or to None (gradients).

    Returns
    -------
    dict
        Name in ``transformers.WavLMModel`` to the same tensor.

    Raises
    ------
    InputError
        If a name is not one of WavLM.

    Example
    -------
    >>> list(rename_wavlm({"encoder.layers.3.fc1.bias": None}))
    ['encoder.layers.3.feed_forward.intermediate_dense.bias']
    """
    return WAVLM_NAMES.rename(state)


def restore_wavlm(state, feat_extract_norm):
    """Give tensors of transformers' WavLM their original names.

    Arguments
    ---------
    state : dict
        Name in ``transformers.WavLMModel`` to tensor.
    feat_extract_norm : str
        Style of the front end, as in the configuration: ``group`` or
        ``layer``.

    Returns
    -------
    dict
        Original name to the same tensor.

    Example
    -------
    >>> norm = "feature_extractor.conv_layers.0.layer_norm.bias"
    >>> list(restore_wavlm({norm: torch.zeros(4)}, "group"))
    ['feature_extractor.conv_layers.0.2.bias']
    """
    restored = WAVLM_NAMES.restore(state)
    if feat_extract_norm == "layer":
        return restored
    return {name.replace(".2.1.", ".2."): t for name, t in restored.items()}


def add_missing_projection(state, config):
    """Write out the projection that WavLM leaves out where widths agree.

    Arguments
    ---------
    state : dict
        Original name to tensor.
    config : dict
        From :func:`~merit_modules.released.wavlm_config.wavlm_config`.

    Returns
    -------
    dict
        The state, with an identity for ``post_extract_proj`` if it has none
        and the front end is as wide as the model.

    Example
    -------
    >>> config = {"conv_dim": [2], "hidden_size": 2}
    >>> add_missing_projection({}, config)["post_extract_proj.weight"]
    tensor([[1., 0.],
            [0., 1.]])
    """
    width = config["hidden_size"]
    names = ("post_extract_proj.weight", "post_extract_proj.bias")
    if config["conv_dim"][-1] != width or any(name in state for name in names):
        return state
    return state | dict(zip(names, (torch.eye(width), torch.zeros(width))))

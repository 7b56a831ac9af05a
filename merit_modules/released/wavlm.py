"""WavLM in its original naming: to the model class of transformers.

The original code is Microsoft's (unilm/wavlm).
"""

import ast

import torch

from merit_modules.errors import InputError
from merit_modules.released.naming import (
    ReleaseError,
    Renaming,
    count_numbered,
    read_size,
)

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
        From :func:`~merit_modules.released.wavlm.wavlm_config`.

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


_POS = "encoder.pos_conv.0.parametrizations.weight.original"

# Our key, the key of the original cfg.
_SIZES_IN_CFG = {
    "num_hidden_layers": "encoder_layers",
    "hidden_size": "encoder_embed_dim",
    "intermediate_size": "encoder_ffn_embed_dim",
    "num_attention_heads": "encoder_attention_heads",
    "conv_bias": "conv_bias",
    "num_conv_pos_embeddings": "conv_pos",
    "num_conv_pos_embedding_groups": "conv_pos_groups",
    "num_buckets": "num_buckets",
}
_EXTRACTOR_MODES = {"group": "default", "layer": "layer_norm"}

# Our key, the key of the original cfg, the original's default.
_DROPOUTS = {
    "hidden_dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "feat_proj_dropout": ("dropout_input", 0.0),
}
_ORIGINAL_MAX_DISTANCE = 1280  # where a cfg does not say; all models do
_ORIGINAL_CONV = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


def wavlm_config(cfg, state):
    """Read the configuration of a WavLM off its tensors and its ``cfg``.

    Arguments
    ---------
    cfg : dict or None
        The original configuration.
    state : dict
        Original name to tensor.

    Returns
    -------
    config : dict
        Arguments of ``transformers.WavLMConfig``.
    notes : list of str
        What had to be assumed, or was left aside.

    Raises
    ------
    ReleaseError
        If tensors are missing that give a size, if ``cfg`` contradicts the
        tensors, or if it asks for what transformers' WavLM cannot do.

    Example
    -------
    >>> from merit_modules.released.wavlm import restore_wavlm
    >>> from merit_modules.tiny import tiny_system
    >>> model = tiny_system().ssl_encoder.model
    >>> state = restore_wavlm(model.state_dict(), "group")
    >>> config, notes = wavlm_config(None, state)
    >>> config["hidden_size"], config["conv_kernel"]
    (16, [10, 3, 3, 3, 3, 2, 2])
    >>> notes[0]
    'convolution strides are not in the file: taken as 5, 2, 2, 2, 2, 2, 2'
    """
    config = {**_transformer_sizes(state), **_front_end_sizes(state)}
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ReleaseError(
            [
                f"a width of {config['hidden_size']} does not divide into "
                f"{config['num_attention_heads']} attention heads"
            ]
        )
    if cfg is None:
        settings, notes = _assumed_settings(config)
    else:
        settings, notes = _settings_of_cfg(cfg, config)
    return config | settings, notes


def _transformer_sizes(state):
    layer = "encoder.layers.{n}"
    attention = layer + ".self_attn"
    hidden_size = read_size(
        state,
        (attention + ".{x}_proj.{p}", 0),
        (attention + ".out_proj.{p}", 0),
        (layer + ".fc2.{p}", 0),
        ("encoder.layer_norm.{p}", 0),
    )
    group_width = read_size(state, (_POS + "1", 1))
    if group_width < 1 or hidden_size % group_width:
        raise ReleaseError(
            [
                f"{_POS}1: groups of {group_width} do not "
                f"divide a width of {hidden_size}"
            ]
        )
    bias = attention + ".relative_attention_bias.weight"
    return {
        "num_hidden_layers": count_numbered(state, "encoder.layers."),
        "hidden_size": hidden_size,
        "intermediate_size": read_size(
            state, (layer + ".fc1.{p}", 0), (layer + ".fc2.weight", 1)
        ),
        "num_attention_heads": read_size(
            state, (attention + ".grep_a", 1), (bias, 1)
        ),
        "num_buckets": read_size(state, (bias, 0)),
        "num_conv_pos_embeddings": read_size(
            state,
            (_POS + "1", 2),
            (_POS + "0", 2),
        ),
        "num_conv_pos_embedding_groups": hidden_size // group_width,
    }


def _front_end_sizes(state):
    prefix = "feature_extractor.conv_layers."
    dims, kernels = [], []
    for number in range(max(1, count_numbered(state, prefix))):
        weight = f"{prefix}{number}.0.weight"
        kernels.append(read_size(state, (weight, 2)))
        dims.append(
            read_size(
                state,
                (weight, 0),
                (f"{prefix}{number + 1}.0.weight", 1),
                (f"{prefix}{number}.2.1.{{p}}", 0),
                (f"{prefix}{number}.2.{{p}}", 0),
            )
        )
    large = any(name.startswith(prefix) and ".2.1." in name for name in state)
    return {
        "conv_dim": dims,
        "conv_kernel": kernels,
        "conv_bias": any(
            name.startswith(prefix) and name.endswith(".0.bias")
            for name in state
        ),
        "feat_extract_norm": "layer" if large else "group",
    }


def _assumed_settings(config):
    strides = [5] + [2] * (len(config["conv_dim"]) - 1)
    large = config["feat_extract_norm"] == "layer"
    distance = config["num_buckets"] * 5 // 2
    notes = [
        "convolution strides are not in the file: taken as "
        + ", ".join(map(str, strides)),
        "the largest relative distance is not in the file: taken as "
        f"{distance}, 2.5 per bucket as in the published models",
        "whether layers are normed first is not in the file: taken as "
        f"{large}, as the front end's norm is of the "
        f"{'large' if large else 'base'} style",
        "dropouts are not in the file: taken as 0",
    ]
    settings = {
        "conv_stride": strides,
        "max_bucket_distance": distance,
        "do_stable_layer_norm": large,
        **dict.fromkeys(_DROPOUTS, 0.0),
    }
    return settings, notes


def _settings_of_cfg(cfg, config):
    problems = _contradictions(cfg, config) + _unsupported(cfg)
    strides = []
    try:
        strides = _strides(cfg, config)
    except ReleaseError as error:
        problems += error.lines
    settings = {
        "conv_stride": strides,
        "max_bucket_distance": cfg.get("max_distance", _ORIGINAL_MAX_DISTANCE),
        "do_stable_layer_norm": cfg.get("layer_norm_first", False),
        "hidden_act": cfg.get("activation_fn", "gelu"),
    }
    settings |= {k: cfg.get(*told) for k, told in _DROPOUTS.items()}
    problems += _wrong_kinds(settings)
    if problems:
        raise ReleaseError(problems)
    notes = []
    if cfg.get("normalize"):
        notes.append(
            "cfg: normalize is left aside: the waveform is normalised with "
            "the statistics of the training set"
        )
    return settings, notes


def _strides(cfg, config):
    layers = parse_conv_layers(cfg.get("conv_feature_layers", _ORIGINAL_CONV))
    sizes = [(dim, kernel) for dim, kernel, _ in layers]
    expected = list(zip(config["conv_dim"], config["conv_kernel"]))
    if sizes != expected:
        raise ReleaseError(
            [
                "cfg: conv_feature_layers: expected (width, kernel) "
                f"{expected} as the tensors have, got {sizes}"
            ]
        )
    return [stride for _, _, stride in layers]


def _contradictions(cfg, config):
    told = {theirs: config[ours] for ours, theirs in _SIZES_IN_CFG.items()}
    told["extractor_mode"] = _EXTRACTOR_MODES[config["feat_extract_norm"]]
    return [
        f"cfg: {key}: expected {value!r} as the tensors have, got {cfg[key]!r}"
        for key, value in told.items()
        if key in cfg and cfg[key] != value
    ]


def _unsupported(cfg):
    problems = [
        f"cfg: {key}: expected True, which transformers' WavLM always is, got "
        f"{cfg[key]!r}"
        for key in ("relative_position_embedding", "gru_rel_pos")
        if not cfg.get(key, True)
    ]
    if (activation := cfg.get("activation_fn", "gelu")) not in ("gelu", "relu"):
        problems.append(
            f"cfg: activation_fn: expected gelu or relu, got {activation!r}"
        )
    return problems


def _wrong_kinds(settings):
    """List what is not the number or truth value that it should be."""
    problems = []
    distance = settings["max_bucket_distance"]
    if not isinstance(distance, int) or distance < 1:
        problems.append(
            f"cfg: max_distance: expected a number from 1, got {distance!r}"
        )
    if not isinstance(settings["do_stable_layer_norm"], bool):
        problems.append(
            "cfg: layer_norm_first: expected True or False, got "
            f"{settings['do_stable_layer_norm']!r}"
        )
    for ours, (theirs, _) in _DROPOUTS.items():
        value = settings[ours]
        if not isinstance(value, int | float) or not 0 <= value < 1:
            problems.append(
                f"cfg: {theirs}: expected a number from 0 to 1, got {value!r}"
            )
    return problems


def parse_conv_layers(text):
    """Read the expression that describes the front end, without running it.

    Arguments
    ---------
    text : str
        Lists of (width, kernel, stride), added and multiplied.

    Returns
    -------
    list of tuple
        Width, kernel and stride of each layer.

    Raises
    ------
    ReleaseError
        If the text is anything else.

    Example
    -------
    >>> parse_conv_layers("[(8, 10, 5)] + [(8, 3, 2)] * 2")
    [(8, 10, 5), (8, 3, 2), (8, 3, 2)]
    """
    try:
        if not isinstance(text, str) or len(text) > 1000:
            raise ValueError("not a short text")
        layers = _evaluate(ast.parse(text, mode="eval").body)
        if not isinstance(layers, list) or not layers:
            raise ValueError("not a list")
        for layer in layers:
            width, kernel, stride = layer
            if not min(width, kernel, stride) >= 1:
                raise ValueError(f"{layer} has a number below 1")
    except (SyntaxError, TypeError, ValueError, RecursionError) as error:
        shown = repr(text)[:80]
        raise ReleaseError(
            [
                "cfg: conv_feature_layers: expected lists of (width, kernel, "
                f"stride), got {shown} ({error})"
            ]
        ) from error
    return layers


def _evaluate(node):
    match node:
        case ast.Constant(value=int() as value) if value is not True:
            return value
        case ast.Tuple(elts=items):
            return tuple(_evaluate(item) for item in items)
        case ast.List(elts=items):
            return [_evaluate(item) for item in items]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            left, right = _evaluate(left), _evaluate(right)
            if isinstance(left, list) and isinstance(right, list):
                return left + right
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            left, right = _evaluate(left), _evaluate(right)
            if isinstance(left, int):
                left, right = right, left
            if isinstance(left, list) and len(left) * right <= 100:
                return left * right
    raise ValueError(f"{type(node).__name__} is not allowed here")


def check_cfg(cfg):
    """Return a configuration if it is a dictionary, or None if there is none.

    Arguments
    ---------
    cfg : object
        What a file holds under ``cfg``.

    Returns
    -------
    dict or None
        The same.

    Raises
    ------
    InputError
        If it is of another kind.

    Example
    -------
    >>> check_cfg(3)
    Traceback (most recent call last):
    merit_modules.errors.InputError: cfg: expected a dictionary, got a int
    """
    if cfg is not None and not isinstance(cfg, dict):
        raise InputError(
            f"cfg: expected a dictionary, got a {type(cfg).__name__}"
        )
    return cfg

"""The authors' files but the SSL model's: names, sizes and modules.

Their task order is 0 = se, 1 = ser.
"""

from merit_modules.heads.se import SEHead
from merit_modules.heads.ser import AttentiveStatsPooling, SERHead
from merit_modules.heads.spectral import LogSpectrum
from merit_modules.moe.experts import ExpertPool, LayerMixingPool
from merit_modules.moe.layer_mix import LayerNormConcat, WeightedLayerSum
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import TopKRouter
from merit_modules.released.naming import (
    ReleaseError,
    Renaming,
    count_numbered,
    read_size,
    template_pattern,
)
from merit_modules.released.wavlm import WAVLM_NAMES

TASKS = ("se", "ser")
STFT_HOP_LENGTH = 160  # samples; no tensor shows it

_MIXER = "experts.{n}.weights"

MIXTURE_NAMES = Renaming(
    [
        ("layer_norms.{n}.{p}", "layer_mix.{p}[{n}]"),
        ("layer_weights", "layer_mix.layer_weights"),
        ("experts.{n}.fc1.{p}", "experts.{n}.0.{p}"),
        ("experts.{n}.fc2.{p}", "experts.{n}.2.{p}"),
        (_MIXER, "experts.{n}.layer_weights"),
        ("gates.0.fc.{p}", "routers.se.linear.{p}"),
        ("gates.1.fc.{p}", "routers.ser.linear.{p}"),
    ]
)
POOLING_NAMES = Renaming(
    [
        ("sap_linear.{p}", "projection.{p}"),
        ("attention", "attention[*]"),
    ]
)
CLASSIFIER_NAMES = Renaming(
    [
        ("fc.0.0.{p}", "1.{p}"),
        ("fc.0.1.{p}", "2.{p}"),
        ("out.0.{p}", "5.{p}"),
    ]
)
SE_HEAD_NAMES = Renaming(
    [
        ("lstm_enc.0.{p}", "input_layer.{p}"),
        ("lstm_enc.1.blstm.{r}", "blstm.{r}"),
        ("lstm_enc.2.{p}", "output_layer.{p}"),
    ]
)

#: Released part to its names and to its place in a JointSystem.
PARTS = {
    "ssl": (WAVLM_NAMES, "ssl_encoder.model."),
    "mmoe": (MIXTURE_NAMES, "mixture."),
    "pool": (POOLING_NAMES, "ser_head.pooling."),
    "ser": (CLASSIFIER_NAMES, "ser_head.classifier."),
    "se": (SE_HEAD_NAMES, "se_head."),
}


def is_unused(part, name):
    """Tell whether a released tensor is one that no system uses.

    Arguments
    ---------
    part : str
        Released part: a key of ``PARTS``.
    name : str
        Released name.

    Returns
    -------
    bool
        True for the layer weights and norms beside the SE head.

    Example
    -------
    >>> is_unused("se", "weights"), is_unused("ser", "weights")
    (True, False)
    """
    return part == "se" and (name == "weights" or name[:11] == "layer_norm.")


def rename_part(part, state):
    """Give the tensors of a released part their names in a JointSystem.

    Arguments
    ---------
    part : str
        ``ssl``, ``mmoe``, ``pool``, ``ser`` or ``se``.
    state : dict
        Released name to tensor, or to None (gradients).

    Returns
    -------
    dict
        Our name to tensor.

    Raises
    ------
    InputError
        If a name is unknown.

    Example
    -------
    >>> list(rename_part("mmoe", {"gates.1.fc.bias": None}))
    ['mixture.routers.ser.linear.bias']
    """
    names, prefix = PARTS[part]
    used = {k: v for k, v in state.items() if not is_unused(part, k)}
    return {prefix + k: v for k, v in names.rename(used).items()}


def rename_system(state):
    """Rename the tensors of all parts at once.

    Arguments
    ---------
    state : dict
        Released name, with the part before a dot, to tensor or None.

    Returns
    -------
    dict
        Name in a JointSystem to tensor or None.

    Raises
    ------
    InputError
        If a name is unknown.

    Example
    -------
    >>> list(rename_system({"ssl.mask_emb": None, "ser.out.0.bias": None}))
    ['ssl_encoder.model.masked_spec_embed', 'ser_head.classifier.5.bias']
    """
    parts = {}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ReleaseError([f"{part}: no released part" for part in unknown])
    renamed = {}
    for part, tensors in parts.items():
        renamed |= rename_part(part, tensors)
    return renamed


def build_mixture(state, layers=None, top_k=1, gradient="straight_through"):
    """Build experts and routers of the sizes and the form of a released file.

    The three forms: experts on the concatenation of the layers, on one
    weighted sum (``layer_weights``), and experts that only mix layers
    (``experts.e.weights``).

    Arguments
    ---------
    state : dict
        Released name to tensor.
    layers : tuple of int, optional
        Number L and width D of the SSL model's representations; by default
        those of the file's layer norms.
    top_k : int
        Experts per frame.
    gradient : str
        See :class:`~merit_modules.moe.routers.TopKRouter`.

    Returns
    -------
    ExpertMixture
        With weights of its own.

    Raises
    ------
    ReleaseError
        If a tensor is missing that gives a size, or ``top_k`` is too large.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> mixture = tiny_system().mixture
    >>> state = MIXTURE_NAMES.restore(mixture.state_dict())
    >>> built = build_mixture(state)
    >>> built.output_size == mixture.output_size
    True
    """
    if layers is None:
        dim = read_size(state, ("layer_norms.{n}.{p}", 0))
        layers = count_numbered(state, "layer_norms."), dim
    n_layer_reps, dim = layers
    n_experts = count_numbered(state, "experts.")
    if not 1 <= top_k <= max(1, n_experts):
        raise ReleaseError(
            [f"top_k: expected 1 to {n_experts} (experts), got {top_k}"]
        )
    kind = WeightedLayerSum if "layer_weights" in state else LayerNormConcat
    layer_mix = kind(n_layer_reps, dim)
    if any(template_pattern(_MIXER).fullmatch(name) for name in state):
        experts = LayerMixingPool(n_experts, n_layer_reps, dim)
    else:
        experts = ExpertPool(
            max(1, n_experts),
            layer_mix.output_size,
            hidden_size=read_size(
                state, ("experts.{n}.fc1.{p}", 0), ("experts.{n}.fc2.weight", 1)
            ),
            output_size=read_size(state, ("experts.{n}.fc2.{p}", 0)),
        )
    routers = {
        task: TopKRouter(layer_mix.output_size, n_experts, top_k, gradient)
        for task in TASKS
    }
    return ExpertMixture(layer_mix, experts, routers)


def build_pooling(state, feature_size=None):
    """Build a pooling of the size of the released file.

    Arguments
    ---------
    state : dict
        Released name to tensor.
    feature_size : int, optional
        Width R of the features; by default as the file has it.

    Returns
    -------
    AttentiveStatsPooling
        With weights of its own.

    Raises
    ------
    ReleaseError
        If a tensor is missing that gives the size.

    Example
    -------
    >>> state = POOLING_NAMES.restore(AttentiveStatsPooling(6).state_dict())
    >>> build_pooling(state).input_size
    6
    """
    if feature_size is None:
        feature_size = read_size(state, ("sap_linear.{p}", 0), ("attention", 0))
    return AttentiveStatsPooling(feature_size)


def build_ser_head(state, pooling):
    """Build an SER head of the sizes of the released classifier.

    Arguments
    ---------
    state : dict
        Released name to tensor.
    pooling : AttentiveStatsPooling
        What comes before the classifier.

    Returns
    -------
    SERHead
        With weights of its own.

    Raises
    ------
    ReleaseError
        If a tensor is missing that gives a size, or there are several hidden
        layers.

    Example
    -------
    >>> head = SERHead(AttentiveStatsPooling(6), n_classes=2, hidden_size=5)
    >>> state = CLASSIFIER_NAMES.restore(head.classifier.state_dict())
    >>> build_ser_head(state, head.pooling).n_classes
    2
    """
    n_hidden = count_numbered(state, "fc.")
    if n_hidden > 1:
        raise ReleaseError(
            [f"fc: expected one hidden layer, got {n_hidden} (not supported)"]
        )
    return SERHead(
        pooling,
        n_classes=read_size(state, ("out.0.{p}", 0)),
        hidden_size=read_size(state, ("fc.0.{n}.{p}", 0), ("out.0.weight", 1)),
    )


def build_se_head(state, feature_size=None):
    """Build an SE head of the sizes of the released file.

    Arguments
    ---------
    state : dict
        Released name to tensor.
    feature_size : int, optional
        Width R of the features; by default what is left of the input's width
        besides the spectrum.

    Returns
    -------
    SEHead
        With weights of its own.

    Raises
    ------
    ReleaseError
        If a tensor is missing that gives a size.

    Example
    -------
    >>> head = SEHead(LogSpectrum(n_fft=320), feature_size=6, hidden_size=8)
    >>> state = SE_HEAD_NAMES.restore(head.state_dict())
    >>> build_se_head(state).spectrum.n_fft
    320
    """
    n_bins = read_size(state, ("lstm_enc.2.{p}", 0))
    input_size = read_size(state, ("lstm_enc.0.weight", 1))
    if n_bins < 2 or input_size <= n_bins:
        raise ReleaseError(
            [
                f"lstm_enc.0.weight: expected an input wider than the {n_bins} "
                f"bins of lstm_enc.2, got {input_size}"
            ]
        )
    if feature_size is None:
        feature_size = input_size - n_bins
    hidden_size = read_size(
        state, ("lstm_enc.0.{p}", 0), ("lstm_enc.2.weight", 1)
    )
    spectrum = LogSpectrum(2 * (n_bins - 1), STFT_HOP_LENGTH)
    return SEHead(spectrum, feature_size, hidden_size)

"""Prepare a system for inference on a CPU or a GPU, once and for all."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from merit_modules.cpu import onednn
from merit_modules.cpu.prepacked import (
    Prepacked,
    PrepackedConvolution,
    PrepackedLinear,
    PrepackedPositions,
)
from merit_modules.moe.experts import ExpertPool
from merit_modules.moe.layer_mix import LayerNormConcat
from merit_modules.moe.mixture import ExpertMixture
from merit_modules.moe.routers import TopKRouter
from merit_modules.ssl.attention import can_join, joined_weights
from merit_modules.ssl.encoder import SSLEncoder

#: Weights below this number gain nothing.
MIN_WEIGHTS = 2**14


def can_prepack(system):
    """Tell whether a system can be prepacked.

    Arguments
    ---------
    system : torch.nn.Module
        A system.

    Returns
    -------
    bool
        Whether all its weights are on a CPU, its floating-point ones in fp32,
        its SSL encoders take their fast path, and this machine has oneDNN.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> can_prepack(tiny_system().double())
    False
    """
    return (
        onednn.is_available()
        and all(
            weight.device.type == "cpu" and weight.dtype == torch.float32
            for weight in system.parameters()
        )
        and all(
            part.fast
            for part in system.modules()
            if isinstance(part, SSLEncoder)
        )
    )


@torch.no_grad()
def prepack_(system):
    """Arrange a system's weights, in place, for inference on a CPU.

    Large linear layers and convolutions of the front end are sorted for
    oneDNN, position convolutions become products of spectra, norms before the
    experts are folded into them. The results are the same up to rounding. The
    system can then neither be trained nor moved nor saved.

    Arguments
    ---------
    system : torch.nn.Module
        A system; left as it is where :func:`can_prepack` says no.

    Returns
    -------
    torch.nn.Module
        The system.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system, wavs = tiny_system(), torch.randn(1, 8000)
    >>> before = system(wavs).logits
    >>> torch.allclose(prepack_(system)(wavs).logits, before, atol=1e-5)
    True
    """
    if not can_prepack(system):
        return system
    for part in system.modules():
        fold_norms_(part)
    _prepack_below(system)
    return system.requires_grad_(False)


def _prepack_below(module):
    for name, child in module.named_children():
        if isinstance(child, (TopKRouter, Prepacked)):
            continue
        if type(child) is nn.Linear:
            if child.weight.numel() >= MIN_WEIGHTS:
                setattr(module, name, PrepackedLinear(child))
        elif name == "pos_conv_embed":
            setattr(module, name, PrepackedPositions(child))
        elif name == "feature_extractor":
            _prepack_front_end(child.conv_layers)
        else:
            _prepack_below(child)


def _prepack_front_end(conv_layers):
    # The first reads samples, and a norm may have to be folded into it.
    for layer in conv_layers[1:]:
        is_packed = isinstance(layer.conv, PrepackedConvolution)
        if not is_packed and layer.conv.weight.numel() >= MIN_WEIGHTS:
            layer.conv = PrepackedConvolution(layer.conv)


@torch.no_grad()
def arrange_(system, dtype=None):
    """Arrange a system's weights, in place, for inference on a GPU.

    Norms before the experts are folded into them, and what a layer's attention
    reads is one product. The results are the same up to rounding. It cannot be
    trained after that.

    Arguments
    ---------
    system : torch.nn.Module
        A system; left as it is where fast paths are not allowed.
    dtype : torch.dtype, optional
        Precision in which the SSL encoder and the experts keep their large
        weights: that in which ``torch.autocast`` computes, which the system
        must then be called in. It casts no weight any more.

    Returns
    -------
    torch.nn.Module
        The system.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system = arrange_(tiny_system(), torch.bfloat16)
    >>> system.mixture.experts[0][0].weight.dtype
    torch.bfloat16
    """
    if not onednn.is_allowed():
        return system
    for part in list(system.modules()):
        fold_norms_(part)
        if isinstance(part, SSLEncoder):
            _arrange_encoder(part.model)
    if dtype is not None:
        for part in system.modules():
            if isinstance(part, (SSLEncoder, ExpertPool)):
                _keep_in(part, dtype)
    return system.requires_grad_(False)


def _arrange_encoder(model):
    embed = model.encoder.pos_conv_embed
    if parametrize.is_parametrized(getattr(embed, "conv", None), "weight"):
        embed.conv = _without_norm(embed.conv)
    for layer in model.feature_extractor.conv_layers:
        # The same numbers in the order in which they are read.
        kept = layer.conv.weight.unsqueeze(2)
        kept = kept.contiguous(memory_format=torch.channels_last)
        layer.conv.weight.data = kept.squeeze(2)
    for layer in model.encoder.layers:
        part = layer.attention
        if not can_join(part):
            continue
        own = None
        if hasattr(part, "gru_rel_pos_linear"):
            own = torch.eye(part.num_heads, device=part.q_proj.weight.device)
        weight, bias = joined_weights(part, own)
        part.register_buffer("joined_weight", weight, persistent=False)
        part.register_buffer("joined_bias", bias, persistent=False)


def _without_norm(conv):
    # Not in place: copies of a parametrised layer share its class.
    plain = nn.Conv1d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(conv.weight.detach())
    plain.bias = conv.bias
    return plain


def _keep_in(part, dtype):
    for module in part.modules():
        if hasattr(module, "joined_weight"):
            module.joined_weight = module.joined_weight.to(dtype)
            module.joined_bias = module.joined_bias.to(dtype)
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            module.to(dtype)


def _can_fold_norms(part):
    """Tell whether a mixture's norms can be folded."""
    mixture = getattr(part, "mixture", part)
    return (
        isinstance(mixture, ExpertMixture)
        and isinstance(mixture.layer_mix, LayerNormConcat)
        and mixture.layer_mix.affine
        and isinstance(mixture.experts, ExpertPool)
        and mixture.skips is None
        and all(type(x) is torch.nn.Linear for x in _linears(mixture))
    )


@torch.no_grad()
def fold_norms_(part):
    """Fold the weights and biases of the layer norms into experts and routers.

    ``W (g * x + b) + c`` is ``(W * g) x + (W b + c)``: the result is the same
    up to rounding, and norming a layer is then a pass over its frames with
    nothing to multiply or add. Done in place and for inference only; training
    goes on from weights that were not folded.

    Arguments
    ---------
    part : torch.nn.Module
        A mixture, or a system that has one.

    Returns
    -------
    bool
        Whether anything was done; see :func:`_can_fold_norms`.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system, wavs = tiny_system(), torch.randn(1, 8000)
    >>> before = system(wavs).logits
    >>> fold_norms_(system), fold_norms_(system)
    (True, False)
    >>> torch.allclose(system(wavs).logits, before, atol=1e-5)
    True
    """
    if not _can_fold_norms(part):
        return False
    mixture = getattr(part, "mixture", part)
    mix = mixture.layer_mix
    weight, bias = mix.weight.flatten(), mix.bias.flatten()
    for linear in _linears(mixture):
        linear.bias += linear.weight @ bias
        linear.weight *= weight
    mix.weight.fill_(1.0)
    mix.bias.zero_()
    mix.affine = False
    return True


def _linears(mixture):
    yield from (expert[0] for expert in mixture.experts)
    yield from (router.linear for router in mixture.routers.values())

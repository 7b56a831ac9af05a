"""Linear layers by oneDNN, on a CPU in fp32.

PyTorch gives fp32 matrix products to MKL, which is slow on processors of other
makers; convolutions go to oneDNN. This gives it products, too, by the operator
that torch.compile puts in their place. Weights stay where and as they are.
"""

import os

import torch
from torch import nn
from torch.autograd.function import once_differentiable

#: Below this many multiply-accumulates other costs prevail.
MIN_MACS = 2**20

#: From this number of weights on, oneDNN is faster at their gradient, too.
LARGE_WEIGHT = 2**22


def apply(layer, x, gelu=False):
    """Apply a linear layer.

    Arguments
    ---------
    layer : torch.nn.Module
        A layer. What is not exactly ``torch.nn.Linear``, as a quantised one,
        is called as it is; with ``gelu``, if it has ``takes_gelu``.
    x : torch.Tensor
        Frames (..., D).
    gelu : bool
        Apply GELU to the result.

    Returns
    -------
    torch.Tensor
        Frames (..., E).

    Example
    -------
    >>> layer = nn.Linear(1024, 1024)
    >>> x = torch.rand(8, 1024)
    >>> with torch.no_grad():
    ...     torch.allclose(apply(layer, x), layer(x), atol=1e-5)
    True
    """
    # Whoever listens in must be called, with what the layer alone gives.
    if not (layer._forward_hooks or layer._forward_pre_hooks):
        if type(layer) is nn.Linear:
            return linear(x, layer.weight, layer.bias, gelu)
        if getattr(layer, "takes_gelu", False):
            return layer(x, gelu)
    x = layer(x)
    return nn.functional.gelu(x) if gelu else x


def linear(x, weight, bias, gelu=False):
    """Apply a linear map that is no module of its own.

    Arguments
    ---------
    x : torch.Tensor
        Frames (..., D).
    weight : torch.Tensor
        Weight (E, D).
    bias : torch.Tensor or None
        Bias (E,).
    gelu : bool
        Apply GELU to the result.

    Returns
    -------
    torch.Tensor
        Frames (..., E).

    Example
    -------
    >>> linear(torch.ones(1, 2), torch.ones(3, 2), None)
    tensor([[2., 2., 2.]])
    """
    needed = (t is not None and t.requires_grad for t in (x, weight, bias))
    if not _is_possible(x, weight):
        x = nn.functional.linear(x, weight, bias)
    elif torch.is_grad_enabled() and any(needed):
        x = _Product.apply(x, weight, bias)
    else:
        return multiply(x, weight, bias, gelu)
    return nn.functional.gelu(x) if gelu else x


def multiply(x, weight, bias, gelu=False):
    """Let oneDNN multiply, whatever the sizes, without a gradient.

    Arguments
    ---------
    x : torch.Tensor
        Frames (..., D), fp32 on a CPU.
    weight : torch.Tensor
        Weight (E, D), or what oneDNN made of it.
    bias : torch.Tensor or None
        Bias (E,).
    gelu : bool
        Apply GELU in the same pass.

    Returns
    -------
    torch.Tensor
        Frames (..., E).

    Example
    -------
    >>> multiply(torch.ones(1, 2), torch.ones(3, 2), None)
    tensor([[2., 2., 2.]])
    """
    after = ("gelu", [], "none") if gelu else ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *after)


class _Product(torch.autograd.Function):
    """The product in training."""

    @staticmethod
    def forward(x, weight, bias):
        product = multiply(x, weight, bias)
        # oneDNN's result passes for a view, which nothing may change in place.
        return torch.ops.aten._unsafe_view(product, product.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = multiply(gradient, weight.t(), None)
        gradient = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[1]:
            rows = x.reshape(-1, x.shape[-1])
            if weight.numel() >= LARGE_WEIGHT:
                of_weight = multiply(gradient.t(), rows.t(), None)
            else:
                of_weight = gradient.t() @ rows
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=0)
        return of_x, of_weight, of_bias


def _is_possible(x, weight):
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and is_available()
        and not is_traced()
        and x.shape[:-1].numel() * weight.numel() >= MIN_MACS
    )


def is_available():
    """Tell whether oneDNN is there and may be used.

    Returns
    -------
    bool
        Whether products can be given to it.

    Example
    -------
    >>> is_available() in (True, False)
    True
    """
    return (
        is_allowed()
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def suits(device):
    """Tell whether what is arranged for CPUs is to run on a device.

    A GPU wants few operations and equal shapes, a CPU little to compute.

    Arguments
    ---------
    device : torch.device
        Where the tensors are.

    Returns
    -------
    bool
        True on a CPU.

    Example
    -------
    >>> suits(torch.device("cpu")), suits(torch.device("cuda"))
    (True, False)
    """
    return device.type == "cpu"


def working_dtype(x):
    """Tell in which precision products with a tensor are computed.

    Arguments
    ---------
    x : torch.Tensor
        A tensor of floats.

    Returns
    -------
    torch.dtype
        That of autocast where it is on, else the tensor's own.

    Example
    -------
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     working_dtype(torch.ones(1))
    torch.bfloat16
    """
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)
    if known and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def is_traced():
    """Tell whether the call is being recorded: traced, exported, compiled.

    Returns
    -------
    bool
        True inside ``torch.jit.trace``, ``torch.export`` and their like.

    Example
    -------
    >>> is_traced()
    False
    """
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
    )


def is_allowed():
    """Tell whether fast paths may be taken.

    They give the same numbers as the plain ones up to rounding. The
    environment variable ``MERIT_FAST_PATH=0`` turns them off wherever they
    are, to look for the cause of a difference.

    Returns
    -------
    bool
        True unless the variable is 0.

    Example
    -------
    >>> is_allowed() in (True, False)
    True
    """
    return os.environ.get("MERIT_FAST_PATH", "1") != "0"

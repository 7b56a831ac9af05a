"""Linear layers by oneDNN, for inference on a CPU in fp32.

PyTorch gives fp32 matrix products to MKL, which is slow on processors of other
makers; convolutions go to oneDNN. A tensor in oneDNN's layout takes a linear
layer there, too. Weights stay where and as they are.
"""

import torch
from torch import nn

#: Below this many multiply-accumulates the change of layout costs more.
MIN_MACS = 2**22


def enter(x, *linears):
    """Change to oneDNN's layout if that is possible and pays off.

    Arguments
    ---------
    x : torch.Tensor
        Frames (M, D).
    *linears : torch.nn.Module
        What is to be applied to ``x`` and what follows from it. A layer that
        is not exactly ``torch.nn.Linear``, as a quantised one, keeps ``x``
        as it is.

    Returns
    -------
    torch.Tensor
        ``x``, or the same values in oneDNN's layout.

    Example
    -------
    >>> layer = nn.Linear(2048, 2048)
    >>> with torch.no_grad():
    ...     y = leave(layer(enter(torch.rand(8, 2048), layer)))
    >>> y.layout, y.shape
    (torch.strided, torch.Size([8, 2048]))
    """
    if _is_possible(x) and all(_is_plain(x, linear) for linear in linears):
        return x.to_mkldnn()
    return x


def leave(x):
    """Change back to the layout that all of PyTorch knows.

    Arguments
    ---------
    x : torch.Tensor
        In any layout.

    Returns
    -------
    torch.Tensor
        The same values, strided.

    Example
    -------
    >>> leave(torch.ones(2)).layout
    torch.strided
    """
    return x if x.layout == torch.strided else x.to_dense()


def linear(x, weight, bias):
    """Apply a linear map that is no module of its own.

    Arguments
    ---------
    x : torch.Tensor
        Frames (M, D).
    weight : torch.Tensor
        Weight (E, D).
    bias : torch.Tensor or None
        Bias (E,).

    Returns
    -------
    torch.Tensor
        Frames (M, E).

    Example
    -------
    >>> linear(torch.ones(1, 2), torch.ones(3, 2), None)
    tensor([[2., 2., 2.]])
    """
    if _is_possible(x) and _pays_off(x, weight):
        return nn.functional.linear(x.to_mkldnn(), weight, bias).to_dense()
    return nn.functional.linear(x, weight, bias)


def _is_possible(x):
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and x.dim() == 2
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not is_traced()
    )


def _is_plain(x, layer):
    if type(layer) is not nn.Linear or layer.weight.dtype != x.dtype:
        return False
    # Whoever listens in expects tensors that all of PyTorch knows.
    listened_to = layer._forward_hooks or layer._forward_pre_hooks
    return not listened_to and _pays_off(x, layer.weight)


def _pays_off(x, weight):
    return x.shape[0] * weight.numel() >= MIN_MACS


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

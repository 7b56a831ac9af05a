"""Linear layers in 8-bit integers, for CPUs: a quarter of the size, faster.

Weights are quantised once, with a scale per output; activations at every call,
with a scale per frame. So an utterance gives the same result alone and in any
batch, which a scale per call, as PyTorch's own dynamic quantisation takes it,
would not keep. Nothing has to be calibrated and no data is needed.
"""

import functools
import warnings

import torch
from torch import nn

from merit_modules.cpu.full_precision import is_kept
from merit_modules.errors import InputError

#: The largest number: -128 is not used, so that signs are alike.
LARGEST = 127

#: Numbers that are quantised at once: what is in between fits in a cache.
BLOCK_SIZE = 2**20


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and activations.

    Arguments
    ---------
    in_features : int
        Width D of the input.
    out_features : int
        Width E of the output.
    bias : bool
        Whether there is a bias.

    Example
    -------
    >>> layer, x = nn.Linear(64, 8), torch.randn(5, 64)
    >>> error = Int8Linear.of(layer)(x) - layer(x)
    >>> bool(error.abs().max() < 0.05)
    True
    """

    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        shape = out_features, in_features
        self.register_buffer(
            "weight_int8", torch.zeros(shape, dtype=torch.int8)
        )
        self.register_buffer("scale", torch.ones(out_features))
        zeros = torch.zeros(out_features) if bias else None
        self.register_buffer("bias", zeros)

    @classmethod
    @torch.no_grad()
    def of(cls, linear):
        """Quantise a layer.

        Arguments
        ---------
        linear : torch.nn.Linear
            The layer.

        Returns
        -------
        Int8Linear
            Its nearest neighbour.
        """
        has_bias = linear.bias is not None
        layer = cls(linear.in_features, linear.out_features, has_bias)
        layer.weight_int8, scale = quantize_rows(linear.weight)
        layer.scale = scale.squeeze(1)
        if has_bias:
            layer.bias = linear.bias.detach().float().clone()
        return layer.train(linear.training)

    @property
    def weight(self):
        """The weights as fp32 (E, D), for code that asks a layer for them."""
        return self.weight_int8 * self.scale.unsqueeze(1)

    def forward(self, x):
        """Apply the layer.

        Arguments
        ---------
        x : torch.Tensor
            Frames (..., D).

        Returns
        -------
        torch.Tensor
            Frames (..., E), in the type of ``x``.

        Raises
        ------
        InputError
            On another device than a CPU, or in training.
        """
        if x.device.type != "cpu":
            raise InputError(
                f"an int8 model runs on a CPU, got device {x.device}: load "
                "one that is not quantised"
            )
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(
                "an int8 model cannot be trained: start from a folder that "
                "was exported without --int8"
            )
        rows = x.detach().reshape(-1, self.in_features).float()
        # PyTorch's product misreads a transposed matrix of a single row.
        if self.in_features == 1 or not int8_products_are_exact():
            out = nn.functional.linear(rows, self.weight, self.bias)
        else:
            out = self._multiply(rows)
        return out.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _multiply(self, rows):
        rows, step = quantize_rows(rows)
        out = torch._int_mm(rows, self.weight_int8.t()) * self.scale
        if self.bias is None:
            return out.mul_(step)
        return torch.addcmul(self.bias, out, step, out=out)

    def extra_repr(self):
        """Say how large the layer is, when it is printed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}"
        )


def quantize_rows(rows):
    """Quantise each row with a scale of its own, symmetrically.

    Arguments
    ---------
    rows : torch.Tensor
        Numbers (M, D), fp32.

    Returns
    -------
    torch.Tensor
        Integers (M, D), -127 to 127.
    torch.Tensor
        Scales (M, 1): a row is nearly its integers times its scale. Not a
        number for a row that holds such.

    Example
    -------
    >>> quantize_rows(torch.tensor([[1.0, -2.0], [0.0, 0.0]]))[0]
    tensor([[  64, -127],
            [   0,    0]], dtype=torch.int8)
    """
    integers = torch.empty(rows.shape, dtype=torch.int8)
    scales = rows.new_empty(len(rows), 1)
    n_rows = max(1, BLOCK_SIZE // max(1, rows.shape[1]))
    for start in range(0, len(rows), n_rows):
        block = rows[start : start + n_rows]
        largest = block.abs().amax(dim=1, keepdim=True)
        scale = largest / LARGEST
        scale.masked_fill_(scale == 0, 1.0)
        scales[start : start + n_rows] = scale
        scaled = (block / scale).round_().clamp_(-LARGEST, LARGEST)
        # What is no number would become any integer; its scale tells of it.
        integers[start : start + n_rows] = scaled.nan_to_num_(0.0)
    return integers, scales


@functools.cache
def int8_products_are_exact():
    """Try whether this processor multiplies 8-bit integers without error.

    Processors without such instructions (VNNI, on x86) may add in 16 bits,
    which overflow. There, the layers compute in fp32 with the same weights.

    Returns
    -------
    bool
        Whether products are exact.

    Example
    -------
    >>> int8_products_are_exact() in (True, False)
    True
    """
    ones = torch.ones(64, 512, dtype=torch.int8) * LARGEST
    found = torch._int_mm(ones, ones.t())
    exact = bool((found == 512 * LARGEST**2).all())
    if not exact:
        warnings.warn(
            "this processor does not multiply 8-bit integers exactly: the "
            "model is small, but computes in fp32",
            stacklevel=2,
        )
    return exact


def quantize_(system):
    """Quantise a system's linear layers, in place, for inference.

    Those of ``full_precision.KEPT_PARTS`` stay as they are; so do norms,
    convolutions and recurrent layers. No parameter can be trained afterwards.

    Arguments
    ---------
    system : torch.nn.Module
        A system, on a CPU; one that is quantised stays as it is.

    Returns
    -------
    torch.nn.Module
        The system.

    Raises
    ------
    InputError
        If it is on another device.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> system = quantize_(tiny_system())
    >>> type(system.mixture.experts[0][0]).__name__
    'Int8Linear'
    >>> type(system.mixture.routers["se"].linear).__name__
    'Linear'
    """
    check_device(next(system.parameters()).device)
    _quantize_below(system)
    return system.requires_grad_(False)


def check_device(device):
    """Check that int8 layers run there.

    Arguments
    ---------
    device : str or torch.device
        The device.

    Raises
    ------
    InputError
        If it is no CPU.

    Example
    -------
    >>> check_device("cuda")
    Traceback (most recent call last):
    merit_modules.errors.InputError: int8: expected device cpu, got cuda
    """
    if torch.device(device).type != "cpu":
        raise InputError(f"int8: expected device cpu, got {device}")


def _quantize_below(module):
    for name, child in module.named_children():
        if is_kept(name):
            continue
        if type(child) is nn.Linear:
            setattr(module, name, Int8Linear.of(child))
        else:
            _quantize_below(child)


def is_quantized(module):
    """Tell whether a module holds int8 layers.

    Arguments
    ---------
    module : torch.nn.Module
        A system or a part of one.

    Returns
    -------
    bool
        Whether it does.

    Example
    -------
    >>> is_quantized(nn.Sequential(Int8Linear(2, 2)))
    True
    """
    return any(isinstance(part, Int8Linear) for part in module.modules())

"""The convolutional front end of an SSL model on rows of frames.

Frames stay rows (T, C) all the way, so a norm over channels needs no
transposition. On a CPU a strided convolution is a product of its windows. Each
utterance is taken alone, and in blocks that fit a processor's cache, so memory
does not grow with its length. A GPU takes all at once. The parameters are those
of the transformers' layers.
"""

import math
from functools import partial

import torch
from torch import nn
from transformers.activations import GELUActivation

from merit_modules.cpu import onednn
from merit_modules.cpu.prepacked import (
    PrepackedConvolution,
    window_weight,
    windows_of,
)
from merit_modules.ssl import plain as ssl_plain

#: Values that the first layer may make at once: 8 MiB.
BLOCK_SIZE = 2**21


def encode_waves(conv_layers, wavs, n_samples, n_frames, n_rows):
    """Turn waveforms into frames, each utterance as if it were alone.

    Arguments
    ---------
    conv_layers : sequence of torch.nn.Module
        The layers of the transformers' feature extractor.
    wavs : torch.Tensor
        Waveforms (B, N).
    n_samples : list of int
        Samples per utterance; what lies beyond them is only read where an
        utterance is too short for a single frame.
    n_frames : list of int
        Frames to compute per utterance.
    n_rows : int
        Frames T of the result.

    Returns
    -------
    torch.Tensor
        Frames (B, T, C), zero beyond an utterance's own.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> model = tiny_system().ssl_encoder.model
    >>> layers = model.feature_extractor.conv_layers
    >>> wavs = torch.randn(2, 16000)
    >>> frames = encode_waves(layers, wavs, [16000, 8000], [49, 24], 49)
    >>> frames.shape, bool(frames[1, 24:].any())
    (torch.Size([2, 49, 8]), False)
    >>> expected = model.feature_extractor(wavs[1:, :8000])
    >>> torch.allclose(frames[1, :24], expected[0].T, atol=1e-5)
    True
    """
    shared = [_product_of(layer.conv) for layer in conv_layers]
    over_time = isinstance(_norm_of(conv_layers[0]), nn.GroupNorm)
    hops, fields = _geometry(conv_layers)
    rows = []
    for wav, n_valid, count in zip(wavs, n_samples, n_frames):
        if over_time and n_valid < fields[0]:
            # Its only frame is mostly what a norm sees as padding.
            lengths = torch.tensor([n_valid], device=wavs.device)
            frames = ssl_plain.encode_waves(
                conv_layers, wav[None, : fields[0]], lengths
            )[0]
        else:
            products = shared
            if over_time:
                products = [_fold_norm(conv_layers[0], wav[:n_valid])]
                products += shared[1:]
            frames = _encode(conv_layers, products, wav, count, hops, fields)
        rows.append(nn.functional.pad(frames, (0, 0, 0, n_rows - count)))
    return torch.stack(rows)


def encode_batch(conv_layers, wavs, n_samples=None):
    """Turn waveforms into frames on a GPU, all utterances at once.

    Arguments
    ---------
    conv_layers : sequence of torch.nn.Module
        The layers of the transformers' feature extractor.
    wavs : torch.Tensor
        Waveforms (B, N).
    n_samples : torch.Tensor, optional
        Samples per utterance (B,) that a norm over time is to see; all by
        default.

    Returns
    -------
    torch.Tensor
        Frames (B, T, C).

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> model = tiny_system().ssl_encoder.model
    >>> wavs = torch.randn(2, 16000)
    >>> layers = model.feature_extractor.conv_layers
    >>> frames = encode_batch(layers, wavs)
    >>> expected = model.feature_extractor(wavs).transpose(1, 2)
    >>> torch.allclose(frames, expected, atol=1e-5)
    True
    """
    rows = wavs.unsqueeze(-1)
    for layer in conv_layers:
        norm = _norm_of(layer)
        if isinstance(norm, nn.GroupNorm):
            rows = ssl_plain.apply_convolution(layer, rows.mT, n_samples).mT
            continue
        rows = _convolve(layer.conv, rows)
        rows = layer.activation(rows if norm is None else norm(rows))
    return rows


def _convolve(conv, rows):
    size = conv.kernel_size[0], conv.stride[0]
    if conv.in_channels == 1:  # samples: windows are small
        windows = rows.squeeze(-1).unfold(1, *size)
        return nn.functional.linear(windows, conv.weight.squeeze(1), conv.bias)
    # Channels last: it reads and writes rows.
    kept = torch.channels_last
    channels = nn.functional.conv2d(
        rows.mT.unsqueeze(2).contiguous(memory_format=kept),
        conv.weight.unsqueeze(2).contiguous(memory_format=kept),
        conv.bias,
        stride=(1, size[1]),
    )
    return channels.squeeze(2).mT


def _geometry(conv_layers):
    """Hop and field of a final frame, in rows of each layer's input."""
    hops, fields = [1], [1]
    for layer in reversed(conv_layers):
        kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        fields.insert(0, (fields[0] - 1) * stride + kernel)
        hops.insert(0, hops[0] * stride)
    return hops, fields


def _norm_of(layer):
    return getattr(layer, "layer_norm", None)


def _product_of(conv):
    """What a convolution makes of windows (M, K * C), and of GELU or not."""
    if isinstance(conv, PrepackedConvolution):
        return conv.multiply
    weight = window_weight(conv)
    return partial(onednn.linear, weight=weight, bias=conv.bias)


def _fold_norm(layer, wav):
    """Let the first convolution give what GroupNorm would make of it.

    One channel is one group, so mean and variance over time are wanted of a
    linear map of the windows: the map of their mean, and their covariance
    between its two sides.
    """
    weight, norm = window_weight(layer.conv), layer.layer_norm
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    windows = wav.unfold(0, kernel, stride).double()
    centre = windows.mean(dim=0)
    centred = windows - centre
    covariance = centred.T @ centred / len(windows)
    exact = weight.double()
    variance = ((exact @ covariance) * exact).sum(dim=1)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias - scale * (exact @ centre)
    return partial(
        onednn.linear,
        weight=(scale[:, None] * exact).to(weight.dtype),
        bias=shift.to(weight.dtype),
    )


def _encode(conv_layers, products, wav, n_frames, hops, fields):
    width = conv_layers[0].conv.out_channels
    n_block = max(1, BLOCK_SIZE // (hops[1] * width))
    blocks = []
    for start in range(0, n_frames, n_block):
        count = min(n_block, n_frames - start)
        first = start * hops[0]
        n_read = (count - 1) * hops[0] + fields[0]
        rows = wav[first : first + n_read, None]
        for layer, product in zip(conv_layers, products):
            rows = _apply(layer, product, rows)
        blocks.append(rows)
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def _apply(layer, product, rows):
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    windows = windows_of(rows, kernel, stride)
    norm = _norm_of(layer)
    with_gelu = isinstance(layer.activation, GELUActivation)
    if isinstance(norm, nn.LayerNorm):
        rows = norm(product(windows))
        if with_gelu and not rows.requires_grad:
            return torch.ops.aten.gelu_(rows)
        return layer.activation(rows)
    # With a norm over time, or none: in the weights or absent.
    if with_gelu:
        return product(windows, gelu=True)
    return layer.activation(product(windows))


@torch.no_grad()
def start_as_filterbank(layer):
    """Let a layer of random weights start as a bank of band-pass filters.

    Arguments
    ---------
    layer : torch.nn.Module
        The first layer of a front end.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> model = tiny_system().ssl_encoder.model
    >>> first = model.feature_extractor.conv_layers[0]
    >>> start_as_filterbank(first)
    >>> torch.allclose(first.conv.weight[0].norm(), torch.tensor(1.0))
    True
    """
    conv = layer.conv
    n_filters, _, n_taps = conv.weight.shape
    conv.weight.copy_(mel_gabor_filters(n_filters, n_taps))
    if conv.bias is not None:
        # A norm over the channels hides how loud a frame is, unless the
        # channels have something of their own to compare it with.
        conv.bias.copy_(torch.linspace(-1.0, 1.0, n_filters))


LOWEST_HZ = 60.0  # just below the voice's fundamental


def mel_gabor_filters(n_filters, n_taps, sample_rate_hz=16000):
    """Make windowed sinusoids, spaced on the mel scale.

    Arguments
    ---------
    n_filters : int
        Number of filters: cosines and sines in turn, of the same frequency.
    n_taps : int
        Filter length in samples.
    sample_rate_hz : int
        Sample rate of the audio.

    Returns
    -------
    torch.Tensor
        Filters (n_filters, 1, n_taps) of unit energy.

    Example
    -------
    >>> filters = mel_gabor_filters(8, 400)
    >>> filters.shape
    torch.Size([8, 1, 400])
    """
    top = sample_rate_hz / 2 * 0.95
    mels = torch.linspace(_mel(LOWEST_HZ), _mel(top), (n_filters + 1) // 2)
    frequencies_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    seconds = torch.arange(n_taps) / sample_rate_hz
    angle = 2 * torch.pi * frequencies_hz[:, None] * seconds
    waves = torch.stack([angle.cos(), angle.sin()], dim=1).flatten(0, 1)
    filters = waves[:n_filters] * torch.hann_window(n_taps)
    return nn.functional.normalize(filters, dim=1).unsqueeze(1)


def _mel(frequency_hz):
    return 2595.0 * math.log10(1.0 + frequency_hz / 700.0)

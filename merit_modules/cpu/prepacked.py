"""Layers whose weights lie as a CPU's products read them, for inference.

A layer's weights are stored row by row. oneDNN sorts them anew at every call,
and a long convolution over time takes more operations than its product of
spectra. Here both are done once, when the layer is made.
"""

import copy

import torch
from torch import nn

from merit_modules.cpu import onednn
from merit_modules.errors import InputError


class Prepacked(nn.Module):
    """A layer that is only good for inference on a CPU in fp32.

    Arguments
    ---------
    bias : torch.Tensor or None
        The bias (E,).
    """

    def __init__(self, bias):
        super().__init__()
        self.bias = None if bias is None else bias.detach()

    def check(self, x):
        """Check that an input can be taken.

        Arguments
        ---------
        x : torch.Tensor
            Frames (..., D).

        Raises
        ------
        InputError
            If a gradient is wanted.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise InputError(f"gradients: {_NOT_HERE}")

    def _apply(self, fn, recurse=True):
        probe = fn(torch.zeros(1))
        if probe.device.type != "cpu" or probe.dtype != torch.float32:
            raise InputError(f"{probe.dtype} on {probe.device}: {_NOT_HERE}")
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        raise InputError(f"saving weights: {_NOT_HERE}")

    def __deepcopy__(self, memo):
        # Weights do not change, and oneDNN's do not copy: they are shared.
        tensors = (
            x for x in vars(self).values() if isinstance(x, torch.Tensor)
        )
        memo.update({id(tensor): tensor for tensor in tensors})
        clone = memo[id(self)] = type(self).__new__(type(self))
        vars(clone).update(copy.deepcopy(vars(self), memo))
        return clone


_NOT_HERE = (
    "a prepacked system is for inference on a CPU in fp32; load or build it "
    "without prepacking"
)


class _PrepackedProduct(Prepacked):
    """A matrix product in oneDNN's order of weights.

    Arguments
    ---------
    weight : torch.Tensor
        The weights (E, D).
    bias : torch.Tensor or None
        The bias (E,).
    """

    #: Rows that the order is chosen for; it hardly depends on their number.
    N_ROWS = 512

    def __init__(self, weight, bias):
        super().__init__(bias)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach(), self.N_ROWS
        )

    def multiply(self, x, gelu=False):
        """Multiply, in fp32.

        Arguments
        ---------
        x : torch.Tensor
            Frames (..., D).
        gelu : bool
            Apply GELU to the result.

        Returns
        -------
        torch.Tensor
            Frames (..., E).
        """
        self.check(x)
        return onednn.multiply(x.float(), self.packed, self.bias, gelu)


class PrepackedLinear(_PrepackedProduct):
    """A linear layer in oneDNN's order of weights.

    Arguments
    ---------
    linear : torch.nn.Linear
        The layer.

    Example
    -------
    >>> layer, x = nn.Linear(64, 32), torch.randn(5, 64)
    >>> torch.allclose(PrepackedLinear(layer)(x), layer(x), atol=1e-5)
    True
    """

    #: GELU costs nothing in the same pass.
    takes_gelu = True

    def __init__(self, linear):
        super().__init__(linear.weight, linear.bias)
        self.in_features = linear.in_features
        self.out_features = linear.out_features

    @property
    def weight(self):
        """The weights (E, D), for code that asks a layer for them."""
        return self.packed.to_dense()

    def forward(self, x, gelu=False):
        """Apply the layer, in fp32; see ``onednn.apply``."""
        return self.multiply(x, gelu)

    def extra_repr(self):
        """Say how large the layer is, when it is printed."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}"
        )


class PrepackedConvolution(_PrepackedProduct):
    """A strided convolution as a product of windows with weights.

    Arguments
    ---------
    conv : torch.nn.Conv1d
        The convolution, without padding or groups.

    Example
    -------
    >>> conv, waves = nn.Conv1d(4, 8, 3, stride=2), torch.randn(2, 4, 9)
    >>> found = PrepackedConvolution(conv)(waves)
    >>> torch.allclose(found, conv(waves), atol=1e-5)
    True
    """

    def __init__(self, conv):
        super().__init__(window_weight(conv), conv.bias)
        self.kernel_size, self.stride = conv.kernel_size, conv.stride

    def forward(self, waves):
        """Convolve.

        Arguments
        ---------
        waves : torch.Tensor
            Channels over time (B, C, N).

        Returns
        -------
        torch.Tensor
            Channels over time (B, E, T).
        """
        size = self.kernel_size[0], self.stride[0]
        windows = torch.stack(
            [windows_of(wave.T, *size) for wave in waves.unbind()]
        )
        return self.multiply(windows).transpose(1, 2)


class PrepackedPositions(Prepacked):
    """The position convolution of an SSL model as a product of spectra.

    A hundred taps over time: by overlap-save, with blocks of twice as many
    frames, less than a twentieth of the operations is left.

    Arguments
    ---------
    embed : torch.nn.Module
        The transformers' module, without batch norm.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> embed = tiny_system().ssl_encoder.model.encoder.pos_conv_embed
    >>> frames = torch.randn(2, 50, 16)
    >>> found = PrepackedPositions(embed)(frames)
    >>> torch.allclose(found, embed(frames), atol=1e-5)
    True
    """

    def __init__(self, embed):
        conv = embed.conv
        super().__init__(conv.bias)
        self.activation = embed.activation
        self.n_taps = conv.kernel_size[0]
        self.n_before = conv.padding[0]
        self.n_groups = conv.groups
        self.n_fft = 2 ** (2 * self.n_taps - 1).bit_length()
        # (D, D / G, bins): a convolution of deep learning is a correlation.
        spectrum = torch.fft.rfft(conv.weight.detach(), self.n_fft).conj()
        spectrum = spectrum.unflatten(0, (self.n_groups, -1))
        self.spectrum = spectrum.permute(3, 0, 2, 1).contiguous()

    def forward(self, frames):
        """Convolve over time.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (B, T, D).

        Returns
        -------
        torch.Tensor
            What is added to them (B, T, D).
        """
        n_wavs, n_frames, _ = frames.shape
        rows = self.convolve(frames.flatten(0, 1), [n_frames] * n_wavs)
        return rows.unflatten(0, (n_wavs, n_frames))

    def convolve(self, frames, lengths):
        """Convolve utterances that lie one after another.

        Arguments
        ---------
        frames : torch.Tensor
            Frames (M, D).
        lengths : list of int
            Frames per utterance.

        Returns
        -------
        torch.Tensor
            What is added to them (M, D).
        """
        self.check(frames)
        hop = self.n_fft - self.n_taps + 1
        counts = [-(-length // hop) for length in lengths]
        blocks = [
            self._blocks(utterance, count, hop)
            for utterance, count in zip(frames.float().split(lengths), counts)
        ]
        spectra = torch.fft.rfft(torch.cat(blocks))  # (blocks, D, bins)
        grouped = spectra.unflatten(1, (self.n_groups, -1)).permute(3, 1, 0, 2)
        product = torch.matmul(grouped, self.spectrum).permute(2, 0, 1, 3)
        found = torch.fft.irfft(product.flatten(2), self.n_fft, dim=1)
        utterances = [
            rows.flatten(0, 1)[:length]
            for rows, length in zip(found[:, :hop].split(counts), lengths)
        ]
        found = torch.cat(utterances)
        return self.activation(
            found if self.bias is None else found.add_(self.bias)
        )

    def _blocks(self, frames, count, hop):
        n_read = (count - 1) * hop + self.n_fft
        n_after = n_read - len(frames) - self.n_before
        padded = nn.functional.pad(frames, (0, 0, self.n_before, n_after))
        return padded.unfold(0, self.n_fft, hop)


def windows_of(frames, kernel, stride):
    """Cut out what each frame of a convolution sees.

    Arguments
    ---------
    frames : torch.Tensor
        Frames (N, C).
    kernel, stride : int
        Of the convolution.

    Returns
    -------
    torch.Tensor
        Windows (T, K * C): taps outside, channels inside.

    Example
    -------
    >>> import torch
    >>> windows_of(torch.arange(5.0)[:, None], kernel=3, stride=2)
    tensor([[0., 1., 2.],
            [2., 3., 4.]])
    """
    return frames.unfold(0, kernel, stride).transpose(1, 2).flatten(1)


def window_weight(conv):
    """Turn a convolution's weights into those of its windows.

    Arguments
    ---------
    conv : torch.nn.Conv1d
        The convolution, without padding or groups.

    Returns
    -------
    torch.Tensor
        Weights (E, K * C), in the order of :func:`windows_of`.

    Example
    -------
    >>> import torch
    >>> window_weight(torch.nn.Conv1d(4, 8, 3)).shape
    torch.Size([8, 12])
    """
    return conv.weight.transpose(1, 2).flatten(1)

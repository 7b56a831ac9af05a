"""A bidirectional LSTM that is exported as ONNX's operator of that name.

torch.export would unroll the time steps of ``torch.nn.LSTM``, whose number is
not known. So each layer is one operator of our own here, with the weights
arranged as ONNX wants them.
"""

import torch
from torch import nn

#: ONNX's order of the gates (input, output, forget, cell), by torch's.
GATES = (0, 3, 1, 2)


@torch.library.custom_op("merit_modules::blstm_layer", mutates_args=())
def blstm_layer(
    frames: torch.Tensor,
    weight_ih: torch.Tensor,
    weight_hh: torch.Tensor,
    bias: torch.Tensor,
    hidden_size: int,
) -> torch.Tensor:
    """Run one layer in both directions.

    Arguments
    ---------
    frames : torch.Tensor
        Input (S, 1, D).
    weight_ih : torch.Tensor
        Weights of the input (2, 4 H, D), gates in ONNX's order.
    weight_hh : torch.Tensor
        Weights of the state (2, 4 H, H).
    bias : torch.Tensor
        Biases of input and state side by side (2, 8 H).
    hidden_size : int
        Width H of a direction.

    Returns
    -------
    torch.Tensor
        Both directions side by side (S, 1, 2 H).

    Example
    -------
    >>> sizes = (5, 1, 4), (2, 12, 4), (2, 12, 3), (2, 24)
    >>> blstm_layer(*(torch.rand(size) for size in sizes), 3).shape
    torch.Size([5, 1, 6])
    """
    weights = []
    for way in range(2):
        ih, hh = weight_ih[way], weight_hh[way]
        pair = bias[way].chunk(2)
        weights += [_reorder(x, _INVERSE) for x in (ih, hh, *pair)]
    start = frames.new_zeros(2, frames.shape[1], hidden_size)
    # biases, layers, dropout, training, bidirectional, batch_first
    options = (True, 1, 0.0, False, True, False)
    return torch.lstm(frames, (start, start), weights, *options)[0]


@blstm_layer.register_fake
def _(frames, weight_ih, weight_hh, bias, hidden_size):
    return frames.new_empty(frames.shape[0], frames.shape[1], 2 * hidden_size)


_INVERSE = tuple(sorted(range(4), key=GATES.__getitem__))


def _reorder(weight, order):
    gates = weight.chunk(4)
    return torch.cat([gates[gate] for gate in order])


def translations():
    """Tell the exporter what the operator is in ONNX.

    Returns
    -------
    dict
        For ``custom_translation_table`` of ``torch.onnx.export``.
    """
    from onnxscript import opset18 as op

    def translate(frames, weight_ih, weight_hh, bias, hidden_size):
        ways, _, _ = op.LSTM(
            frames,
            weight_ih,
            weight_hh,
            bias,
            direction="bidirectional",
            hidden_size=hidden_size,
        )
        beside = op.Transpose(ways, perm=[0, 2, 1, 3])
        shape = op.Constant(value_ints=[0, 0, -1])
        return op.Reshape(beside, shape)

    return {torch.ops.merit_modules.blstm_layer.default: translate}


class ExportBLSTM(nn.Module):
    """A bidirectional ``torch.nn.LSTM`` for one utterance.

    Arguments
    ---------
    lstm : torch.nn.LSTM
        Bidirectional, batch first.

    Example
    -------
    >>> lstm = nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
    >>> frames = torch.rand(1, 7, 4)
    >>> torch.allclose(ExportBLSTM(lstm)(frames), lstm(frames)[0], atol=1e-6)
    True
    """

    def __init__(self, lstm):
        super().__init__()
        self.hidden_size, self.num_layers = lstm.hidden_size, lstm.num_layers
        for layer in range(lstm.num_layers):
            for kind, arranged in _arrange(lstm, layer).items():
                self.register_buffer(f"{kind}_{layer}", arranged)

    def forward(self, frames):
        """Run all layers.

        Arguments
        ---------
        frames : torch.Tensor
            Input (1, S, D).

        Returns
        -------
        torch.Tensor
            Both directions side by side (1, S, 2 H).
        """
        frames = frames.transpose(0, 1)
        for layer in range(self.num_layers):
            kinds = ("weight_ih", "weight_hh", "bias")
            weights = [getattr(self, f"{kind}_{layer}") for kind in kinds]
            frames = blstm_layer(frames, *weights, self.hidden_size)
        return frames.transpose(0, 1)


def _arrange(lstm, layer):
    def both(kind):
        names = (f"{kind}_l{layer}{way}" for way in ("", "_reverse"))
        weights = [getattr(lstm, name).detach() for name in names]
        return torch.stack([_reorder(weight, GATES) for weight in weights])

    bias = torch.cat([both("bias_ih"), both("bias_hh")], dim=1)
    return {
        "weight_ih": both("weight_ih"),
        "weight_hh": both("weight_hh"),
        "bias": bias,
    }

"""A bidirectional LSTM that reads every utterance as if it were alone."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class PaddedBLSTM(nn.LSTM):
    """Bidirectional LSTM over padded utterances.

    The backward direction starts at an utterance's own end. cuDNN does that
    with packed sequences; on a CPU, where packing makes training about five
    times slower, each utterance is reversed in place of the batch.

    Arguments
    ---------
    input_size : int
        Width of the input.
    hidden_size : int
        Width H of each direction.
    num_layers : int
        Number of layers.

    Example
    -------
    >>> blstm = PaddedBLSTM(4, 3, num_layers=2)
    >>> blstm(torch.rand(2, 7, 4), torch.tensor([7, 5])).shape
    torch.Size([2, 7, 6])
    """

    def __init__(self, input_size, hidden_size, num_layers):
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bidirectional=True,
            batch_first=True,
        )

    def forward(self, frames, n_frames):
        """Run both directions.

        Arguments
        ---------
        frames : torch.Tensor
            Input (B, S, D).
        n_frames : torch.Tensor
            Valid frames per utterance (B,), at least 1.

        Returns
        -------
        torch.Tensor
            Both directions side by side (B, S, 2 H); only valid frames have a
            meaning.
        """
        if frames.is_cuda:
            return self._packed(frames, n_frames)
        n_max = frames.shape[1]
        if bool((n_frames == n_max).all()):
            return super().forward(frames)[0]
        position = torch.arange(n_max, device=frames.device)
        last = n_frames.unsqueeze(1) - 1
        # Valid frames back to front; padding stays where it is.
        index = torch.where(position <= last, last - position, position)
        for layer in range(self.num_layers):
            back = self._direction(reorder(frames, index), layer, "_reverse")
            frames = torch.cat(
                [self._direction(frames, layer, ""), reorder(back, index)], -1
            )
        return frames

    def _direction(self, frames, layer, suffix):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [getattr(self, f"{name}_l{layer}{suffix}") for name in names]
        start = frames.new_zeros(1, frames.shape[0], self.hidden_size)
        # biases, layers, dropout, training, bidirectional, batch_first
        options = (True, 1, 0.0, self.training, False, True)
        return torch.lstm(frames, (start, start), weights, *options)[0]

    def _packed(self, frames, n_frames):
        packed = pack_padded_sequence(
            frames, n_frames.cpu(), batch_first=True, enforce_sorted=False
        )
        packed, _ = super().forward(packed)
        frames, _ = pad_packed_sequence(
            packed, batch_first=True, total_length=frames.shape[1]
        )
        return frames


def reorder(frames, index):
    """Pick the frames of each utterance in a given order.

    Arguments
    ---------
    frames : torch.Tensor
        Frames (B, T, D).
    index : torch.Tensor
        Frame numbers (B, S).

    Returns
    -------
    torch.Tensor
        Frames (B, S, D).

    Example
    -------
    >>> reorder(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[1, 0, 0]]))
    tensor([[[2.],
             [1.],
             [1.]]])
    """
    index = index.unsqueeze(-1).expand(-1, -1, frames.shape[-1])
    return frames.gather(1, index)

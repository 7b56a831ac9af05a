"""The transformer of an SSL model, layer by layer as asked for.

The same computation as in transformers' encoders, from the same modules, but
without padding, and with less to compute and to copy. Norms stand before or
after a layer's parts, as ``do_stable_layer_norm`` says.
"""

import torch
from torch.utils.checkpoint import checkpoint
from transformers.activations import GELUActivation

from merit_modules.cpu import onednn
from merit_modules.cpu.prepacked import PrepackedPositions
from merit_modules.ssl.attention import attend, bias_size, distance_bias

#: Frames that a feed-forward part takes at once in inference: what it widens
#: them to is memory that the system hands out anew where it is large.
MAX_ROWS = 512


def layer_outputs(encoder, frames, batch, checkpoint_layers=False, span=None):
    """Give the transformer's input, then the output of each layer.

    Arguments
    ---------
    encoder : torch.nn.Module
        The transformers' encoder.
    frames : torch.Tensor
        Projected frames, packed.
    batch : PackedBatch
        Whose they are.
    checkpoint_layers : bool
        Keep no layer's intermediate results for the backward pass.
    span : int, optional
        Farthest frame that a frame attends to; all by default.

    Yields
    ------
    torch.Tensor
        The representations, packed, each computed when asked for. Gradients are
        recorded as the caller's mode is at that moment.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> from merit_modules.lengths import PackedBatch
    >>> encoder = tiny_system().ssl_encoder.model.encoder
    >>> batch = PackedBatch.without_padding(5)
    >>> outputs = layer_outputs(encoder, torch.rand(1, 5, 16), batch)
    >>> [tuple(output.shape) for output in outputs]
    [(1, 5, 16), (1, 5, 16), (1, 5, 16)]
    """
    if batch.valid is not None:
        frames = frames.masked_fill(~batch.valid.unsqueeze(-1), 0.0)
    stable = encoder.config.do_stable_layer_norm
    frames = frames + _positions(encoder.pos_conv_embed, frames, batch)
    # transformers' base-style encoders norm here, large-style ones at the end.
    frames = frames if stable else encoder.layer_norm(frames)
    frames = encoder.dropout(frames)
    yield frames
    bias = None
    first = encoder.layers[0].attention
    if hasattr(first, "rel_attn_embed"):
        size = batch.n_rows
        if batch.lengths is not None:
            size = bias_size(max(batch.lengths), span)
        bias = distance_bias(first, size)
    apply = _apply_norm_first if stable else _apply_norm_last
    for layer in encoder.layers:
        if checkpoint_layers and torch.is_grad_enabled():
            frames = checkpoint(
                apply, layer, frames, batch, bias, span, use_reentrant=False
            )
        else:
            frames = apply(layer, frames, batch, bias, span)
        yield frames


def _positions(embed, frames, batch):
    """Convolve each utterance over time; zeros lie around it."""
    if batch.lengths is None:
        return embed(frames)
    if isinstance(embed, PrepackedPositions):
        return embed.convolve(frames, batch.lengths)
    if len(batch.lengths) == 1:
        return embed(frames[None])[0]
    # All in one row, as far apart as the convolution sees.
    gap = frames.new_zeros(embed.conv.kernel_size[0] // 2, frames.shape[1])
    apart = []
    for utterance in frames.split(batch.lengths):
        apart += [utterance, gap]
    row = embed(torch.cat(apart[:-1])[None])[0]
    steps = [n for length in batch.lengths for n in (length, len(gap))]
    return torch.cat(row.split(steps[:-1])[::2])


def _apply_norm_first(layer, frames, batch, bias, span):
    normed = layer.layer_norm(frames)
    mixed = attend(layer.attention, normed, batch, bias, span)
    frames = frames + layer.dropout(mixed)
    normed = layer.final_layer_norm(frames)
    frames = frames + _feed_forward(layer.feed_forward, normed)
    adapter = getattr(layer, "adapter_layer", None)
    return frames if adapter is None else frames + adapter(frames)


def _apply_norm_last(layer, frames, batch, bias, span):
    mixed = attend(layer.attention, frames, batch, bias, span)
    frames = layer.layer_norm(frames + layer.dropout(mixed))
    fed = _feed_forward(layer.feed_forward, frames)
    return layer.final_layer_norm(frames + fed)


def _feed_forward(part, frames):
    if torch.is_grad_enabled() or frames.dim() == 3 or len(frames) <= MAX_ROWS:
        return _feed(part, frames)
    n_blocks = -(-len(frames) // MAX_ROWS)
    return torch.cat([_feed(part, x) for x in frames.tensor_split(n_blocks)])


def _feed(part, frames):
    activation, dropout = part.intermediate_act_fn, part.intermediate_dropout
    with_gelu = isinstance(activation, GELUActivation)
    frames = onednn.apply(part.intermediate_dense, frames, gelu=with_gelu)
    frames = frames if with_gelu else activation(frames)
    frames = onednn.apply(part.output_dense, dropout(frames))
    return part.output_dropout(frames)

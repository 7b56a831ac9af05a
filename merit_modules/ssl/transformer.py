"""The transformer of an SSL model, layer by layer as asked for.

The same computation as in transformers' encoders, from the same modules, but
without padding, and with less to compute and to copy. Norms stand before or
after a layer's parts, as ``do_stable_layer_norm`` says.
"""

from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint
from transformers.activations import GELUActivation

from merit_modules.cpu import onednn
from merit_modules.cpu.prepacked import PrepackedPositions
from merit_modules.ssl.attention import (
    attend,
    attend_padded,
    bias_size,
    can_join,
    distance_bias,
    gated_bias,
    padding_mask,
    project,
    project_at_once,
)

#: Frames that a feed-forward part takes at once in inference: what it widens
#: them to is memory that the system hands out anew where it is large.
MAX_ROWS = 512


def layer_outputs(
    encoder, frames, batch, checkpoint_layers=False, span=None, pieces=None
):
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
    pieces : Pieces, optional
        The parts of a layer, for padded batches; those below by default.

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
    pieces = PLAIN if pieces is None else pieces
    apply = _packed_layer
    if batch.lengths is None:
        apply = _padded_layer
    context = _context_of(encoder, frames, batch, span)
    for layer in encoder.layers:
        if checkpoint_layers and torch.is_grad_enabled():
            frames = checkpoint(
                apply, layer, frames, context, pieces, use_reentrant=False
            )
        else:
            frames = apply(layer, frames, context, pieces)
        yield frames


class _Context(NamedTuple):
    """What is the same in all layers."""

    batch: object
    norms_first: bool
    bias: torch.Tensor | None
    own: torch.Tensor | None
    span: int | None
    mask: torch.Tensor | None


def _context_of(encoder, frames, batch, span):
    bias = own = mask = None
    first = encoder.layers[0].attention
    if hasattr(first, "rel_attn_embed"):
        size = batch.n_rows
        if batch.lengths is not None:
            size = bias_size(max(batch.lengths), span)
        bias = distance_bias(first, size)
    if batch.lengths is None:
        dtype = onednn.working_dtype(frames)
        mask = padding_mask(batch, frames.device, dtype, span)
        if bias is not None:  # once for all layers
            bias = bias.to(dtype)
            own = torch.eye(len(bias), device=frames.device)
    stable = encoder.config.do_stable_layer_norm
    return _Context(batch, stable, bias, own, span, mask)


def rows_to_add(encoder, n_rows):
    """Count the frames to add to a batch, so that a GPU's attention is fast.

    It takes a bias as it is where the rows begin at multiples of eight; else
    each layer copies it.

    Arguments
    ---------
    encoder : torch.nn.Module
        The transformers' encoder.
    n_rows : int
        Frames of the batch.

    Returns
    -------
    int
        0 for a model without a bias.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> encoder = tiny_system().ssl_encoder.model.encoder
    >>> rows_to_add(encoder, 249), rows_to_add(encoder, 256)
    (7, 0)
    """
    biased = hasattr(encoder.layers[0].attention, "rel_attn_embed")
    return -n_rows % 8 if biased else 0


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


def before(layer, frames, norms_first, own):
    """Do what comes before a layer's attention.

    Arguments
    ---------
    layer : torch.nn.Module
        The transformers' layer.
    frames : torch.Tensor
        Its input (..., D).
    norms_first : bool
        Whether norms stand before the parts.
    own : torch.Tensor or None
        Identity (H, H), where attention has a bias, WavLM's.

    Returns
    -------
    tuple
        See :func:`merit_modules.ssl.attention.project`.
    """
    part = layer.attention
    if norms_first:
        frames = layer.layer_norm(frames)
    if can_join(part):
        return project_at_once(part, frames, own)
    return project(part, frames, own is not None)


def after(layer, frames, norms_first, mixed):
    """Do what comes after a layer's attention.

    Arguments
    ---------
    layer : torch.nn.Module
        The transformers' layer.
    frames : torch.Tensor
        Its input (..., D).
    norms_first : bool
        Whether norms stand before the parts.
    mixed : torch.Tensor
        What attention made of it (..., D).

    Returns
    -------
    torch.Tensor
        The layer's output (..., D).
    """
    mixed = onednn.apply(layer.attention.out_proj, mixed)
    frames = frames + layer.dropout(mixed)
    if not norms_first:
        frames = layer.layer_norm(frames)
        fed = _feed_forward(layer.feed_forward, frames)
        return layer.final_layer_norm(frames + fed)
    normed = layer.final_layer_norm(frames)
    frames = frames + _feed_forward(layer.feed_forward, normed)
    adapter = getattr(layer, "adapter_layer", None)
    return frames if adapter is None else frames + adapter(frames)


class Pieces(NamedTuple):
    """The parts of a layer around its attention, which may be compiled.

    Arguments
    ---------
    before, after, gated_bias : callable
        As the functions of these names.
    """

    before: object = before
    after: object = after
    gated_bias: object = gated_bias


PLAIN = Pieces()


def _padded_layer(layer, frames, context, pieces):
    part, mask, first = layer.attention, context.mask, context.norms_first
    query, key, value, gate = pieces.before(layer, frames, first, context.own)
    if gate is not None:
        mask = pieces.gated_bias(gate, context.bias, mask)
    mask = None if mask is None else mask.to(query.dtype)
    dropout = part.dropout if part.training else 0.0
    mixed = attend_padded(query, key, value, mask, part.num_heads, dropout)
    return pieces.after(layer, frames, first, mixed)


def _packed_layer(layer, frames, context, pieces):
    first = context.norms_first
    normed = layer.layer_norm(frames) if first else frames
    given = context.batch, context.bias, context.span
    mixed = attend(layer.attention, normed, *given)
    return after(layer, frames, first, mixed)


def _feed_forward(part, frames):
    whole = torch.is_grad_enabled() or frames.dim() == 3 or onednn.is_traced()
    if whole or len(frames) <= MAX_ROWS:
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

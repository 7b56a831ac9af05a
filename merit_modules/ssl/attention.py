"""Self-attention of the SSL models' transformer layers, with WavLM's bias.

WavLM adds to every score a bias that depends on the distance of the two frames
and on a gate that the querying frame sets. What depends on the distance is the
same in all layers and is looked up once per distance. The parameters are those
of the transformers' modules.
"""

import math

import torch
from torch import nn

from merit_modules.cpu import onednn

#: Scores of as many heads at once as fit in a processor's cache.
BLOCK_SIZE = 2**20


def distance_bias(attention, n_frames):
    """Look up WavLM's bias by distance, before the gate.

    Arguments
    ---------
    attention : torch.nn.Module
        The first layer's attention, which holds the embedding.
    n_frames : int
        Longest utterance T.

    Returns
    -------
    torch.Tensor
        Bias (H, T, T), of query by key.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> encoder = tiny_system().ssl_encoder.model.encoder
    >>> attention = encoder.layers[0].attention
    >>> bias = distance_bias(attention, 5)
    >>> torch.equal(bias, attention.compute_bias(5, 5))
    True
    """
    embedding = attention.rel_attn_embed
    there = torch.arange(n_frames, device=embedding.weight.device)
    distances = torch.arange(
        1 - n_frames, n_frames, device=embedding.weight.device
    )
    by_distance = embedding(attention._relative_positions_bucket(distances))
    index = there - there[:, None] + (n_frames - 1)
    return by_distance.T[:, index]


def _gate_of(attention, frames):
    """Compute how much of the bias each querying frame takes."""
    project = attention.gru_rel_pos_linear
    heads = frames.unflatten(-1, (attention.num_heads, -1))
    if type(project) is nn.Linear:
        # Eight outputs, of which only the sums of four are wanted.
        weight = project.weight.unflatten(0, (2, 4)).sum(dim=1)
        bias = project.bias.unflatten(0, (2, 4)).sum(dim=1)
        both = nn.functional.linear(heads, weight, bias)
    else:
        both = project(heads).unflatten(-1, (2, 4)).sum(dim=-1)
    return _gate(attention, *both.sigmoid().unbind(dim=-1))


def bias_size(n_frames, span):
    """Count the frames that a bias must reach over.

    A frame's bias depends on distances alone, so that of a near stretch serves
    everywhere.

    Arguments
    ---------
    n_frames : int
        Longest utterance T.
    span : int or None
        Farthest frame that is attended to.

    Returns
    -------
    int
        What to ask :func:`distance_bias` for.

    Example
    -------
    >>> bias_size(500, None), bias_size(500, 600), bias_size(5000, 600)
    (500, 500, 1500)
    """
    if span is None or n_frames <= span + 1:
        return n_frames
    return min(n_frames, 2 * span + _step(span))


def _step(span):
    """How many frames ask at once where attention reaches ``span`` frames."""
    return max(1, span // 2)


def attend(attention, frames, batch, bias=None, span=None):
    """Apply an attention module to packed frames.

    Arguments
    ---------
    attention : torch.nn.Module
        The transformers' attention of a layer.
    frames : torch.Tensor
        Frames (M, D).
    batch : PackedBatch
        Whose they are.
    bias : torch.Tensor, optional
        What :func:`distance_bias` gave for :func:`bias_size`; WavLM only.
    span : int, optional
        Farthest frame, before and after it, that a frame attends to; all by
        default. Time and memory then grow with the length, not its square.

    Returns
    -------
    torch.Tensor
        Frames (M, D), before the output projection.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> from merit_modules.lengths import PackedBatch
    >>> encoder = tiny_system("hubert").ssl_encoder.model.encoder
    >>> batch = PackedBatch.packed(torch.tensor([3, 2]), 3)
    >>> attention = encoder.layers[0].attention
    >>> attend(attention, torch.rand(5, 16), batch).shape
    torch.Size([5, 16])
    """
    query, key, value, gate = project(attention, frames, bias is not None)
    dropout = attention.dropout if attention.training else 0.0
    return _attend_apart(
        query,
        key,
        value,
        batch,
        gate,
        bias,
        attention.num_heads,
        dropout,
        span,
    )


def project(attention, frames, with_gate):
    """Compute what attention compares, one projection after another.

    Arguments
    ---------
    attention : torch.nn.Module
        The transformers' attention of a layer.
    frames : torch.Tensor
        Frames (..., D).
    with_gate : bool
        Whether there is a bias, WavLM's.

    Returns
    -------
    query, key, value : torch.Tensor
        Frames (..., D).
    gate : torch.Tensor or None
        How much of the bias each frame takes, per head (..., H).
    """
    query, key, value = (
        onednn.apply(part, frames)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    gate = _gate_of(attention, frames) if with_gate else None
    return query, key, value, gate


def joined_weights(attention, own=None):
    """Put the weights of all that reads an attention's input into one.

    The gate's come last. As each head's gate reads that head's part of the
    frames, they are zero elsewhere.

    Arguments
    ---------
    attention : torch.nn.Module
        The transformers' attention of a layer.
    own : torch.Tensor, optional
        Identity (H, H), where there is a bias, WavLM's.

    Returns
    -------
    weight : torch.Tensor
        Weight (3 D + 2 H, D), or (3 D, D) without a gate.
    bias : torch.Tensor
        Bias of as many.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> attention = tiny_system().ssl_encoder.model.encoder.layers[0].attention
    >>> weight, bias = joined_weights(attention, torch.eye(2))
    >>> weight.shape, bias.shape
    (torch.Size([52, 16]), torch.Size([52]))
    """
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    weights = [part.weight for part in parts]
    biases = [part.bias for part in parts]
    if own is not None:
        # Eight outputs, of which only the sums of four are wanted.
        gate = attention.gru_rel_pos_linear
        two = gate.weight.unflatten(0, (2, 4)).sum(dim=1)
        spread = two[:, None, None, :] * own[None, :, :, None]
        weights.append(spread.flatten(2).flatten(0, 1))
        shift = gate.bias.unflatten(0, (2, 4)).sum(dim=1)
        biases.append(shift[:, None].expand(2, len(own)).flatten())
    return torch.cat(weights), torch.cat(biases)


def can_join(attention):
    """Tell whether an attention's projections can be one product.

    Arguments
    ---------
    attention : torch.nn.Module
        The transformers' attention of a layer.

    Returns
    -------
    bool
        Whether they are what they were made as and nobody listens to them.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> can_join(tiny_system().ssl_encoder.model.encoder.layers[0].attention)
    True
    """
    names = ["q_proj", "k_proj", "v_proj"]
    if hasattr(attention, "gru_rel_pos_linear"):
        names.append("gru_rel_pos_linear")
    parts = [getattr(attention, name) for name in names]
    return all(
        type(part) is nn.Linear
        and part.bias is not None
        and not (part._forward_hooks or part._forward_pre_hooks)
        for part in parts
    )


def project_at_once(attention, frames, own=None):
    """Compute what attention compares as one product.

    Arguments
    ---------
    attention : torch.nn.Module
        The transformers' attention of a layer.
    frames : torch.Tensor
        Frames (..., D).
    own : torch.Tensor, optional
        See :func:`joined_weights`.

    Returns
    -------
    tuple
        See :func:`project`.
    """
    if hasattr(attention, "joined_weight"):  # see inference.prepack
        weight, bias = attention.joined_weight, attention.joined_bias
    else:
        weight, bias = joined_weights(attention, own)
    product = nn.functional.linear(frames, weight, bias)
    width = attention.embed_dim
    if own is None:
        return *product.split(width, dim=-1), None
    n_heads = attention.num_heads
    *parts, gate = product.split([width] * 3 + [2 * n_heads], dim=-1)
    a, b = gate.sigmoid().chunk(2, dim=-1)
    return *parts, _gate(attention, a, b)


def _gate(attention, a, b):
    const = attention.gru_rel_pos_const.view(-1)
    return a * (b * const - 1.0) + 2.0


def padding_mask(batch, device, dtype, span=None):
    """Make what is added to the scores of a padded batch.

    Arguments
    ---------
    batch : PackedBatch
        A batch that is not packed.
    device : torch.device
        Where its frames are.
    dtype : torch.dtype
        Precision of the queries.
    span : int, optional
        Farthest frame that a frame attends to; all by default.

    Returns
    -------
    torch.Tensor or None
        Zero where a query (dimension -2) may see a key (-1), else minus
        infinity; (B, 1, 1, T), or (B, 1, T, T) with a span. None if all may
        see all.

    Example
    -------
    >>> from merit_modules.lengths import PackedBatch
    >>> batch = PackedBatch.masked(torch.tensor([3, 2]), 3)
    >>> padding_mask(batch, torch.device("cpu"), torch.float32)[:, 0, 0]
    tensor([[0., 0., 0.],
            [0., 0., -inf]])
    """
    seen = None if batch.valid is None else batch.valid[:, None, None]
    # What is recorded for export must not decide by the length.
    if span is not None and (onednn.is_traced() or batch.n_rows > span + 1):
        frames = torch.arange(batch.n_rows, device=device)
        seen_near = ~_is_far(frames, frames, span)
        if seen is not None:
            # Each sees itself: no row of padding is left with nothing.
            itself = frames == frames[:, None]
            seen_near = (seen_near & seen) | itself
        seen = seen_near
    if seen is None:
        return None
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(
        ~seen, -math.inf
    )


def attend_padded(query, key, value, mask, n_heads, dropout):
    """Attend in all rows at once.

    Arguments
    ---------
    query, key, value : torch.Tensor
        Frames (B, T, D).
    mask : torch.Tensor or None
        Added to the scores: (B, H, T, T), or what broadcasts to it.
    n_heads : int
        Number of heads H.
    dropout : float
        Share of the weights that is dropped.

    Returns
    -------
    torch.Tensor
        Frames (B, T, D).

    Example
    -------
    >>> frames = torch.rand(2, 5, 8)
    >>> attend_padded(frames, frames, frames, None, 4, 0.0).shape
    torch.Size([2, 5, 8])
    """
    query, key, value = (
        x.unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for x in (query, key, value)
    )
    mixed = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout
    )
    return mixed.transpose(1, 2).flatten(2)


def gated_bias(gate, bias, mask):
    """Give each query its share of the bias, and add the mask.

    Arguments
    ---------
    gate : torch.Tensor
        Of each frame, per head (B, T, H).
    bias : torch.Tensor
        By distance, before the gate (H, T, T), in the queries' precision.
    mask : torch.Tensor or None
        What :func:`padding_mask` gave.

    Returns
    -------
    torch.Tensor
        What is added to the scores (B, H, T, T).

    Example
    -------
    >>> gated_bias(torch.ones(1, 2, 1), torch.ones(1, 2, 2), None)
    tensor([[[[1., 1.],
              [1., 1.]]]])
    """
    gate = gate.to(bias.dtype).transpose(1, 2).unsqueeze(-1)
    return gate * bias if mask is None else torch.addcmul(mask, gate, bias)


def _is_far(queries, keys, span):
    return (keys - queries[:, None]).abs() > span


def _attend_apart(query, key, value, batch, gate, bias, n_heads, dropout, span):
    """Attend in one utterance after the other, a few heads at a time."""
    query, key, value = (
        x.unflatten(-1, (n_heads, -1)).transpose(0, 1)
        for x in (query, key, value)
    )
    gate = None if gate is None else gate.T.unsqueeze(-1)
    utterances, start = [], 0
    for length in batch.lengths:
        rows = slice(start, start + length)
        near = span is not None and length > span + 1
        heads = []
        for some in _blocks(n_heads, 2 * span if near else length):
            asked = (
                *(x[some, rows] for x in (query, key, value)),
                None if bias is None else gate[some, rows],
                None if bias is None else bias[some],
            )
            if near:
                mixed = _attend_near(*asked, span, dropout)
            else:
                mixed = _attend_all(*asked, dropout)
            heads.append(mixed.transpose(0, 1))
        utterances.append(_joined(heads, dim=1).flatten(1))
        start += length
    return _joined(utterances)


def _joined(parts, dim=0):
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _attend_all(query, key, value, gate, bias, dropout):
    """Attend to a whole utterance, in some heads (H, T, D / H)."""
    mask = None
    if bias is not None:
        length = query.shape[1]
        mask = (gate * bias[:, :length, :length])[None]
    (mixed,) = nn.functional.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=mask, dropout_p=dropout
    )
    return mixed


def _attend_near(query, key, value, gate, bias, span, dropout):
    """Attend to what is near, a stretch of the utterance at a time."""
    length, parts = query.shape[1], []
    frames = torch.arange(length, device=query.device)
    for first in range(0, length, _step(span)):
        rows = slice(first, min(first + _step(span), length))
        keys = slice(max(0, first - span), min(rows.stop + span, length))
        far = _is_far(frames[rows], frames[keys], span)
        if bias is None:
            mask = ~far[None]
        else:
            # As if the utterance began with the first frame that is asked.
            at = slice(rows.start - keys.start, rows.stop - keys.start)
            mask = gate[:, rows] * bias[:, at, : keys.stop - keys.start]
            mask = mask.masked_fill(far, -math.inf)
        (part,) = nn.functional.scaled_dot_product_attention(
            query[None, :, rows],
            key[None, :, keys],
            value[None, :, keys],
            attn_mask=mask[None],
            dropout_p=dropout,
        )
        parts.append(part)
    return torch.cat(parts, dim=1)


def _blocks(n_heads, length):
    size = n_heads
    if not torch.is_grad_enabled():
        size = max(1, BLOCK_SIZE // length**2)
    return [
        slice(first, min(n_heads, first + size))
        for first in range(0, n_heads, size)
    ]

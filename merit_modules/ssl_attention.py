"""Self-attention of the SSL models' transformer layers, with WavLM's bias.

WavLM adds to every score a bias that hangs on the distance of the two frames
and on a gate that the querying frame sets. What hangs on the distance is the
same in all layers and is looked up once per distance. The parameters are those
of the transformers' modules.
"""

import math

import torch
from torch import nn

from merit_modules import onednn

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


def gate_of(attention, frames):
    """Compute how much of the bias each querying frame takes.

    Arguments
    ---------
    attention : torch.nn.Module
        A WavLM attention.
    frames : torch.Tensor
        Its input (..., D).

    Returns
    -------
    torch.Tensor
        Gate (..., H).

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> encoder = tiny_system().ssl_encoder.model.encoder
    >>> gate_of(encoder.layers[1].attention, torch.rand(5, 16)).shape
    torch.Size([5, 2])
    """
    project = attention.gru_rel_pos_linear
    heads = frames.unflatten(-1, (attention.num_heads, -1))
    if type(project) is nn.Linear:
        # Eight outputs, of which only the sums of four are wanted.
        weight = project.weight.unflatten(0, (2, 4)).sum(dim=1)
        bias = project.bias.unflatten(0, (2, 4)).sum(dim=1)
        both = nn.functional.linear(heads, weight, bias)
    else:
        both = project(heads).unflatten(-1, (2, 4)).sum(dim=-1)
    a, b = both.sigmoid().unbind(dim=-1)
    const = attention.gru_rel_pos_const.view(-1)
    return a * (b * const - 1.0) + 2.0


def attend(attention, frames, batch, bias=None):
    """Apply an attention module to the frames of a batch.

    Arguments
    ---------
    attention : torch.nn.Module
        The transformers' attention of a layer.
    frames : torch.Tensor
        Frames, packed.
    batch : PackedBatch
        Whose they are.
    bias : torch.Tensor, optional
        What :func:`distance_bias` gave; WavLM only.

    Returns
    -------
    torch.Tensor
        Frames, packed.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> from merit_modules.packing import PackedBatch
    >>> encoder = tiny_system("hubert").ssl_encoder.model.encoder
    >>> batch = PackedBatch.of(torch.tensor([3, 2]), 3, torch.device("cpu"))
    >>> attention = encoder.layers[0].attention
    >>> attend(attention, torch.rand(5, 16), batch).shape
    torch.Size([5, 16])
    """
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    entered = onednn.enter(frames, *projections)
    query, key, value = (
        onednn.leave(project(entered)) for project in projections
    )
    gate = None if bias is None else gate_of(attention, frames)
    dropout = attention.dropout if attention.training else 0.0
    size = attention.num_heads, dropout
    if batch.lengths is None:
        mixed = _attend_padded(query, key, value, batch, gate, bias, *size)
    else:
        mixed = _attend_apart(query, key, value, batch, gate, bias, *size)
    out = attention.out_proj
    return onednn.leave(out(onednn.enter(mixed, out)))


def _attend_padded(query, key, value, batch, gate, bias, n_heads, dropout):
    """Attend in all rows at once, with padding masked."""
    query, key, value = (
        x.unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for x in (query, key, value)
    )
    mask = None if batch.valid is None else batch.valid[:, None, None]
    if bias is not None:
        biased = gate.transpose(1, 2).unsqueeze(-1) * bias
        if mask is not None:
            biased = biased.masked_fill(~mask, -math.inf)
        mask = biased
    mixed = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout
    )
    return mixed.transpose(1, 2).flatten(2)


def _attend_apart(query, key, value, batch, gate, bias, n_heads, dropout):
    """Attend in one utterance after the other, a few heads at a time."""
    query, key, value = (
        x.unflatten(-1, (n_heads, -1)).transpose(0, 1)
        for x in (query, key, value)
    )
    gate = None if gate is None else gate.T.unsqueeze(-1)
    utterances, start = [], 0
    for length in batch.lengths:
        rows = slice(start, start + length)
        heads = []
        for some in _blocks(n_heads, length):
            mask = None
            if bias is not None:
                mask = gate[some, rows] * bias[some, :length, :length]
            mixed = nn.functional.scaled_dot_product_attention(
                query[None, some, rows],
                key[None, some, rows],
                value[None, some, rows],
                attn_mask=None if mask is None else mask[None],
                dropout_p=dropout,
            )
            heads.append(mixed[0].transpose(0, 1))
        utterances.append(torch.cat(heads, dim=1).flatten(1))
        start += length
    return torch.cat(utterances)


def _blocks(n_heads, length):
    size = n_heads
    if not torch.is_grad_enabled():
        size = max(1, BLOCK_SIZE // length**2)
    return [
        slice(first, min(n_heads, first + size))
        for first in range(0, n_heads, size)
    ]

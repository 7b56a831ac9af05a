"""Waveforms to the layer representations of a self-supervised encoder.

Built on the model classes of transformers (WavLM, HuBERT, wav2vec 2.0, base
and large style). SpeechBrain's lobes are not used, as they normalise the
waveform over the padded row. There are two ways to the same numbers: the
modules as transformers run them (:mod:`merit_modules.ssl.plain`), and the same
computation arranged to be fast.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from merit_modules.cpu import onednn
from merit_modules.errors import InputError
from merit_modules.lengths import (
    PackedBatch,
    absolute_lengths,
    check_rule,
    released_frames,
)
from merit_modules.ssl import front_end as ssl_front_end
from merit_modules.ssl import plain as ssl_plain
from merit_modules.ssl import transformer as ssl_transformer

SAMPLE_RATE_HZ = 16000  # of all these models
MODEL_TYPES = ("wavlm", "hubert", "wav2vec2")


class SSLLayers(NamedTuple):
    """The layer representations of a batch, one after the other.

    Arguments
    ---------
    reps : Iterator of torch.Tensor
        L tensors (B, T, D): the transformer's input after the position
        convolution, then the output of each layer. Rows beyond an utterance's
        valid frames have no meaning; packed (M, D), there are none.
    n_frames : torch.Tensor
        Frames per utterance (B,) that the transformer takes for real.
    n_rows : int
        Padded number of frames T. Packed, a GPU may have added some.
    """

    reps: Iterator
    n_frames: torch.Tensor
    n_rows: int


class SSLEncoder(nn.Module):
    """Give all layer representations of a transformers speech model.

    By default an utterance's representations are the same alone and in a
    padded batch.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        WavLMModel, HubertModel or Wav2Vec2Model.
    train_front_end : bool
        Whether the convolutional front end is trained. Never in the paper;
        an encoder that starts from random weights needs it.
    padding_rule : str
        ``exact``, or ``released`` as in the authors' code; see
        :mod:`merit_modules.lengths`. A whole system follows its encoder's.
    fast : bool
        Whether to arrange the computation to be fast: without padding, and,
        on a CPU, with less memory. A model with batch norm before its
        position convolution always takes the plain path; so do all where
        :func:`~merit_modules.cpu.onednn.is_allowed` says no.
    checkpoint_layers : bool
        In training, keep only the layers' outputs and compute the rest again
        in the backward pass: less memory, more time.
    attention_span_s : float, optional
        Farthest that a frame attends to, in seconds before and after it; all
        by default. With the length of the longest training utterance, nothing
        changes up to that length; beyond it, attention goes on to hear as much
        as it learned from, and its cost grows with the length, not with its
        square.

    Raises
    ------
    InputError
        If the model is of another kind or there is no such rule.

    Example
    -------
    >>> from merit_modules.ssl import RandomSSLEncoder
    >>> from merit_modules.tiny import TINY_SSL
    >>> encoder = RandomSSLEncoder("wavlm", TINY_SSL)
    >>> encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.5])).shape
    torch.Size([3, 2, 49, 16])
    >>> encoder.frame_lengths(torch.tensor([1.0, 0.5]), 16000) * 49
    tensor([49., 24.])
    """

    #: What of a layer is compiled; see :mod:`merit_modules.ssl.compiled`.
    pieces = ssl_transformer.PLAIN

    def __init__(
        self,
        model,
        train_front_end=False,
        padding_rule="exact",
        fast=True,
        checkpoint_layers=False,
        attention_span_s=None,
    ):
        super().__init__()
        model_type = model.config.model_type
        if model_type not in MODEL_TYPES:
            raise InputError(
                f"SSL model: expected one of {', '.join(MODEL_TYPES)}, "
                f"got {model_type!r}"
            )
        self.model = model
        self.padding_rule = check_rule(padding_rule)
        self.train_front_end = train_front_end
        self.attention_span_s = attention_span_s
        self.arrange(fast, checkpoint_layers)
        # Dropping layers would change which representation is which.
        model.config.layerdrop = 0.0
        self.set_frozen(False)

    def __getstate__(self):
        # What is compiled belongs to this process.
        return {k: v for k, v in vars(self).items() if k != "pieces"}

    def arrange(self, fast=True, checkpoint_layers=False):
        """Choose how to compute; the numbers stay the same.

        Arguments
        ---------
        fast : bool
            As the constructor takes it.
        checkpoint_layers : bool
            As the constructor takes it.
        """
        batch_norm = getattr(self.model.config, "conv_pos_batch_norm", False)
        self.fast = fast and onednn.is_allowed() and not batch_norm
        if checkpoint_layers != getattr(self, "checkpoint_layers", False):
            ssl_plain.checkpoint_layers(self.model, checkpoint_layers)
        self.checkpoint_layers = checkpoint_layers

    @property
    def n_layer_reps(self):
        """Number of layer representations L: the layers and their input."""
        return self.model.config.num_hidden_layers + 1

    @property
    def dim(self):
        """Width D of a representation."""
        return self.model.config.hidden_size

    def set_frozen(self, frozen):
        """Freeze the whole encoder, or thaw what is meant to be trained.

        Arguments
        ---------
        frozen : bool
            True: no part is trained and no graph is kept.
        """
        self.frozen = frozen
        self.requires_grad_(not frozen)
        self.model.feature_extractor.requires_grad_(
            self.train_front_end and not frozen
        )
        # Two parts that no representation depends on: the stand-in for frames
        # masked in pre-training, and large style's norm after the last layer.
        if hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed.requires_grad_(False)
        if self.model.config.do_stable_layer_norm:
            self.model.encoder.layer_norm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode=True):
        """Set the training mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    @property
    def receptive_field(self):
        """Number of samples that one frame sees (400 in all hub models)."""
        config, samples = self.model.config, 1
        layers = zip(config.conv_kernel, config.conv_stride)
        for kernel, stride in reversed(list(layers)):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def hop_length(self):
        """Samples from one frame to the next (320 in all hub models)."""
        return math.prod(self.model.config.conv_stride)

    def count_frames(self, n_samples):
        """Count the frames whose receptive field lies in the utterance.

        Arguments
        ---------
        n_samples : torch.Tensor
            Lengths in samples (B,).

        Returns
        -------
        torch.Tensor
            Numbers of frames (B,), at least 1: a shorter utterance is
            continued with zeros.
        """
        config = self.model.config
        for kernel, stride in zip(config.conv_kernel, config.conv_stride):
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples.clamp_min(1)

    def frame_lengths(self, lengths, n_samples):
        """Relative lengths of the frames, which lobes behind this one take.

        The relative lengths of the waveforms may be off by a frame.

        Arguments
        ---------
        lengths : torch.Tensor
            Relative lengths (B,) of the waveforms.
        n_samples : int
            Their padded length N in samples.

        Returns
        -------
        torch.Tensor
            Relative lengths (B,).
        """
        n_rows = self.count_frames(torch.tensor(n_samples))
        n_frames = self.count_frames(absolute_lengths(lengths, n_samples))
        return (n_frames / n_rows).to(lengths)

    def forward(self, wavs, lengths=None):
        """Encode.

        Arguments
        ---------
        wavs : torch.Tensor
            Normalised waveforms (B, N), 16 kHz.
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.

        Returns
        -------
        torch.Tensor
            Layer representations (L, B, T, D), the layers' input first, as
            SpeechBrain's lobes give them with ``output_all_hiddens``.
        """
        return torch.stack(tuple(self.layers(wavs, lengths).reps))

    def layers(self, wavs, lengths=None, packed=False, masked=None):
        """Encode, and hand out each representation as it is there.

        Who needs one at a time need not keep all. The fast path computes a
        layer when it is asked for.

        Arguments
        ---------
        wavs : torch.Tensor
            Normalised waveforms (B, N), 16 kHz.
        lengths : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.
        packed : bool
            Hand out valid frames alone, (M, D), where only they are computed.
        masked : torch.Tensor, optional
            Mask (B, T) of frames that the transformer is not to see, as in
            pretraining; bool.

        Returns
        -------
        SSLLayers
            Iterator over the representations, valid frames, rows.

        Example
        -------
        >>> from merit_modules.ssl import RandomSSLEncoder
        >>> from merit_modules.tiny import TINY_SSL
        >>> encoder = RandomSSLEncoder("wavlm", TINY_SSL)
        >>> layers = encoder.layers(torch.randn(2, 16000))
        >>> layers.n_rows, next(layers.reps).shape
        (49, torch.Size([2, 49, 16]))
        """
        n_given = wavs.shape[1]
        missing = max(0, self.receptive_field - n_given)
        if lengths is None:
            n_samples = torch.full((len(wavs),), n_given)
        else:
            n_samples = absolute_lengths(lengths, n_given)
        wavs = nn.functional.pad(wavs, (0, missing))
        is_padded = lengths is not None or missing > 0
        recording = torch.is_grad_enabled() and not self.frozen
        with torch.set_grad_enabled(recording):
            frames = self._front_end(wavs, n_samples, is_padded)
            n_rows = frames.shape[1]
            n_frames = self._valid_frames(n_samples, wavs, n_rows)
            more = 0
            on_gpu = self._is_fast and not onednn.suits(frames.device)
            if on_gpu and self._is_exact:
                more = ssl_transformer.rows_to_add(self.model.encoder, n_rows)
            frames = nn.functional.pad(frames, (0, 0, 0, more))
            if masked is not None:
                masked = nn.functional.pad(masked, (0, more)).unsqueeze(-1)
            reps = self._transformer(
                frames, n_frames, is_padded or more > 0, packed, masked
            )
        if packed:
            n_rows += more
        elif more:
            reps = (rep[:, :n_rows] for rep in reps)
        return SSLLayers(_each(reps, recording), n_frames, n_rows)

    def _front_end(self, wavs, n_samples, is_padded):
        conv_layers = self.model.feature_extractor.conv_layers
        recording = torch.is_grad_enabled() and self.train_front_end
        exact = is_padded and self._is_exact
        with torch.set_grad_enabled(recording):
            if self._is_fast and not onednn.suits(wavs.device):
                exact = exact and bool((n_samples < wavs.shape[1]).any())
                return ssl_front_end.encode_batch(
                    conv_layers, wavs, n_samples if exact else None
                )
            if self._is_fast:
                if not exact:
                    n_samples = torch.full_like(n_samples, wavs.shape[1])
                n_frames = self.count_frames(n_samples).tolist()
                n_rows = self.count_frames(torch.tensor(wavs.shape[1])).item()
                return ssl_front_end.encode_waves(
                    conv_layers, wavs, n_samples.tolist(), n_frames, n_rows
                )
            exact = exact and bool((n_samples < wavs.shape[1]).any())
            return ssl_plain.encode_waves(
                conv_layers, wavs, n_samples if exact else None
            )

    @property
    def _is_exact(self):
        return self.padding_rule == "exact"

    def _valid_frames(self, n_samples, wavs, n_rows):
        if self._is_exact:
            return self.count_frames(n_samples)
        return released_frames(n_samples, wavs.shape[1], n_rows)

    def _transformer(self, frames, n_frames, is_padded, packed, masked):
        encoder, n_rows = self.model.encoder, frames.shape[1]
        span = self._span
        # The plain path knows of no span.
        if not self.fast and (span is None or n_rows <= span + 1):
            batch = PackedBatch.masked(n_frames, n_rows, frames.device)
            return ssl_plain.layer_outputs(
                encoder, self._project(frames, masked), batch.valid
            )
        batch = self._pack(n_frames, n_rows, is_padded, frames.device)
        if masked is not None:
            masked = batch.pack(masked)
        outputs = ssl_transformer.layer_outputs(
            encoder,
            self._project(batch.pack(frames), masked),
            batch,
            self.checkpoint_layers,
            span,
            self.pieces,
        )
        return outputs if packed else map(batch.pad, outputs)

    @property
    def _span(self):
        if self.attention_span_s is None:
            return None
        return round(self.attention_span_s * SAMPLE_RATE_HZ / self.hop_length)

    def _pack(self, n_frames, n_rows, is_padded, device):
        if onednn.is_traced() and not is_padded:
            return PackedBatch.without_padding(n_rows)
        # The released code goes on with what padded frames have become.
        wanted = not is_padded or self._is_exact
        if wanted and onednn.suits(device):
            return PackedBatch.packed(n_frames, n_rows)
        return PackedBatch.masked(n_frames, n_rows, device)

    def _project(self, frames, masked=None):
        projected = self.model.feature_projection(frames)
        # WavLM's and wav2vec 2.0's also return their normed input.
        if isinstance(projected, tuple):
            projected = projected[0]
        if masked is None:
            return projected
        stand_in = self.model.masked_spec_embed.to(projected.dtype)
        return torch.where(masked, stand_in, projected)

    @property
    def _is_fast(self):
        # What is recorded for export must not decide by data.
        return self.fast and not onednn.is_traced()


def _each(reps, recording):
    # Another's gradient mode must not be changed between two of ours.
    reps = iter(reps)
    while True:
        with torch.set_grad_enabled(recording):
            rep = next(reps, None)
        if rep is None:
            return
        yield rep

"""Waveforms to the layer representations of a self-supervised encoder.

Built on the model classes of transformers (WavLM, HuBERT, wav2vec 2.0, base
and large style). The models' own ``forward`` is not used, for three reasons:
it does not always return the last layer before the final norm; base-style
models normalise their first convolution over the padded row; and SpeechBrain's
lobes normalise the waveform over the padded row.
"""

import math
import warnings
from typing import NamedTuple

import torch
import transformers
from torch import nn

from merit_modules.errors import InputError
from merit_modules.filterbank import mel_gabor_filters
from merit_modules.padding import check_rule, released_frames
from merit_modules.shapes import absolute_lengths, valid_mask

MODEL_TYPES = ("wavlm", "hubert", "wav2vec2")

# Raised inside transformers' WavLM attention, which mixes a boolean padding
# mask with its float position bias on purpose.
warnings.filterwarnings(
    "ignore", message="Support for mismatched key_padding_mask"
)


class SSLOutput(NamedTuple):
    """All layer representations of a batch.

    Arguments
    ---------
    layer_reps : tuple of torch.Tensor
        L tensors (B, T, D): the transformer's input after the position
        convolution, then the output of each layer. Rows beyond an utterance's
        valid frames have no meaning.
    n_frames : torch.Tensor
        Frames per utterance (B,) that the transformer took for real.
    """

    layer_reps: tuple
    n_frames: torch.Tensor


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
        :mod:`merit_modules.padding`. A whole system follows its encoder's.

    Raises
    ------
    InputError
        If the model is of another kind or there is no such rule.

    Example
    -------
    >>> from merit_modules.tiny import TINY_SSL
    >>> encoder = RandomSSLEncoder("wavlm", TINY_SSL)
    >>> out = encoder(torch.randn(2, 16000), torch.tensor([1.0, 0.5]))
    >>> len(out.layer_reps), out.layer_reps[0].shape, out.n_frames
    (3, torch.Size([2, 49, 16]), tensor([49, 24]))
    """

    def __init__(self, model, train_front_end=False, padding_rule="exact"):
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
        # Dropping layers would change which representation is which.
        model.config.layerdrop = 0.0
        self.set_frozen(False)

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

    def forward(self, wavs, wav_lens=None):
        """Encode.

        Arguments
        ---------
        wavs : torch.Tensor
            Normalised waveforms (B, N), 16 kHz.
        wav_lens : torch.Tensor, optional
            Relative lengths (B,); all 1 by default.

        Returns
        -------
        SSLOutput
            Layer representations and valid frames.
        """
        if wav_lens is None:
            wav_lens = torch.ones(wavs.shape[0], device=wavs.device)
        n_samples = absolute_lengths(wav_lens, wavs.shape[1])
        missing = max(0, self.receptive_field - wavs.shape[1])
        wavs = nn.functional.pad(wavs, (0, missing))
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and not self.frozen
        ):
            return self._encode(wavs, n_samples)

    def _encode(self, wavs, n_samples):
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and self.train_front_end
        ):
            frames = self._front_end(wavs, n_samples)
        projected = self.model.feature_projection(frames.transpose(1, 2))
        if isinstance(projected, tuple):  # wav2vec 2.0 also returns its input
            projected = projected[0]
        n_rows = projected.shape[1]
        if self.padding_rule == "exact":
            n_frames = self.count_frames(n_samples)
        else:
            n_frames = released_frames(n_samples, wavs.shape[1], n_rows)
        valid = valid_mask(n_frames, n_rows)
        layer_reps = self._transformer(
            projected, None if valid.all() else valid
        )
        return SSLOutput(layer_reps, n_frames)

    def _front_end(self, wavs, n_samples):
        frames = wavs.unsqueeze(1)
        padded = bool((n_samples < wavs.shape[1]).any())
        padded = padded and self.padding_rule == "exact"
        for layer in self.model.feature_extractor.conv_layers:
            norm = getattr(layer, "layer_norm", None)
            if padded and isinstance(norm, nn.GroupNorm):
                frames = layer.conv(frames)
                stride, kernel = layer.conv.stride[0], layer.conv.kernel_size[0]
                n_valid = (n_samples - kernel) // stride + 1
                frames = masked_instance_norm(frames, n_valid, norm)
                frames = layer.activation(frames)
            else:
                frames = layer(frames)
        return frames

    def _transformer(self, frames, valid):
        # Hooks see the representations before any later norm, whatever the
        # installed release of transformers returns as its hidden states.
        layer_reps = []

        def keep_input(_, args, kwargs):
            layer_reps.append(args[0] if args else kwargs["hidden_states"])

        def keep_output(_, args, output):
            is_tuple = isinstance(output, tuple)
            layer_reps.append(output[0] if is_tuple else output)

        layers = self.model.encoder.layers
        hooks = [
            layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)
        ]
        hooks += [layer.register_forward_hook(keep_output) for layer in layers]
        try:
            self.model.encoder(frames, attention_mask=valid)
        finally:
            for hook in hooks:
                hook.remove()
        return tuple(layer_reps)


def masked_instance_norm(frames, n_valid, norm):
    """Apply a one-channel-per-group GroupNorm over valid frames only.

    Arguments
    ---------
    frames : torch.Tensor
        Channels over time (B, C, T).
    n_valid : torch.Tensor
        Valid frames per utterance (B,).
    norm : torch.nn.GroupNorm
        Gives weight, bias and epsilon.

    Returns
    -------
    torch.Tensor
        Normalised frames (B, C, T).

    Example
    -------
    >>> norm = nn.GroupNorm(2, 2)
    >>> x = torch.randn(1, 2, 6)
    >>> padded = torch.cat([x, torch.ones(1, 2, 3)], dim=-1)
    >>> y = masked_instance_norm(padded, torch.tensor([6]), norm)
    >>> torch.allclose(y[..., :6], norm(x), atol=1e-5)
    True
    """
    valid = valid_mask(n_valid, frames.shape[-1]).unsqueeze(1)
    count = n_valid[:, None, None]
    mean = (frames * valid).sum(-1, keepdim=True) / count
    centred = (frames - mean) * valid
    variance = centred.square().sum(-1, keepdim=True) / count
    normed = centred * torch.rsqrt(variance + norm.eps)
    return normed * norm.weight[:, None] + norm.bias[:, None]


class PretrainedSSLEncoder(SSLEncoder):
    """An SSL encoder with the weights of a hub name or a local folder.

    Arguments
    ---------
    source : str
        Hub name (``microsoft/wavlm-large``) or folder in transformers' form.
    save_path : str, optional
        Folder for downloads; transformers' own cache by default.
    train_front_end : bool
        See :class:`SSLEncoder`.
    padding_rule : str
        See :class:`SSLEncoder`.

    Raises
    ------
    InputError
        If the source cannot be loaded.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> from merit_modules.tiny import TINY_SSL
    >>> encoder = RandomSSLEncoder("wavlm", TINY_SSL)
    >>> encoder.model.save_pretrained(folder)
    >>> PretrainedSSLEncoder(str(folder)).n_layer_reps
    3
    """

    def __init__(
        self,
        source,
        save_path=None,
        train_front_end=False,
        padding_rule="exact",
    ):
        try:
            model = transformers.AutoModel.from_pretrained(
                source, cache_dir=save_path
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"SSL source {source!r}: expected the name of a model on the "
                "hub or a folder with config.json and weights; transformers "
                f"says: {error}"
            ) from error
        super().__init__(model, train_front_end, padding_rule)


class RandomSSLEncoder(SSLEncoder):
    """An SSL encoder with random weights, from a configuration.

    Arguments
    ---------
    model_type : str
        ``wavlm``, ``hubert`` or ``wav2vec2``.
    config : dict
        Keys of the transformers configuration of that type.
    train_front_end : bool
        See :class:`SSLEncoder`.
    filterbank : bool
        Let the first convolution start as a bank of band-pass filters instead
        of noise: with little data, what it would have to learn first.
    padding_rule : str
        See :class:`SSLEncoder`.

    Raises
    ------
    InputError
        If the type or a key is unknown.

    Example
    -------
    >>> from merit_modules.tiny import TINY_SSL
    >>> RandomSSLEncoder("hubert", TINY_SSL).dim
    16
    """

    def __init__(
        self,
        model_type,
        config,
        train_front_end=True,
        filterbank=False,
        padding_rule="exact",
    ):
        if model_type not in MODEL_TYPES:
            raise InputError(
                f"SSL model_type: expected one of {', '.join(MODEL_TYPES)}, "
                f"got {model_type!r}"
            )
        known = transformers.AutoConfig.for_model(model_type).to_dict()
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise InputError(
                f"SSL config: unknown for {model_type}: {', '.join(unknown)}"
            )
        config = transformers.AutoConfig.for_model(model_type, **config)
        super().__init__(
            transformers.AutoModel.from_config(config),
            train_front_end,
            padding_rule,
        )
        if filterbank:
            self._start_as_filterbank()

    @torch.no_grad()
    def _start_as_filterbank(self):
        first = self.model.feature_extractor.conv_layers[0].conv
        n_filters, _, n_taps = first.weight.shape
        first.weight.copy_(mel_gabor_filters(n_filters, n_taps))
        if first.bias is not None:
            # A norm over the channels hides how loud a frame is, unless the
            # channels have something of their own to compare it with.
            first.bias.copy_(torch.linspace(-1.0, 1.0, n_filters))

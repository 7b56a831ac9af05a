"""The SSL models as transformers compute them: the plain path.

The models' own ``forward`` is not used, for two reasons: it does not always
return the last layer before the final norm, and base-style models normalise
their first convolution over the padded row. What is faster is measured and
tested against this.
"""

import pickle
import re
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import safetensors
import torch
import transformers
from torch import nn

from merit_modules.errors import InputError
from merit_modules.lengths import valid_mask

# Raised inside transformers' WavLM attention, which mixes a boolean padding
# mask with its float position bias on purpose.
warnings.filterwarnings(
    "ignore", message="Support for mismatched key_padding_mask"
)


#: What comes with this package, name to folder.
SHIPPED = {"mini": str(Path(__file__).with_name("mini"))}
#: What a model may lack: the stand-in for frames that pre-training masked.
NOT_NEEDED = ("masked_spec_embed",)
#: What a file must not hold beside a model's own: the same parts of another
#: one. What follows them in pre-training may be there.
OF_THE_MODEL = r"(^|\.)(feature_extractor|feature_projection|encoder)\."


def load_model(source, save_path=None):
    """Load a model of transformers, with every tensor accounted for.

    transformers gives random values to what a file lacks and goes on.

    Arguments
    ---------
    source : str
        ``mini``, hub name, or folder in transformers' form.
    save_path : str, optional
        Folder for downloads; transformers' own cache by default.

    Returns
    -------
    transformers.PreTrainedModel
        The model in fp32, whatever the precision of the file.

    Raises
    ------
    InputError
        If the source cannot be read, or naming the tensors that are missing,
        of another shape, or of another model.
    """
    place = SHIPPED.get(source, source)
    try:
        with _no_bar() if Path(str(place)).is_dir() else nullcontext():
            model, found = transformers.AutoModel.from_pretrained(
                place, cache_dir=save_path, output_loading_info=True
            )
    except (safetensors.SafetensorError, pickle.UnpicklingError) as error:
        raise InputError(
            f"SSL source {source!r}: its weights cannot be read ({error}): a "
            "download that was cut, or a pointer in place of the file (git lfs "
            "pull)?"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_found(source, error) from error
    problems = {
        "missing": set(found["missing_keys"]) - set(NOT_NEEDED),
        "of another model": {
            key
            for key in found["unexpected_keys"]
            if re.search(OF_THE_MODEL, key)
        },
        "of another shape": {key[0] for key in found["mismatched_keys"]},
    }
    told = [
        f"{kind}: {', '.join(sorted(keys)[:3])}"
        + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        for kind, keys in problems.items()
        if keys
    ]
    if told:
        raise InputError(
            f"SSL source {source!r}: its weights are not those of a "
            f"{model.config.model_type} of its config.json; {'; '.join(told)}"
        )
    return model.float()


@contextmanager
def _no_bar():
    """Leave out the bar of what takes no time: there is nothing to download."""
    bars = transformers.utils.logging
    was_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            bars.enable_progress_bar()


def load_config(source, save_path=None):
    """Load what a model is built from; see :func:`load_model`."""
    try:
        return transformers.AutoConfig.from_pretrained(
            SHIPPED.get(source, source), cache_dir=save_path
        )
    except (OSError, ValueError) as error:
        raise _not_found(source, error) from error


def _not_found(source, error):
    return InputError(
        f"SSL source {source!r}: expected {', '.join(SHIPPED)}, the name of a "
        "model on the hub or a folder with config.json and weights; "
        f"transformers says: {error}"
    )


def encode_waves(conv_layers, wavs, n_samples=None):
    """Run the convolutional front end.

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
    >>> layers = model.feature_extractor.conv_layers
    >>> encode_waves(layers, torch.randn(2, 16000)).shape
    torch.Size([2, 49, 8])
    """
    frames = wavs.unsqueeze(1)
    for layer in conv_layers:
        frames = apply_convolution(layer, frames, n_samples)
    return frames.transpose(1, 2)


def apply_convolution(layer, frames, n_samples=None):
    """Run a layer of the front end.

    Arguments
    ---------
    layer : torch.nn.Module
        The transformers' layer.
    frames : torch.Tensor
        Its input (B, C, T); for one that norms over time, waveforms.
    n_samples : torch.Tensor, optional
        See :func:`encode_waves`.

    Returns
    -------
    torch.Tensor
        Its output (B, C, T).
    """
    norm = getattr(layer, "layer_norm", None)
    if n_samples is None or not isinstance(norm, nn.GroupNorm):
        return layer(frames)
    frames = layer.conv(frames)
    stride, kernel = layer.conv.stride[0], layer.conv.kernel_size[0]
    n_valid = ((n_samples - kernel) // stride + 1).clamp_min(1)
    return layer.activation(_masked_instance_norm(frames, n_valid, norm))


def layer_outputs(encoder, frames, valid=None):
    """Run the transformer.

    Hooks see the representations before any later norm, whatever the installed
    release of transformers returns as its hidden states.

    Arguments
    ---------
    encoder : torch.nn.Module
        The transformers' encoder.
    frames : torch.Tensor
        Projected frames (B, T, D).
    valid : torch.Tensor, optional
        Mask (B, T) of real frames; all by default.

    Returns
    -------
    tuple of torch.Tensor
        Representations (B, T, D): the transformer's input after the position
        convolution, then the output of each layer.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> encoder = tiny_system().ssl_encoder.model.encoder
    >>> len(layer_outputs(encoder, torch.rand(1, 5, 16)))
    3
    """
    outputs = []

    def keep_input(_, args, kwargs):
        outputs.append(args[0] if args else kwargs["hidden_states"])

    def keep_output(_, args, output):
        is_tuple = isinstance(output, tuple)
        outputs.append(output[0] if is_tuple else output)

    layers = encoder.layers
    hooks = [layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
    hooks += [layer.register_forward_hook(keep_output) for layer in layers]
    try:
        encoder(frames, attention_mask=valid)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(outputs)


def _masked_instance_norm(frames, n_valid, norm):
    """Apply a one-channel-per-group GroupNorm over valid frames only."""
    n_valid = n_valid.to(frames.device, non_blocking=True)
    valid = valid_mask(n_valid, frames.shape[-1]).unsqueeze(1)
    count = n_valid[:, None, None]
    mean = (frames * valid).sum(-1, keepdim=True) / count
    centred = (frames - mean) * valid
    variance = centred.square().sum(-1, keepdim=True) / count
    normed = centred * torch.rsqrt(variance + norm.eps)
    return normed * norm.weight[:, None] + norm.bias[:, None]


def checkpoint_layers(model, wanted):
    """Tell transformers' own layers, by either name that this has there."""
    named = hasattr(model, "activation_checkpointing_enable")
    prefix = "activation" if named else "gradient"
    if wanted:
        enable = getattr(model, f"{prefix}_checkpointing_enable")
        enable({"use_reentrant": False})
    else:
        getattr(model, f"{prefix}_checkpointing_disable")()

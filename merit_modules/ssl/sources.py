"""Where the weights of an SSL encoder come from."""

import transformers

from merit_modules.errors import InputError
from merit_modules.ssl import plain as ssl_plain
from merit_modules.ssl.encoder import MODEL_TYPES, SSLEncoder
from merit_modules.ssl.front_end import start_as_filterbank


class PretrainedSSLEncoder(SSLEncoder):
    """An SSL encoder with the weights of a hub name or a local folder.

    Arguments
    ---------
    source : str
        ``mini``, which comes with this package, hub name
        (``microsoft/wavlm-large``) or folder in transformers' form.
    save_path : str, optional
        Folder for downloads; transformers' own cache by default.
    pretrained : bool
        False: random weights, of the source's sizes, and a front end that is
        trained and starts as a filterbank. To see what pretraining brings.
    **options : dict
        As :class:`SSLEncoder` takes them.

    Raises
    ------
    InputError
        If the source cannot be loaded, or a tensor is missing or another
        model's.

    Example
    -------
    >>> encoder = PretrainedSSLEncoder("mini")
    >>> encoder.n_layer_reps, encoder.dim
    (5, 256)
    """

    def __init__(self, source, save_path=None, pretrained=True, **options):
        if pretrained:
            model = ssl_plain.load_model(source, save_path)
        else:
            options.setdefault("train_front_end", True)
            model = transformers.AutoModel.from_config(
                ssl_plain.load_config(source, save_path)
            ).float()
            start_as_filterbank(model.feature_extractor.conv_layers[0])
        super().__init__(model, **options)


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
    fast : bool
        See :class:`SSLEncoder`.
    checkpoint_layers : bool
        See :class:`SSLEncoder`.
    attention_span_s : float, optional
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
        fast=True,
        checkpoint_layers=False,
        attention_span_s=None,
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
            fast,
            checkpoint_layers,
            attention_span_s,
        )
        if filterbank:
            start_as_filterbank(self.model.feature_extractor.conv_layers[0])

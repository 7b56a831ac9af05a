"""What the YAML of a folder names beside the system: see ``pretrained``."""

from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.fetching import FetchSource
from speechbrain.utils.parameter_transfer import Pretrainer

from merit_modules.weights import load_weights


class FolderPretrainer(Pretrainer):
    """SpeechBrain's Pretrainer for weights that lie beside the YAML file.

    The base class looks for ``<loadable>.ckpt`` there; these files keep their
    own names and hold no pickle.

    Arguments
    ---------
    loadables : dict
        Name to the module to load.
    weight_files : dict
        Name to the file's name.

    Example
    -------
    >>> import safetensors.torch
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> folder = getfixture("tmp_path")
    >>> safetensors.torch.save_file(layer.state_dict(), folder / "w")
    >>> pretrainer = FolderPretrainer({"layer": layer}, {"layer": "w"})
    >>> _ = pretrainer.collect_files(folder)
    >>> pretrainer.load_collected()
    """

    def __init__(self, loadables, weight_files):
        super().__init__(
            loadables=loadables,
            custom_hooks=dict.fromkeys(loadables, load_weights),
        )
        self.weight_files = weight_files

    def collect_files(self, default_source=None, *args, **kwargs):
        """Find the files; see SpeechBrain's ``Pretrainer``.

        Arguments
        ---------
        default_source : str, Path or FetchSource
            Where the YAML file lies.
        *args : tuple
            As SpeechBrain takes them.
        **kwargs : dict
            As SpeechBrain takes them.

        Returns
        -------
        dict
            Name to local path.
        """
        for name, file in self.weight_files.items():
            if isinstance(default_source, FetchSource):
                kind, source = default_source
                self.paths[name] = FetchSource(kind, f"{source}/{file}")
            else:
                self.paths[name] = f"{default_source}/{file}"
        return super().collect_files(default_source, *args, **kwargs)


def label_encoder(labels):
    """Make SpeechBrain's encoder between classes and their numbers.

    Arguments
    ---------
    labels : sequence of str
        Classes in the order of the logits.

    Returns
    -------
    speechbrain.dataio.encoder.CategoricalEncoder
        The encoder.

    Example
    -------
    >>> import torch
    >>> encoder = label_encoder(["sad", "happy"])
    >>> encoder.decode_torch(torch.tensor([1, 0]))
    ['happy', 'sad']
    """
    encoder = CategoricalEncoder()
    for number, label in enumerate(labels):
        encoder.enforce_label(label, number)
    encoder.expect_len(len(labels))
    return encoder

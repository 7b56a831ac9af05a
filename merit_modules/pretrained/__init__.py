"""A trained system as a folder that SpeechBrain and this package can load.

``hyperparams.yaml`` builds the system, ``model.safetensors`` holds its weights
(the statistics of the normaliser among them), ``about.json`` says where they
come from and ``README.md`` tells people about it (the last two where there is
something to tell). ``speechbrain.inference.interfaces.Pretrained.from_hparams``
reads the same folder. No pickle is involved. The YAML names the classes to
build: SpeechBrain builds any, this package those of a model alone, unless told
to trust the folder (:mod:`merit_modules.pretrained.trust`).
"""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "load": "PARTS encoder_of load_folder load_parts read_about",
        "weights": "load_weights",
        "save": "ABOUT_FILE CARD_FILE FolderPretrainer HPARAMS_FILE "
        "WEIGHTS_FILE check_replaceable label_encoder save_folder system_yaml",
    },
)

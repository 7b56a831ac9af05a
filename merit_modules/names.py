"""Names that last: what rooms show of their files, and what files were called.

YAML files, exported folders and checkpoints name classes. They name the room
(``merit_modules.moe.ExpertMixture``), so that a class can move to another file
of its room; and the names of earlier versions go on working.
"""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings


def exports(room, names):
    """Make a room show names of its files, each loaded when it is asked for.

    Arguments
    ---------
    room : str
        The room's ``__name__``.
    names : dict
        File (without ``.py``) to the names it shows, parted by spaces.

    Returns
    -------
    callable
        The room's ``__getattr__``.
    list of str
        The room's ``__all__``.

    Example
    -------
    >>> get, shown = exports("merit_modules", {"errors": "InputError"})
    >>> shown, get("InputError").__name__
    (['InputError'], 'InputError')
    """
    file_of = {
        name: file for file, shown in names.items() for name in shown.split()
    }

    def get(name):
        if name not in file_of:
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        module = importlib.import_module(f"{room}.{file_of[name]}")
        return getattr(module, name)

    return get, sorted(file_of)


class OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by the names that they had in version 0.1."""

    def find_spec(self, fullname, path=None, target=None):
        """Find a module that has moved; see ``importlib``."""
        package, _, old = fullname.partition(".")
        if package != __package__ or old not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec):
        """Load the module from where it is now."""
        new = _new_name(spec.name)
        warnings.warn(
            f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2
        )
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        """Leave it as it is: it was run under its new name."""
        module.__spec__ = module.__spec__.loader_state

    def get_code(self, fullname):
        """Give the code for ``python -m`` with an old name."""
        spec = importlib.util.find_spec(_new_name(fullname))
        if spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{spec.name}.__main__")
        return spec.loader.get_code(spec.name)


def _new_name(fullname):
    package, _, old = fullname.partition(".")
    return f"{package}.{MOVED[old]}"


def find_old_modules():
    """Let imports by old names succeed, with a DeprecationWarning."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        # First: a package that has moved shows others where its files are,
        # which would be loaded a second time.
        sys.meta_path.insert(0, OldModules())


#: Where the modules of version 0.1 are: to a room the old names, each with
#: ``=`` and the name of its file where that is another one.
_ROOMS = {
    "": (
        "cascade=system normalization=system packing=lengths padding=lengths "
        "shapes=lengths"
    ),
    "commands": (
        "__main__ data.offline.__main__=mix demo evaluate processes "
        "released.__main__=convert report.__main__=report"
    ),
    "commands.analyze": (
        "commands.fingerprint=job_log commands.inputs commands.job_log "
        "commands.progress=run commands.recordings=options "
        "commands.result_files commands.running=run "
        "commands.settings_file=job_log commands.streams"
    ),
    "commands.demo": (
        "demo.figures demo.files demo.fragments demo.limits=gate "
        "demo.listening demo.page demo.server demo.spectrogram=figures"
    ),
    "cpu": (
        "convolution_windows=prepacked fast_path=onednn full_precision "
        "onednn prepacked quantization=int8"
    ),
    "data": "data.statistics=pipelines miniemo seeding",
    "data.miniemo": (
        "miniemo.espeak miniemo.noise miniemo.prepare miniemo.speech "
        "miniemo.waveform"
    ),
    "data.noise": (
        "data.noise_choice=choice data.noise_corpora=corpora "
        "data.noise_corpus=corpus data.noise_forms=forms "
        "data.noise_settings=settings"
    ),
    "data.offline": "data.paired=read data.paired_writer=write",
    "evaluation": (
        "cost expert_removal metrics peak_memory=cost routing_log "
        "score_table=run_folder voicing=routing_log"
    ),
    "evaluation.metrics": (
        "metrics.attributes metrics.classification metrics.composite "
        "metrics.dnsmos metrics.enhancement metrics.scoring metrics.table"
    ),
    "export": (
        "export.corpus=card_metadata export.data_text=card_text "
        "export.front_matter=card_metadata export.run=finished_run "
        "export.system_text=card_text export.weights=averaging "
        "onnx_export=onnx"
    ),
    "export.onnx": (
        "onnx_export.blstm onnx_export.export=writer onnx_export.graph "
        "onnx_export.node_names=quantize onnx_export.products=spectrum "
        "onnx_export.quantize onnx_export.runtime"
    ),
    "heads": "blstm=se pooling=ser se_head=se ser_head=ser spectral",
    "inference": (
        "inference.feeder=windows inference.joiner=windows "
        "inference.resampling=audio inference.se_stage=assembler "
        "inference.sinks=audio inference.sources=audio norm_folding=prepack "
        "prepacking=prepack"
    ),
    "losses": "losses.weighting=joint",
    "moe": "experts layer_mix mixture routers task_features=mixture task_sums",
    "pretrained": "description folder_parts=save saving=save weights",
    "released": (
        "released.sizes=naming "
        "released.source=files "
        "released.wavlm_config=wavlm"
    ),
    "report": "routing_analysis significance summary summary_table=summary",
    "report.significance": (
        "significance.bootstrap significance.comparison "
        "significance.paired_tests significance.permutation "
        "significance.scores"
    ),
    "ssl": (
        "filterbank=front_end ssl_attention=attention "
        "ssl_encoder=sources ssl_front_end=front_end ssl_plain=plain "
        "ssl_transformer=transformer"
    ),
    "training": (
        "brain checkpoints conflict gradients recipe surgery=gradients "
        "targets tracking"
    ),
}

#: Old name of a module, below the package, to its name today.
MOVED = {
    old: f"{room}.{file or old.rpartition('.')[2]}".lstrip(".")
    for room, names in _ROOMS.items()
    for old, _, file in (name.partition("=") for name in names.split())
}

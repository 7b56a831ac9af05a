"""Write a system as one ONNX file that says all that a user has to know."""

import importlib.util
import json
import logging
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

import merit_modules
from merit_modules.errors import InputError
from merit_modules.export.onnx.blstm import translations
from merit_modules.export.onnx.graph import graph_of
from merit_modules.export.onnx.quantize import name_after_parts, quantize

#: Oldest release of the operators that has all that is used (GELU).
OPSET = 20

#: Samples of the example that the graph is recorded with.
_EXAMPLE = 8000


def export_onnx(
    system,
    path,
    labels,
    sample_rate_hz=16000,
    facts=None,
    opset=OPSET,
    int8=False,
):
    """Export a system for onnxruntime.

    The graph takes ``wav`` (1, N), one waveform of any length as it comes from
    a file, and gives those of ``enhanced`` (1, N), ``logits`` (1, C),
    ``expert_se`` and ``expert_ser`` (1, T) that the system has. Weights of
    more than 2 GB go to a second file beside it, named ``<path>.data``.

    Arguments
    ---------
    system : JointSystem or CascadeSystem
        The system; it is left as it is.
    path : str or Path
        File to write; an earlier one is replaced.
    labels : sequence of str
        Emotions in the order of the logits.
    sample_rate_hz : int
        Sampling rate of the waveforms that it takes.
    facts : dict, optional
        More that a user of the system may ask for: ``ser_target``,
        ``attribute_scale``, ``corpus_name``, ``system_name``.
    opset : int
        Release of the ONNX operators, 20 or later.
    int8 : bool
        Keep the weights of linear layers in 8 bits, except those of routers,
        and compute their products in 8 bits. Convolutions and the BLSTM stay
        as they are.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If onnx or onnxscript is missing, the system is not complete, or the
        file cannot be written.
    """
    if opset < OPSET:
        raise InputError(f"opset: expected {OPSET} or later, got {opset}")
    check_packages()
    path = Path(path)
    graph = graph_of(system)
    n_min = min_samples(system)
    told = _metadata(system, graph.tasks, labels, sample_rate_hz, n_min, facts)
    with _quiet():
        program = _trace(graph, n_min, opset)
        program.model.metadata_props.update(told)
        _write(program, path, int8)
    return path


def min_samples(system):
    """Tell how few samples a graph takes.

    Arguments
    ---------
    system : JointSystem or CascadeSystem
        The system.

    Returns
    -------
    int
        Number of samples: what the STFT needs to be reflected at the ends,
        and what a front end that normalises over time needs for one frame.
        Other SSL encoders continue a shorter waveform with zeros.

    Example
    -------
    >>> from merit_modules.tiny import tiny_system
    >>> min_samples(tiny_system())
    400
    >>> min_samples(tiny_system(feat_extract_norm="layer"))
    201
    """
    needed = [2]
    if system.se_head is not None:
        needed.append(system.se_head.spectrum.n_fft // 2 + 1)
    for part in (system, getattr(system, "front_end", system)):
        if part.ssl_encoder.model.config.feat_extract_norm == "group":
            needed.append(part.ssl_encoder.receptive_field)
    return max(needed)


def check_packages():
    """Check that what an export needs is installed.

    Raises
    ------
    InputError
        If onnx, onnxscript or onnxruntime is not.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"export to ONNX needs {name}: pip install "
                "onnx onnxscript onnxruntime"
            )


def _trace(graph, n_min, opset):
    example = torch.randn(1, max(_EXAMPLE, 2 * n_min))
    n_samples = torch.export.Dim("n_samples", min=n_min)
    with torch.no_grad():
        names = list(graph(example))
    # With gradients on, the parts take the way that is written for training:
    # it makes new tensors and fills none, which is what a graph can say.
    with torch.enable_grad():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            dynamic_shapes={"wav": {1: n_samples}},
            input_names=["wav"],
            output_names=names,
            opset_version=opset,
            custom_translation_table=translations(),
            verbose=False,
        )
    name_after_parts(program.model.graph)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of code, on this machine
        node.doc_string = None
    return program


@contextmanager
def _quiet():
    # Advice on packages and steps that are not wanted here.
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _metadata(system, tasks, labels, sample_rate_hz, n_min, facts):
    experts = getattr(system.mixture, "experts", ())
    told = {
        "tasks": tasks,
        "labels": list(labels),
        "sample_rate_hz": sample_rate_hz,
        "hop_length": system.ssl_encoder.hop_length,
        "min_samples": n_min,
        "n_experts": len(experts),
        "merit_modules": merit_modules.__version__,
        "ser_target": "emotion",
        **{k: v for k, v in (facts or {}).items() if v is not None},
    }
    return {f"merit.{key}": json.dumps(value) for key, value in told.items()}


def _write(program, path, int8):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".onnx-", dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error
    try:
        made = folder / path.name
        program.save(made)
        if int8:
            (folder / "int8").mkdir()
            quantize(made, folder / "int8" / path.name)
            made = folder / "int8" / path.name
        data = f"{path.name}.data"
        path.with_name(data).unlink(missing_ok=True)
        if made.with_name(data).exists():
            made.with_name(data).replace(path.with_name(data))
        made.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)

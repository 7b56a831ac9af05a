"""Linear layers of an exported system in 8 bits."""

import ast
import math

from merit_modules.cpu.full_precision import is_kept
from merit_modules.errors import InputError

#: Weights of 8 bits beyond which they go to a file of their own: a protobuf
#: message holds less than 2 GiB.
_LARGE = 2**31 - 2**24


def quantize(source, path):
    """Write a model whose linear layers have weights of 8 bits.

    Each output of a layer has a scale of its own; activations are scaled as
    they come. What :mod:`merit_modules.cpu.int8` names stays in fp32
    here, too, but for WavLM's gate, which is no part of its own in a graph.

    Arguments
    ---------
    source : Path
        An exported system.
    path : Path
        File to write.

    Raises
    ------
    InputError
        If the nodes do not say which part of the system they are in.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    if not any(_part_of(node.name) for node in model.graph.node):
        raise InputError(
            f"{source}: expected nodes named after parts of a system, as "
            "export_onnx() names them, got none: export it again"
        )
    n_weights = sum(math.prod(x.dims) for x in model.graph.initializer)
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_kept_nodes(model),
        use_external_data_format=n_weights > _LARGE,
    )


def _kept_nodes(model):
    """Find the products that stay in fp32."""
    vectors = {
        weight.name
        for weight in model.graph.initializer
        if len(weight.dims) < 2
    }
    names = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and (node.input[1] in vectors or is_kept(_part_of(node.name)))
    ]
    # It takes a Gemm apart first.
    return names + [f"{name}_MatMul" for name in names]


#: What PyTorch's exporter tells of a node: the parts that it was called in,
#: from the whole to the smallest, then the operation.
_SCOPES = "pkg.torch.onnx.name_scopes"


def name_after_parts(graph):
    """Put the part of the system in front of the name of each node.

    Arguments
    ---------
    graph : onnx_ir.Graph
        A graph that PyTorch's exporter has just made; renamed in place.
    """
    for node in graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        if scopes[:-1] and scopes[-2]:
            node.name = f"{scopes[-2]}/{node.name}"


def _part_of(name):
    """Read the part of the system from the name of a node."""
    return name.rpartition("/")[0]

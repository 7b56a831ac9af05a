"""Nodes of a graph bear the name of the part of the system that they are in."""

import ast

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


def part_of(name):
    """Read the part of the system from the name of a node.

    Arguments
    ---------
    name : str
        The name.

    Returns
    -------
    str
        The part, with dots between its own parts; empty if it is not known.

    Example
    -------
    >>> part_of("system.mixture.routers.se/node_linear_15")
    'system.mixture.routers.se'
    >>> part_of("node_linear_15")
    ''
    """
    return name.rpartition("/")[0]

"""Modules never import upwards, and every module has a known place."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "merit_modules"

#: From what knows nothing of the rest to what knows everything.
LAYERS = [
    {
        "errors",
        "seeding",
        "shapes",
        "convolution_windows",
        "filterbank",
        "processes",
        "peak_memory",
        "voicing",
        "fast_path",
        "full_precision",
    },
    {"onednn"},
    {"prepacked"},
    {"padding", "spectral", "normalization", "blstm", "hparams", "score_table"},
    {"packing", "ssl_plain", "ssl_attention", "weights"},
    {"ssl_front_end", "ssl_transformer", "folder_parts"},
    {"ssl_encoder", "task_features", "checkpoints"},
    {"routing_log"},
    {"routing_analysis"},
    {"layer_mix", "experts", "routers", "pooling"},
    {"mixture", "task_sums", "se_head", "ser_head"},
    {"norm_folding", "quantization"},
    {"prepacking"},
    {"system"},
    {"description"},
    {"saving"},
    {"tiny", "gradients", "pretrained", "cascade", "cost", "expert_removal"},
    {"released", "conflict", "surgery"},
    {"tracking", "targets", "summary_table"},
    {"brain", "evaluation", "summary"},
    {"recipe", "inference", "onnx_export"},
    {"evaluate", "report", "export"},
    {"demo"},
    {"commands"},
]
#: Packages beside the model: what each may import of the others.
SIDES = {
    "data": {"errors", "seeding", "hparams"},
    "losses": {"errors", "shapes"},
    "metrics": {"errors"},
    "significance": set(),
    "miniemo": {"errors", "seeding", "data"},
}
#: Who may import which side package.
TOP = {
    "tracking",
    "targets",
    "summary",
    "summary_table",
    "conflict",
    "brain",
    "evaluation",
    "recipe",
    "report",
    "inference",
    "export",
    "commands",
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            yield path.relative_to(PACKAGE).with_suffix("").parts


def imports_of(parts):
    """Names (package or module) of this project that a module imports."""
    tree = ast.parse(PACKAGE.joinpath(*parts).with_suffix(".py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {
                f"{node.module}.{alias.name}" for alias in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    found = {n.split(".")[1] for n in names if n.startswith("merit_modules.")}
    return {name for name in found if is_module(name)}


def is_module(name):
    return (PACKAGE / name).is_dir() or Path(PACKAGE / f"{name}.py").is_file()


def rank(name):
    found = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert len(found) == 1, f"{name} is in {len(found)} of LAYERS, not in one"
    return found[0]


@pytest.mark.parametrize("parts", list(modules()), ids="/".join)
def test_no_upward_import(parts):
    name = parts[0]
    if name in SIDES:
        assert imports_of(parts) - {name} <= SIDES[name]
        return
    own = rank(name)
    for other in imports_of(parts) - {name}:
        if other in SIDES:
            assert name in TOP, f"{name} imports {other}"
        else:
            assert rank(other) < own, f"{name} imports {other}"


def test_the_check_can_fail():
    assert "system" in imports_of(("tiny",))
    assert rank("system") > rank("spectral")
    with pytest.raises(AssertionError, match="in 0 of LAYERS"):
        rank("no_such_module")

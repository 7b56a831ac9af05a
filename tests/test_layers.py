"""Rooms import downwards only, and nobody gets lost in them."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "merit_modules"

#: From what knows nothing of the rest to what knows everything. A room or
#: file imports from lower floors alone, and from the rest of its own room.
FLOORS = [
    {"errors", "names"},
    {"cpu", "files", "hparams", "lengths"},
    {"ssl", "moe", "heads", "losses", "data"},
    {"system", "pretrained"},
    {"evaluation", "tiny"},
    {"inference", "training", "report", "released"},
    {"export"},
    {"commands"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(text):
    """Modules that a text imports, as far as one can tell without names."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name


def rooms_imported(text):
    found = {
        name.split(".")[1]
        for name in imported_modules(text)
        if name.startswith("merit_modules.")
    }
    return found & set().union(*FLOORS)


def floor_of(room):
    found = [i for i, floor in enumerate(FLOORS) if room in floor]
    assert len(found) == 1, f"{room} is on {len(found)} of FLOORS, not on one"
    return found[0]


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_upward_import(path):
    room = room_of(path)
    if room == "__init__":
        assert rooms_imported(path.read_text()) <= {"names"}
        return
    for other in rooms_imported(path.read_text()) - {room}:
        assert floor_of(other) < floor_of(room), f"{room} imports {other}"


def test_no_file_imports_itself_through_others():
    graph = {}
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph[name.removesuffix(".__init__")] = path
    needs = {
        name: {
            module
            for found in imported_modules(path.read_text())
            for module in (found, found.rpartition(".")[0])
            if module in graph and module != name
        }
        for name, path in graph.items()
    }
    # Rooms load their files when asked: their own import needs none.
    while free := [name for name, others in needs.items() if not others]:
        for name in free:
            del needs[name]
        for others in needs.values():
            others -= set(free)
    assert not needs


def test_the_check_can_fail():
    text = "from merit_modules.commands import folds\nimport merit_modules.ssl"
    assert rooms_imported(text) == {"commands", "ssl"}
    assert floor_of("system") > floor_of("heads")
    with pytest.raises(AssertionError, match="on 0 of FLOORS"):
        floor_of("no_such_room")


def test_few_files_stand_beside_the_rooms():
    beside = list(PACKAGE.glob("*.py"))
    assert len(beside) <= 8, beside
    rooms = {p.parent for p in PACKAGE.glob("*/*.py")}
    assert len(rooms) <= 14, rooms
    assert {room_of(path) for path in MODULES} - {"__init__"} == set().union(
        *FLOORS
    )


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 500


#: What sparse MERIT is made of, by the names that its YAML has.
SPARSE_MERIT = """
from merit_modules.heads import AttentiveStatsPooling, LogSpectrum
from merit_modules.heads import SEHead, SERHead
from merit_modules.moe import ExpertMixture, ExpertPool, LayerNormConcat
from merit_modules.moe import TopKRouter
from merit_modules.ssl import SSLEncoder
from merit_modules.system import JointSystem, WaveformNormalizer
import sys
print(*sorted(
    name for name, module in sys.modules.items()
    if name.startswith("merit_modules.")
    and not module.__file__.endswith("__init__.py")
))
"""


def test_the_forward_pass_is_read_in_few_files():
    found = subprocess.run(
        [sys.executable, "-c", SPARSE_MERIT],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    assert "merit_modules.moe.mixture" in found
    assert len(found) <= 18, found


def test_importing_the_package_loads_no_torch():
    subprocess.run(
        [
            *(sys.executable, "-c"),
            "import merit_modules, sys; assert 'torch' not in sys.modules",
        ],
        check=True,
        cwd=ROOT,
    )

"""What all recipes have in common."""

import ast

from tests.conftest import ROOT

RECIPES = sorted(ROOT.glob("recipes/*/joint_se_ser/train.py"))


def code_of(path):
    """A script without its first text, which names its corpus."""
    tree = ast.parse(path.read_text())
    return ast.unparse(tree.body[1:])


def test_all_recipes_take_the_same_steps():
    assert len(RECIPES) >= 4
    for path in RECIPES:
        assert code_of(path) == code_of(ROOT / "train.py"), path
        assert ast.get_docstring(ast.parse(path.read_text()))

"""What is meant to be equal in several files, and ``make fix-copies``.

A section of a YAML file begins with ``# ---- Title``: sections of one title
are equal in all files, but for ``This experiment``. All ``train.py`` are equal
below their docstrings, and equal to ``merit_modules/training/recipe.py``.

    python -m tests.helpers.copies hparams/sparse_merit.yaml

takes the sections of that file, or the steps of a ``train.py``, for right and
writes them into all others.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = "This experiment"
RECIPE = ROOT / "merit_modules" / "training" / "recipe.py"


def experiments():
    """List all YAML files that a user names."""
    patterns = ("hparams/*.yaml", "recipes/*/joint_se_ser/hparams/*.yaml")
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def scripts():
    """List all files that hold the steps of a recipe."""
    return [
        RECIPE,
        ROOT / "train.py",
        *ROOT.glob("recipes/*/joint_se_ser/train.py"),
    ]


def sections(text):
    """Take a YAML text apart: what is above the sections, title to text."""
    head, *parts = re.split(r"^# ---- ", text, flags=re.M)
    pairs = (part.partition("\n") for part in parts)
    return head, {title: body.strip("\n") for title, _, body in pairs}


def joined(head, found):
    """Undo :func:`sections`."""
    parts = [f"# ---- {title}\n{body}\n" for title, body in found.items()]
    return head + "\n".join(parts)


def steps(text):
    """Take a script apart: docstring and steps."""
    end = text.index('"""\n', text.index('"""') + 3) + 4
    return text[:end], text[end:]


def fix(source):
    """Write what a file says into all others; return those that changed."""
    source, changed = Path(source).resolve(), []
    text = source.read_text(encoding="utf-8")
    is_script = source.suffix == ".py"
    for path in scripts() if is_script else experiments():
        before = path.read_text(encoding="utf-8")
        if is_script:
            after = steps(before)[0] + steps(text)[1]
        else:
            (head, found), (_, right) = sections(before), sections(text)
            right.pop(OWN, None)
            found |= {k: v for k, v in right.items() if k in found}
            after = joined(head, found)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for path in fix(name):
            print(f"written: {path.relative_to(ROOT)}")

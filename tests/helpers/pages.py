"""What README and docs print: commands and snippets, and a shell for them."""

import os
import re
import shlex
import subprocess
import sys

from tests.conftest import ROOT
from tests.helpers import forking

#: A page that a stranger reads, by its path in the repository.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "recipes/**/README.md")
    for path in sorted(ROOT.glob(pattern))
}
#: Commands stand for themselves: this interpreter, this checkout.
SHELL = f"""
merit() {{ {shlex.quote(sys.executable)} -m merit_modules.commands "$@"; }}
python() {{ {shlex.quote(sys.executable)} "$@"; }}
set -e -o pipefail
"""


def blocks(page, language):
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.M | re.S)


def commands(page):
    """Return what a page has in its bash blocks, a command a line.

    A loop is one command, whatever it holds.
    """
    found = []
    for block in blocks(page, "bash"):
        text = re.sub(r"\\\n\s*", "", block)
        text = re.sub(r"(^|\s+)#.*$", "", text, flags=re.M)
        if re.search(r"^for ", text, re.M):
            found.append(block)
        else:
            found += [line for line in text.splitlines() if line]
    return found


def run(command, folder):
    """Run a printed command in a folder; without a shell if none is needed."""
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if not re.search(r"[|&;<>$`()*?~\n]", command.strip()):
        program, *words = shlex.split(command)
        if program == "merit":
            words = ["-m", "merit_modules.commands", *words]
        if program in ("merit", "python"):
            return forking.run(words, folder, **env)
    return subprocess.run(
        ["bash", "-c", SHELL + command],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )


def fill(command, **places):
    """Put paths in the place of a command's capital words."""
    pattern = r"\b(" + "|".join(places) + r")\b"
    return re.sub(pattern, lambda m: shlex.quote(str(places[m[1]])), command)

"""Write ``docs/keys.md`` anew from what the code says of every key.

python -m tests.helpers.keys_page
"""

from merit_modules.training.defaults import DEFAULTS
from merit_modules.training.keys import SECTIONS
from tests.conftest import ROOT

HOW = "python -m tests.helpers.keys_page writes it anew"
PATH = ROOT / "docs" / "keys.md"
HEAD = """\
# Keys of the YAML files

What each key is, and what its value has to be. A value that is not is named
before anything is built or written. `python train.py HPARAMS.yaml --help` shows
the same beside a file's own values. A file need not state what has a default
here. Keys of your own are not checked; what the file builds (`!new:`,
`!apply:`) is checked when it is built.
"""


def text():
    """Make the page."""
    parts = [HEAD]
    for title, keys in SECTIONS.items():
        parts.append(
            f"\n## {title}\n\n| key | what it is | value | default |\n"
        )
        parts.append("|---|---|---|---|\n")
        for key, (kind, about) in keys.items():
            default = ""
            if key in DEFAULTS:
                value = DEFAULTS[key]
                default = "`null`" if value is None else f"`{value!r}`"
            parts.append(f"| `{key}` | {about} | {kind.told} | {default} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")

"""The authors' released checkpoints: read, run, convert.

Their pickled parts are read without running any code in them. On the command
line::

    python -m merit_modules.released RELEASE_DIR OUT_DIR
"""

from merit_modules.released.convert import convert, read_release
from merit_modules.released.inference import load_release

__all__ = ["convert", "load_release", "read_release"]

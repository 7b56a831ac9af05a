"""The authors' released checkpoints: read, run, convert.

Their pickled parts are read without running any code in them. On the command
line::

    merit convert RELEASE_DIR OUT_DIR
"""

from merit_modules.names import exports

__getattr__, __all__ = exports(
    __name__,
    {
        "converter": "convert read_release",
        "inference": "load_release",
    },
)

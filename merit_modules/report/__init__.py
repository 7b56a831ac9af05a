"""From the folders of finished runs to the tables of a paper."""

from merit_modules.names import exports

__getattr__, __all__ = exports(__name__, {"report": "write_report"})

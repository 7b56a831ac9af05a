"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import pytest
import speechbrain  # noqa: F401  registers its lazy modules
from speechbrain.utils.importutils import LazyModule

# Hypothesis asks every loaded module for its file, which SpeechBrain's lazy
# stand-ins of optional packages answer with an ImportError.
for module in list(sys.modules.values()):
    if isinstance(module, LazyModule):
        module.__dict__.setdefault("__file__", None)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared_folder(name):
    folder = SHARED / name
    if folder.is_dir():
        return folder
    message = f"{folder} is not here: these reference values are not public"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def golden():
    """Folder with inputs and outputs of the authors' released code."""
    return _shared_folder("golden")


@pytest.fixture(scope="session")
def shared_data():
    """Folder with real emotional speech and real noise."""
    return _shared_folder("data")

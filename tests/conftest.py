"""Fixtures shared by all tests."""

import os
import sys
import tempfile
from pathlib import Path

from merit_modules.commands.processes import threads_each

# Processes of pytest-xdist share the cores. Before PyTorch is loaded.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    n_threads = threads_each(int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))

import hypothesis
import pytest
import speechbrain  # noqa: F401  registers its lazy modules
from speechbrain.utils.importutils import LazyModule

from merit_modules.cpu import onednn
from merit_modules.data.miniemo import prepare
from merit_modules.data.miniemo.prepare import NOISE_SETS
from merit_modules.data.miniemo.speech import VOICES
from tests.helpers.yaml_files import changed

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Hypothesis asks every loaded module for its file, which SpeechBrain's lazy
# stand-ins of optional packages answer with an ImportError.
for module in list(sys.modules.values()):
    if isinstance(module, LazyModule):
        module.__dict__.setdefault("__file__", None)

# What is found in audio is kept for other runs: not among the user's own.
CACHE = tempfile.TemporaryDirectory(prefix="merit_tests")
os.environ["MERIT_CACHE"] = CACHE.name

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def _missing(path):
    message = f"{path} is not here: these reference values are not public"
    if os.environ.get("MERIT_REQUIRE_SHARED"):
        pytest.fail(message)
    pytest.skip(message)


class GoldenFolder:
    """Reference values: a small public set, and the rest where it is."""

    public, private = ROOT / "tests" / "golden", SHARED / "golden"

    def __truediv__(self, name):
        for folder in (self.public, self.private):
            if (folder / name).exists():
                return folder / name
        return _missing(self.private / name)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Compute on a CPU what a GPU would."""
    monkeypatch.delenv("MERIT_FAST_PATH", raising=False)
    monkeypatch.setattr(onednn, "suits", lambda device: False)
    monkeypatch.setattr(onednn, "_is_possible", lambda x, weight: False)


@pytest.fixture(scope="session")
def golden():
    """Folder with inputs and outputs of the authors' released code."""
    return GoldenFolder()


@pytest.fixture(scope="session")
def shared_data():
    """Folder with real emotional speech and real noise."""
    folder = SHARED / "data"
    return folder if folder.is_dir() else _missing(folder)


@pytest.fixture(scope="session")
def shared():
    """Folder with other people's inputs: files that others stumbled over."""
    return SHARED if (SHARED / "field").is_dir() else _missing(SHARED)


@pytest.fixture(scope="session")
def miniemo(tmp_path_factory):
    """Folder with a part of MiniEmo: one sentence a voice and emotion.

    It has half of the training voices and fewer noises of each type, for speed.
    Its stamp says nothing of that: commands take it as it is.
    """
    folder = tmp_path_factory.mktemp("MiniEmo")
    few = {k: (types, min(n, 6)) for k, (types, n) in NOISE_SETS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VOICES, "train", VOICES["train"][:12])
        patch.setattr(prepare, "NOISE_SETS", few)
        prepare.prepare_miniemo(
            folder / "audio", folder / "manifests", n_sentences=1
        )
    return folder / "audio"


@pytest.fixture
def tiny_experiment(miniemo, tmp_path):
    """A YAML file that trains a tiny system on the smallest MiniEmo."""
    return write_tiny_experiment(tmp_path / "tiny.yaml", miniemo)


def write_tiny_experiment(path, miniemo):
    """Write that YAML file."""
    shipped = ROOT / "hparams" / "sparse_merit.yaml"
    path.write_text(changed(shipped, TINY_EXPERIMENT.format(miniemo=miniemo)))
    return path


TINY_EXPERIMENT = """
data_folder: {miniemo}
n_sentences: 1
stage_1_epochs: 1
stage_2_epochs: 1
batch_length_s: 40.0
num_workers: 0
num_metric_workers: 0
metrics: [seg_snr_db, si_sdr_db]
test_snrs_db: [0]
test_clean: False
n_examples: 1
measure_cost: False
expert_hidden: 16
expert_output: 8
expert_start: apart
ser_hidden: 8
se_hidden: 8
ssl_encoder: !new:merit_modules.ssl.RandomSSLEncoder
    model_type: wavlm
    filterbank: True
    config:
        conv_dim: [16, 16, 16]
        conv_kernel: [400, 2, 2]
        conv_stride: [80, 2, 2]
        feat_extract_norm: layer
        hidden_size: 16
        num_hidden_layers: 2
        num_attention_heads: 2
        intermediate_size: 32
        do_stable_layer_norm: True
        num_conv_pos_embeddings: 16
        num_conv_pos_embedding_groups: 2
"""

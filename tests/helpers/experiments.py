"""The YAML files that users name: which there are, and what they ask for."""

import re
from pathlib import Path

from merit_modules.pretrained import save_folder
from merit_modules.ssl import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL, tiny_system
from tests.conftest import ROOT
from tests.helpers.copies import experiments

EXPERIMENTS = experiments()
#: Every system that the paper or the study compares, on every corpus.
SYSTEMS = {
    "sparse_merit",
    "dense_merit",
    "residual_merit",
    "weighted_sum_experts",
    "weighted_sum_experts_dense",
    "layer_mixing_experts",
    "layer_mixing_experts_dense",
    "naive_mtl",
    "se_only",
    "ser_only",
    "ser_only_clean",
    "cascade",
}


def name_of(path):
    """Name a file for pytest."""
    where = path.relative_to(ROOT).parts
    return f"{where[1] if where[0] == 'recipes' else 'MiniEmo'}-{path.stem}"


def overrides_of(path, tmp_path):
    text = path.read_text()
    placeholders = re.findall(r"^(\w+): !PLACEHOLDER", text, re.M)
    values = {key: str(tmp_path) for key in placeholders}
    if "manifest_csv" in values:
        values["manifest_csv"] = str(tmp_path / "corpus.csv")
        Path(values["manifest_csv"]).write_text("wav,emo\na.wav,x\nb.wav,y\n")
    if re.search(r"^ssl_source:", text, re.M):
        # In place of trained weights, which come from elsewhere.
        values["ssl_source"] = str(tmp_path / "ssl")
        model = RandomSSLEncoder("wavlm", TINY_SSL).model
        model.save_pretrained(tmp_path / "ssl")
    if "init_from" in values:
        values["init_from"] = str(tmp_path / "release")
        save_folder(tiny_system(), values["init_from"], list("abcd"))
    return {**values, "output_folder": str(tmp_path)}

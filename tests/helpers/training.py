"""Short trainings, in this process and as a user's command."""

from pathlib import Path

from merit_modules.hparams import format_overrides, keys_of, load_hparams
from merit_modules.ssl import RandomSSLEncoder
from merit_modules.training import experiment, recipe
from merit_modules.training.defaults import with_defaults
from merit_modules.training.start import first_experiment, set_weights
from tests.conftest import CACHE, ROOT
from tests.helpers import forking
from tests.helpers.experiments import EXPERIMENTS

#: The systems of MiniEmo that need no trained encoder.
NAMES = [
    path.stem
    for path in EXPERIMENTS
    if path.parent == ROOT / "hparams" and not path.stem.endswith("_base")
]


def tiny_source():
    """Write an encoder that is smaller than ``mini``; return its folder."""
    folder = Path(CACHE.name) / "ssl"
    config = {
        "conv_dim": [16, 16, 16],
        "conv_kernel": [400, 2, 2],
        "conv_stride": [80, 2, 2],
        "feat_extract_norm": "layer",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }
    encoder = RandomSSLEncoder("wavlm", config, filterbank=True)
    encoder.model.save_pretrained(folder)
    return str(folder)


SHORT = {
    "n_sentences": 1,
    "stage_1_epochs": 1,
    "stage_2_epochs": 1,
    "num_workers": 0,
    "num_metric_workers": 0,
    "metrics": ["si_sdr_db"],
    "test_snrs_db": [0],
    "test_clean": False,
    "measure_cost": False,
    "grad_accumulation_factor": 1,
    "gradient_conflict_interval": 3,
    "ssl_source": tiny_source(),
}


def make_short(name, miniemo, folder, **changes):
    """Build one of the shipped experiments, shortened."""
    path = ROOT / "hparams" / f"{name}.yaml"
    overrides = {**SHORT, "data_folder": str(miniemo), **changes}
    overrides["output_folder"] = str(folder)
    known = keys_of(path.read_text())
    overrides = {k: v for k, v in overrides.items() if k in known}
    hparams = load_hparams(path, overrides)
    experiment.begin_run(
        path, format_overrides(overrides), hparams, hparams["prepare"]
    )
    data = recipe.dataio_prepare(hparams)
    run_opts = {"device": "cpu", "noprogressbar": True}
    for key in ("grad_accumulation_factor", "max_grad_norm"):
        run_opts[key] = hparams[key]

    def train_first(other):
        options = format_overrides(overrides)
        first = first_experiment(path, other, options, folder)
        brain, _, _ = recipe.train(first[0], run_opts, first[1])
        brain.load_best()
        return brain.system

    keys = ("init_from", "init_experiment", "init_parts")
    options = {key: hparams[key] for key in (*keys, "front_end_experiment")}
    set_weights(hparams["system"], train_first, **options)
    return recipe.make_brain(hparams, run_opts, data), hparams, data


def run_short(name, miniemo, folder, **changes):
    """Train and test one of them."""
    brain, hparams, data = make_short(name, miniemo, folder, **changes)
    recipe.fit(brain, hparams, data)
    recipe.evaluate(brain, hparams, data)
    return brain


KILLER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from merit_modules.training.brain import JointBrain
from merit_modules.training import recipe

def kill_in_the_middle(self, *args):
    epoch = self.hparams.epoch_counter.current
    if (epoch, self.step) == ({epoch}, {step}):
        os.kill(os.getpid(), signal.SIGKILL)

JointBrain.on_fit_batch_end = kill_in_the_middle
recipe.main(sys.argv[1:])
"""


def run_train(path, output_folder, *overrides, kill_at=None):
    """Run train.py in a process of its own."""
    words = ["train.py"]
    if kill_at is not None:
        epoch, step = kill_at
        code = KILLER.format(root=str(ROOT), epoch=epoch, step=step)
        words = ["-c", code]
    words += [path, "--output_folder", output_folder, "--noprogressbar"]
    return forking.run([*words, *overrides])


def last_checkpoint(output_folder):
    return sorted((output_folder / "save").glob("CKPT+*"))[-1]


def start(path, tmp_path, **overrides):
    folder = str(tmp_path / "run")
    options = {"output_folder": folder, **overrides}
    options = "".join(f"{key}: {value}\n" for key, value in options.items())
    hparams = load_hparams(path, options)
    hparams = with_defaults(hparams, path)
    experiment.begin_run(path, options, hparams, hparams["prepare"])
    return hparams


def train(hparams, **run_opts):
    data = recipe.dataio_prepare(hparams)
    run_opts = {"device": "cpu", "noprogressbar": True, **run_opts}
    brain = recipe.make_brain(hparams, run_opts, data)
    recipe.fit(brain, hparams, data)
    return brain

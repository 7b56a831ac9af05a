#!/usr/bin/env python3
"""Train and test a joint system on IEMOCAP with real noise.

> python train.py hparams/sparse_merit.yaml \
      --data_folder /corpora/IEMOCAP_full_release \
      --noise_folder /corpora/noise --fold 1
"""

import sys

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main

from merit_modules.training.datasets import load_data
from merit_modules.training.experiment import as_command, load_experiment
from merit_modules.training.recipe import evaluate, fit, make_brain


def main(argv):
    """Train and test what the YAML file of the command line describes."""
    hparams, run_opts, to_save = load_experiment(argv)
    sb.create_experiment_directory(**to_save)
    run_on_main(hparams["prepare"])
    data = load_data(hparams)
    brain = make_brain(hparams, run_opts, data)
    fit(brain, hparams, data)
    evaluate(brain, hparams, data)


if __name__ == "__main__":
    sys.exit(as_command(main))

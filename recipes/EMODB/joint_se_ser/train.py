#!/usr/bin/env python3
"""Train and test a joint system on EMO-DB with real noise.

> python train.py hparams/sparse_merit.yaml \
      --data_folder /corpora/EMO-DB --noise_folder /corpora/noise
"""

import sys

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main

from merit_modules import recipe


def main(argv):
    """Prepare the data, train, test."""
    hparams, run_opts, to_save = recipe.load_experiment(argv)
    sb.create_experiment_directory(**to_save)
    run_on_main(hparams["prepare"])
    data = recipe.load_data(hparams)
    brain = recipe.make_brain(hparams, run_opts, data)
    recipe.fit(brain, hparams, data)
    recipe.evaluate(brain, hparams, data)


if __name__ == "__main__":
    sys.exit(recipe.run(main))

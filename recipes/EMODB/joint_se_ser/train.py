#!/usr/bin/env python3
"""Train and test a joint system on EMO-DB with real noise.

> python train.py hparams/sparse_merit.yaml \
      --data_folder /corpora/EMO-DB --noise_folder /corpora/noise
"""

import sys

from merit_modules.training import recipe

if __name__ == "__main__":
    sys.exit(recipe.run(recipe.train_and_test))

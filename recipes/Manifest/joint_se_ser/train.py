#!/usr/bin/env python3
"""Train and test a joint system on speech of one's own, listed in a CSV file.

> python train.py hparams/sparse_merit.yaml \
      --manifest_csv /corpora/mine/list.csv --noise_folder /corpora/noise
"""

import sys

from merit_modules.training import recipe

if __name__ == "__main__":
    sys.exit(recipe.run(recipe.train_and_test))

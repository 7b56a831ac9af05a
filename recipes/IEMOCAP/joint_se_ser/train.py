#!/usr/bin/env python3
"""Train and test a joint system on IEMOCAP with real noise.

> python train.py hparams/sparse_merit.yaml \
      --data_folder /corpora/IEMOCAP_full_release \
      --noise_folder /corpora/noise --fold 1
"""

import sys

from merit_modules.training import recipe

if __name__ == "__main__":
    sys.exit(recipe.run(recipe.train_and_test))

#!/usr/bin/env python3
"""Train and test a joint system on MiniEmo, the embedded corpus.

> python train.py hparams/sparse_merit.yaml

To train on speech that is real, see the folders under recipes/.
"""

import sys

from merit_modules.training import recipe

if __name__ == "__main__":
    sys.exit(recipe.run(recipe.train_and_test))

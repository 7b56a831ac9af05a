"""Two processes train as one, whatever experts are idle on one of them."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        (),
        (
            *("--gradient_surgery", "pcgrad", "--se_si_sdr_weight", "0"),
            *("--task_weighting", "uncertainty"),
        ),
    ],
    ids=["plain", "pcgrad-uncertainty"],
)
def test_two_processes_train_both_stages(tiny_experiment, tmp_path, options):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", "--nproc_per_node", "2"),
            *("train.py", str(tiny_experiment), "--noprogressbar"),
            *("--distributed_backend", "gloo", "--device", "cpu"),
            *("--output_folder", str(tmp_path / "run"), *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["validation"]["epoch"] in (1, 2)
    log = (tmp_path / "run" / "train_log.txt").read_text().splitlines()
    assert [line[:8] for line in log] == ["epoch: 1", "epoch: 2"]

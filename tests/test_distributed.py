"""Two processes train and test as one, whatever experts are idle on one."""

import json
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers import two_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """What came of training on halves of batches, by process."""
    folder = tmp_path_factory.mktemp("halves")
    paths = str(folder / "store"), folder, str(folder / "found")
    torch.multiprocessing.spawn(two_processes.run, paths, nprocs=2)
    return [
        torch.load(folder / f"found_{rank}.pt", weights_only=False)
        for rank in (0, 1)
    ]


def distance(one, other):
    return max(float((one[k] - other[k]).abs().max()) for k in one)


@pytest.mark.parametrize("case", [*two_processes.CASES, "repeated"])
def test_halves_of_a_batch_train_as_the_whole(halves, tmp_path, case):
    name, which = case, slice(None)
    if case == "repeated":  # the second process's batch counts nowhere
        name, which = "attributes", slice(0, 2)
    whole = two_processes.train(name, which, tmp_path)
    first, second = (found[case] for found in halves)
    assert distance(whole["weights"], first["weights"]) < 1e-6
    assert distance(first["weights"], second["weights"]) == 0.0
    for stats in ("stats_1", "stats_2"):
        assert first[stats] == second[stats]
        assert first[stats] == pytest.approx(whole[stats], abs=1e-6)


def test_the_comparison_can_fail(halves, tmp_path):
    """Without weighing, and experts are idle as is said."""
    whole = two_processes.train("plain", slice(None), tmp_path)
    first, second = (found["control"] for found in halves)
    assert distance(whole["weights"], first["weights"]) > 1e-4
    busy = list(zip(halves[0]["plain"]["busy"], halves[1]["plain"]["busy"]))
    assert ({0}, {0, 1}) in busy and ({0, 1}, {0}) in busy

"""Loggers get numbers, people a line."""

import logging
import sys
import types

import pytest
from speechbrain.utils.train_logger import WandBLogger

from merit_modules.training.tracking import one_line
from tests.helpers.training import start, train

pytestmark = pytest.mark.slow


def assert_numbers(stats):
    assert stats
    for key, value in stats.items():
        assert type(value) in (int, float), (key, value)


@pytest.fixture
def wandb(monkeypatch):
    """A module that notes what it is given."""
    given = []
    module = types.ModuleType("wandb")
    run = types.SimpleNamespace(
        log=lambda stats, step=None: given.append((stats, step))
    )
    module.init = lambda *args, **kwargs: run
    module.run = run
    module.log = run.log
    monkeypatch.setitem(sys.modules, "wandb", module)
    return given


def test_weights_and_biases_gets_numbers(tiny_experiment, tmp_path, wandb):
    hparams = start(tiny_experiment, tmp_path, number_of_epochs=1)
    hparams["train_logger"] = WandBLogger(initializer=sys.modules["wandb"].init)
    train(hparams)
    ((stats, step),) = wandb
    assert step == 1
    assert_numbers(stats["train"])
    assert_numbers(stats["valid"])
    assert {"se_load_0", "se_load_2", "f1_macro"} <= set(stats["valid"])


def test_any_logger_gets_numbers_once_an_epoch(tiny_experiment, tmp_path):
    calls = []
    logger = types.SimpleNamespace(
        log_stats=lambda *args, **kwargs: calls.append((args, kwargs))
    )
    hparams = start(tiny_experiment, tmp_path)
    hparams["train_logger"] = logger
    train(hparams)
    assert [args[0]["epoch"] for args, _ in calls] == [1, 2]
    for args, _ in calls:
        for stats in args:
            assert_numbers(stats)


def test_people_read_one_line_and_the_file_has_all(
    tiny_experiment, tmp_path, caplog
):
    hparams = start(tiny_experiment, tmp_path)
    with caplog.at_level(logging.INFO):
        train(hparams)
    told = [r.getMessage() for r in caplog.records if "loss train" in r.msg]
    assert len(told) == 2 and all(len(line) <= 100 for line in told)
    assert told[1].startswith("epoch 2/2: lr ") and "SI-SDR gain" in told[1]
    assert not any("se_load_0" in r.getMessage() for r in caplog.records)
    written = (tmp_path / "run" / "train_log.txt").read_text().splitlines()
    assert len(written) == 2 and "valid se_load_0:" in written[0]


def test_the_longest_line_fits_the_screen():
    stats = {"loss": -100.0, "ccc_mean": -1.0, "si_sdr_gain_db": -10.0}
    line = one_line({"epoch": 100, "lr": 1e-10}, 100, stats, stats)
    assert len(line) <= 100

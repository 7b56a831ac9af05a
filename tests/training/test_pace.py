"""What an epoch tells of its speed."""

import logging
import types

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from merit_modules.training import pace
from tests.helpers.training import start, train


class Clock:
    """A time that passes when it is told to."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


class Event:
    """A GPU's clock, which is behind the host's by what it has to do."""

    clock, busy_until = None, 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = max(self.clock.now, Event.busy_until)

    def synchronize(self):
        """The host may wait here; the clock of this test need not."""

    def elapsed_time(self, later):
        return 1000 * (later.at - self.at)


class Trained:
    """What takes an epoch, in place of SpeechBrain's Brain."""

    def __init__(self, clock, step_s, device="cpu"):
        self.device = device
        self.hparams = types.SimpleNamespace(
            sample_rate_hz=16000, num_workers=2
        )
        self.clock, self.step_s = clock, step_s

    def _fit_train(self, batches, epoch, enable):
        assert len(batches) == 4
        for _ in batches:
            if self.device == "cpu":
                self.clock.passes(self.step_s)
            else:  # it has work for so long; the host is done at once
                begin = max(self.clock.now, Event.busy_until)
                Event.busy_until = begin + self.step_s


class Timed(pace.TellsItsPace, Trained):
    pass


class Loader(list):
    """Four batches of 3 s of audio in 4 s, the first after half a minute."""

    def __init__(self, clock, seconds):
        items = [{"noisy_wav": torch.zeros(n)} for n in (32000, 16000)]
        super().__init__([PaddedBatch(items)] * 4)
        self.clock, self.seconds = clock, [30.0, *[seconds] * 3]

    def __iter__(self):
        for batch, seconds in zip(super().__iter__(), self.seconds):
            self.clock.passes(seconds)
            yield batch


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(Event, "clock", clock)
    monkeypatch.setattr(Event, "busy_until", 0.0)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for name in ("reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 3 * 2**29)
    return clock


def test_waits_for_data_are_told_but_not_for_the_first_batch(clock, caplog):
    brain = Timed(clock, step_s=8.0)
    with caplog.at_level(logging.INFO):
        brain._fit_train(Loader(clock, seconds=2.0), 3, False)
    # Four steps and three waits.
    expected = {"audio_s_per_s": 12 / 38, "data_wait_share": 6 / 38}
    assert brain.pace_stats == pytest.approx(expected)
    assert "epoch 3: trained on 0.316 s of audio per second" in caplog.text
    assert "cpu waited for data 16 % of epoch 3: try more num" in caplog.text


@pytest.mark.parametrize("step_s, seconds", [(8.0, 0.5), (4.0, 2.0)])
def test_little_waiting_and_short_epochs_are_no_matter(
    clock, caplog, step_s, seconds
):
    Timed(clock, step_s)._fit_train(Loader(clock, seconds), 1, False)
    assert "num_workers" not in caplog.text


def test_a_gpu_that_has_work_does_not_wait(clock):
    """The host waits for each batch, the device only for what is left."""
    brain = Timed(clock, 8.0, "cuda:0")
    brain._fit_train(Loader(clock, seconds=6.0), 1, False)
    assert brain.pace_stats["data_wait_share"] == 0.0
    assert brain.pace_stats["peak_gib"] == 1.5
    brain = Timed(clock, 8.0, "cuda:0")
    clock.passes(100.0)
    brain._fit_train(Loader(clock, seconds=10.0), 1, False)
    assert brain.pace_stats["data_wait_share"] == pytest.approx(0.2)


def test_times_are_for_tensorboard_alone(tiny_experiment, tmp_path):
    """What the other log says does not depend on the machine."""
    hparams = start(tiny_experiment, tmp_path, number_of_epochs=1)
    shown = []
    hparams["gradient_conflict_interval"] = 0
    hparams["tensorboard_logger"] = types.SimpleNamespace(
        global_step={}, log_stats=lambda *stats: shown.append(stats)
    )
    brain = train(hparams)
    ((_, stats, _),) = shown
    assert stats["audio_s_per_s"] > 0 and 0 <= stats["data_wait_share"] < 1
    assert "audio_s_per_s" not in brain.train_stats
    written = (tmp_path / "run" / "train_log.txt").read_text()
    assert "loss" in written and "audio_s_per_s" not in written

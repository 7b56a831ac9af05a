"""SpeechBrain's schedulers: each is driven by its kind, and resumed."""

import pytest
import torch
from speechbrain.nnet import schedulers
from speechbrain.nnet.schedulers import NewBobScheduler, NoamScheduler

from merit_modules.errors import InputError
from merit_modules.training.brain import JointBrain
from merit_modules.training.schedule import Schedule
from tests.helpers.training import last_checkpoint, start, train
from tests.helpers.yaml_files import changed

NOAM = """
lr_annealing: !new:speechbrain.nnet.schedulers.NoamScheduler
    lr_initial: !ref <lr>
    n_warmup_steps: 4
"""
NEWBOB = """
lr_annealing: !new:speechbrain.nnet.schedulers.NewBobScheduler
    initial_value: !ref <lr>
    annealing_factor: 0.5
"""


def scheduled(scheduler, lr=0.1):
    """A schedule with two groups, one at half the rate."""
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr_factor": factor}
        for factor in (1.0, 0.5)
    ]
    schedule = Schedule(scheduler)
    schedule.optimizer = torch.optim.SGD(groups, lr=lr)
    return schedule


def rates(schedule):
    return [group["lr"] for group in schedule.optimizer.param_groups]


def test_newbob_halves_only_when_the_loss_stalls():
    schedule = scheduled(NewBobScheduler(0.1, annealing_factor=0.5))
    found = []
    for epoch, loss in enumerate((1.0, 0.8, 0.6, 0.6, 0.4), start=1):
        schedule.start_epoch(epoch)
        schedule.end_step(epoch)
        schedule.end_epoch(epoch, loss)
        found.append(rates(schedule))
    assert found == [[0.1, 0.05]] * 3 + [[0.05, 0.025]] * 2


def test_newbob_takes_negative_losses():
    schedule = scheduled(NewBobScheduler(0.1, annealing_factor=0.5))
    losses, found = (0.5, -1.0, -2.0, -2.0, -1.0, -3.0), []
    for epoch, loss in enumerate(losses, start=1):
        schedule.end_epoch(epoch, loss)
        found.append(rates(schedule)[0])
    assert found == [0.1, 0.1, 0.1, 0.05, 0.025, 0.025]
    assert schedule.scheduler.metric_values == list(losses)


def test_a_plateau_halves_after_its_patience():
    scheduler = schedulers.ReduceLROnPlateau(
        patience=1, dont_halve_until_epoch=0
    )
    schedule = scheduled(scheduler)
    found = []
    for epoch, loss in enumerate((1.0, 1.1, 1.1, 0.9), start=1):
        schedule.end_epoch(epoch, loss)
        found.append(rates(schedule)[0])
    assert found == [0.1, 0.1, 0.05, 0.05]


def test_noam_follows_its_curve():
    schedule = scheduled(NoamScheduler(0.1, n_warmup_steps=4))
    for step in range(1, 13):
        schedule.end_step(step)
        expected = 0.1 * 4**0.5 * min(step**-0.5, step * 4**-1.5)
        assert rates(schedule) == pytest.approx([expected, expected / 2])
    schedule.end_epoch(1, 9.0)
    schedule.start_epoch(2)
    assert rates(schedule)[0] == pytest.approx(expected)


#: Others that are called after each step: each must move the rate.
PER_STEP = {
    "WarmCoolDecayLRSchedule": (0.1, 2, 2, 20),
    "TriStageLRSchedule": (0.1, 2, 2, 2, 6),
    "CyclicCosineScheduler": (2, 0.1, 20),
    "LinearWarmupScheduler": (0.1, 2, 20),
    "LinearNoamScheduler": (0.1, 2, 2),
    "WarmAndExpDecayLRSchedule": (0.1, 2, 20),
    "InverseSquareRootScheduler": (2,),
}


@pytest.mark.parametrize("name", PER_STEP)
def test_others_by_step_are_driven(name):
    schedule = scheduled(getattr(schedulers, name)(*PER_STEP[name]))
    found = []
    for step in range(1, 9):
        schedule.end_step(step)
        first, second = rates(schedule)
        assert second == pytest.approx(first / 2)
        found.append(first)
    assert len(set(found)) > 2 and found[-1] < max(found)


def test_epochs_and_constant_rates():
    linear = schedulers.LinearScheduler(0.1, 0.0, 3)
    schedule = scheduled(linear)
    found = []
    for epoch in (1, 2, 3):
        schedule.start_epoch(epoch)
        schedule.end_step(epoch)
        found.append(rates(schedule))
    wanted = torch.tensor([[0.1, 0.05], [0.05, 0.025], [0.0, 0.0]])
    torch.testing.assert_close(torch.tensor(found), wanted)
    constant = scheduled(None)
    constant.start_epoch(1)
    constant.end_step(1)
    constant.end_epoch(1, 1.0)
    assert rates(constant) == [0.1, 0.05]


def test_what_cannot_be_driven_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    for other in (
        torch.optim.lr_scheduler.StepLR(optimizer, 1),
        schedulers.CyclicLRScheduler(),
        "linear",
    ):
        name = type(other).__name__
        with pytest.raises(InputError, match=f"lr_annealing: {name} cannot"):
            Schedule(other)


class Interrupted(Exception):
    """In place of a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("text", [NOAM, NEWBOB], ids=["noam", "newbob"])
def test_a_resumed_run_goes_on_with_its_rate(
    text, tiny_experiment, tmp_path, monkeypatch
):
    path = tmp_path / "scheduled.yaml"
    path.write_text(changed(tiny_experiment, text))
    whole = train(start(path, tmp_path / "a"), max_grad_norm=5.0)
    ending = JointBrain.on_fit_batch_end

    def interrupt(self, *args):
        ending(self, *args)
        if (self.hparams.epoch_counter.current, self.step) == (2, 2):
            raise Interrupted

    options = {"max_grad_norm": 5.0, "ckpt_interval_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(JointBrain, "on_fit_batch_end", interrupt)
        with pytest.raises(Interrupted):
            train(start(path, tmp_path / "b"), **options)
    again = train(start(path, tmp_path / "b"), **options)
    assert again.schedule.rate == whole.schedule.rate
    states = [vars(b.schedule.scheduler) for b in (whole, again)]
    assert states[0] == states[1]
    for folder in (tmp_path / "a", tmp_path / "b"):
        files = {p.name for p in last_checkpoint(folder / "run").iterdir()}
        assert "lr_annealing.ckpt" in files
    theirs = whole.system.state_dict()
    for key, value in again.system.state_dict().items():
        assert torch.equal(value, theirs[key]), key

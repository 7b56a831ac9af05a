"""The host never waits for a GPU but for the experts' counts: seen without one.

Tensors on PyTorch's device ``meta`` have shapes and no values: whatever asks
one for a value, as code that makes a GPU's host wait does, raises an error. So
does what mixes them with tensors on the CPU, where the lengths stay. Copies to
a device that make the host wait are looked for by name.

The Brain reads the loss as well, but late: its copy is under way before the
backward pass, and is read after that, when a GPU still has work.
"""

import contextlib
import types
from functools import partial

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from merit_modules.heads import PaddedBLSTM
from merit_modules.inference.prepack import arrange_
from merit_modules.losses import JointLoss
from merit_modules.moe import mixture
from merit_modules.tiny import tiny_system
from merit_modules.training import step
from merit_modules.training.brain import JointBrain
from merit_modules.training.targets import EmotionTarget
from merit_modules.training.tracking import EpochTracker

NO_VALUE = (NotImplementedError, RuntimeError)


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    """The device ``meta`` has none."""
    nothing = contextlib.nullcontext()
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nothing)


def take_step():
    """Compute the loss of a ragged batch and its gradients."""
    system = tiny_system().train().to("meta")
    wavs = torch.randn(2, 8000, device="meta")
    labels = torch.zeros(2, dtype=torch.long, device="meta")
    output = system(wavs, torch.tensor([1.0, 0.6]))
    loss = JointLoss(se_si_sdr=0.1, load_balance=0.01, router_z=0.001)
    loss(loss.terms(system, output, wavs, labels)).backward()
    assert output.n_samples.device.type == "cpu"
    return system


def all_to_the_first(features, experts, decisions, checkpoint_experts=False):
    """In place of what counts each expert's frames."""
    return [experts[0](features) * decision.weights for decision in decisions]


def test_only_the_counts_of_the_experts_are_waited_for(monkeypatch):
    with pytest.raises(NO_VALUE) as caught:
        take_step()
    assert caught.traceback[-1].name == "plan_dispatch"
    monkeypatch.setattr(mixture, "dispatch", all_to_the_first)
    system = take_step()
    assert system.se_head.output_layer.weight.grad is not None
    assert system.ser_head.pooling.projection.weight.grad is not None


@torch.no_grad()
def test_an_arranged_model_waits_for_nothing_else(monkeypatch):
    system = arrange_(tiny_system().to("meta"))
    assert not system.mixture.layer_mix.affine
    batch = torch.randn(2, 8000, device="meta"), torch.tensor([1.0, 0.6])
    with pytest.raises(NO_VALUE) as caught:
        system(*batch)
    assert caught.traceback[-1].name == "plan_dispatch"
    monkeypatch.setattr(mixture, "dispatch", all_to_the_first)
    enhanced = system.enhanced_wavs(system(*batch), 8000)
    assert enhanced.shape == (2, 8000)


def test_the_filled_up_lstm_asks_for_nothing():
    blstm = PaddedBLSTM(4, 3, num_layers=2).to("meta")
    frames = torch.randn(17, 9, 4, device="meta", requires_grad=True)
    output = blstm._in_filled_pieces(frames, torch.arange(17) % 9 + 1)
    output.sum().backward()
    assert frames.grad.shape == frames.shape
    with pytest.raises(NO_VALUE):
        blstm._packed(frames, torch.arange(17, device="meta") % 9 + 1)


@pytest.mark.parametrize(
    "asks", [lambda x: x.sum().item(), lambda x: bool(x.any()), torch.nonzero]
)
def test_the_check_can_fail(monkeypatch, asks):
    def curious(features, *args):
        asks(features)
        return all_to_the_first(features, *args)

    monkeypatch.setattr(mixture, "dispatch", curious)
    with pytest.raises(NO_VALUE):
        take_step()


# ---- the Brain --------------------------------------------------------------


class NoBlockingCopies(TorchDispatchMode):
    """Refuses copies to the device for which the host stands still."""

    def __torch_dispatch__(self, func, kinds, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and made.is_meta:
            is_waited_for = not (args[0].is_meta or kwargs.get("non_blocking"))
            assert not is_waited_for, "a copy to the device is waited for"
        return made


class NoNumbersFromPython(TorchFunctionMode):
    """Refuses ``torch.tensor(numbers, device=...)``, which is such a copy."""

    makers = torch.tensor, torch.as_tensor, torch.Tensor.new_tensor

    def __torch_function__(self, func, kinds, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func in self.makers and not isinstance(args[-1], torch.Tensor):
            assert not made.is_meta, "made on the CPU, then copied"
        return made


class FusedAdamW(torch.optim.AdamW):
    """AdamW as it is on a GPU, as far as the device ``meta`` can tell."""

    _step_supports_amp_scaling = True

    def step(self):
        asks = vars(self).pop("found_inf", None)
        assert asks is None or asks.is_meta
        super().step()


def brain_on_meta(tmp_path, **run_opts):
    emotions = list("abcd")
    manifest = {name: {"emo": name} for name in emotions}
    loss = JointLoss(se_si_sdr=0.1, load_balance=0.01, router_z=0.001)
    hparams = {
        "loss": loss,
        "output_folder": tmp_path,
        "epoch_counter": types.SimpleNamespace(current=1),
        "gradient_surgery": run_opts.pop("gradient_surgery", "none"),
    }
    brain = JointBrain(
        EmotionTarget({"train": manifest}, emotions),
        None,
        modules={"system": tiny_system(), "loss": loss},
        opt_class=partial(FusedAdamW, foreach=True),
        hparams=hparams,
        run_opts={"device": "meta", "max_grad_norm": 1.0, **run_opts},
    )
    brain.init_optimizers()
    brain.modules.train()
    return brain


def take_steps(brain, number=1):
    brain.nonfinite_count = 0
    items = [
        {
            "id": f"u{n}",
            "noisy_wav": torch.randn(n),
            "clean_wav": torch.randn(n),
            "ser_label": torch.tensor([0]),
        }
        for n in (8000, 4800)
    ]
    with NoBlockingCopies(), NoNumbersFromPython():
        for brain.step in range(1, number + 1):
            loss = brain.fit_batch(PaddedBatch(items))
            brain.avg_train_loss = brain.update_average(
                loss, brain.avg_train_loss
            )


@pytest.fixture
def read_late(monkeypatch):
    """What is copied from the device and read, in order with what is done."""
    done = []

    class ReadLate:
        def __init__(self, numbers):
            assert numbers.is_meta and numbers.numel() <= 2
            self.shape = numbers.shape
            done.append("copy")

        def value(self):
            done.append("read")
            return torch.full(self.shape, 0.5)

    def noting(name, way):
        def noted(*args):
            done.append(name)
            return way(*args)

        return noted

    monkeypatch.setattr(mixture, "dispatch", all_to_the_first)
    monkeypatch.setattr(step, "Later", ReadLate)
    for name in ("_backward", "optimizers_step"):
        way = noting(name.strip("_"), getattr(JointBrain, name))
        monkeypatch.setattr(JointBrain, name, way)
    return done


STEP = ["copy", "backward", "read", "optimizers_step"]


@pytest.mark.parametrize(
    "run_opts, expected",
    [
        ({}, STEP),
        ({"grad_accumulation_factor": 2}, [*STEP[:3], *STEP]),
        ({"nonfinite_patience": 1}, STEP),
        ({"gradient_surgery": "pcgrad"}, STEP),
        (  # the norm of one step is read in the next
            {"skip_nonfinite_grads": True},
            [*STEP, "copy", *STEP, "read", "copy"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_the_brain_reads_the_loss_late_and_nothing_else(
    tmp_path, read_late, run_opts, expected
):
    brain = brain_on_meta(tmp_path, **run_opts)
    take_steps(brain, expected.count("backward"))
    assert read_late == expected
    assert brain.avg_train_loss == 0.5
    assert brain.tracker._sums["ser_load"].is_meta


def test_the_brain_is_seen_to_wait(tmp_path, read_late, monkeypatch):
    to, tell = PaddedBatch.to, JointBrain._track

    def track(brain, *args):
        tell(brain, *args)
        float(brain.tracker._sums["ser_ce"])

    def at_once(batch, device, **options):
        return to(batch, device)

    brain = brain_on_meta(tmp_path)
    for owner, name, way, error in (
        (JointBrain, "_track", track, NO_VALUE),
        (PaddedBatch, "to", at_once, AssertionError),
        (step, "Later", torch.Tensor.tolist, NO_VALUE),
    ):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(owner, name, way)
            take_steps(brain)
    with pytest.raises(AssertionError), NoNumbersFromPython():
        torch.tensor([1.0], device="meta")


def test_a_scalar_of_a_gpu_is_waited_for_when_it_is_read(monkeypatch):
    done = []

    class Event:
        record = partial(done.append, "record")
        synchronize = partial(done.append, "synchronize")

    class OnGpu:
        is_cuda = True

        def detach(self):
            return self

        def to(self, device, non_blocking):
            assert device == "cpu" and non_blocking
            done.append("copy")
            return torch.tensor(2.0)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    later = step.Later(OnGpu())
    assert done == ["copy", "record"]
    assert later.value() == 2.0 and done[2:] == ["synchronize"]


def test_a_tracker_that_was_saved_goes_on_where_the_batches_are(tmp_path):
    """Sums are loaded on the CPU, where a vector cannot be added to."""
    tracker, resumed = EpochTracker(), EpochTracker()
    tracker.add("load", torch.tensor([0.5, 0.5]), 3)
    tracker._save(tmp_path / "tracker.pt")
    resumed._load(tmp_path / "tracker.pt", end_of_epoch=False)
    resumed.add("load", torch.ones(2, device="meta"), 3)
    assert resumed._sums["load"].is_meta

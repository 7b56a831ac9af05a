"""One batch in one process, or its halves in two that train as one."""

import os
from datetime import timedelta
from types import SimpleNamespace

import speechbrain as sb
import torch
import torch.distributed as dist
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.epoch_loop import EpochCounter

from merit_modules.losses import JointLoss
from merit_modules.tiny import tiny_system
from merit_modules.training.brain import JointBrain
from merit_modules.training.targets import AttributeTarget, EmotionTarget

NO_DROPOUT = dict.fromkeys(
    (
        *("hidden_dropout", "attention_dropout", "activation_dropout"),
        *("feat_proj_dropout", "layerdrop"),
    ),
    0.0,
)
LABELS = ["angry", "sad", "happy", "neutral"]
#: Utterances of a batch: emotion and seconds. Two for the first process, of
#: rare classes and long; three for the second one.
BATCH = [("angry", 0.9), ("sad", 0.4), *[("neutral", 0.1)] * 3]
#: What is trained, by name: options of the loss, and of the Brain.
CASES = {
    "plain": ({}, {}),
    "switch": ({"load_balance": 1.0, "router_z": 0.1, "se_si_sdr": 0.01}, {}),
    "switch-pool": ({"load_balance": 1.0, "balance_scope": "pool"}, {}),
    "kl": ({"load_balance": 1.0, "balance_loss": "kl"}, {}),
    "kl-pool": (
        {"load_balance": 1.0, "balance_loss": "kl", "balance_scope": "pool"},
        {},
    ),
    "uncertainty": ({"task_weighting": "uncertainty"}, {}),
    "pcgrad": (
        {"load_balance": 1.0, "task_weighting": "uncertainty"},
        {"gradient_surgery": "pcgrad"},
    ),
    "ser-only": ({"load_balance": 1.0}, {}),
    "attributes": ({"load_balance": 1.0}, {}),
}


def batch_of(which, step):
    generator = torch.Generator().manual_seed(step)
    items = []
    for i, (emotion, seconds) in enumerate(BATCH):
        clean, noise = torch.randn(
            2, round(16000 * seconds), generator=generator, dtype=torch.float64
        )
        items.append(
            {
                "id": f"utt{i}",
                "noisy_wav": clean + noise,
                "clean_wav": clean,
                "ser_label": torch.tensor([LABELS.index(emotion)]),
                "attributes": torch.randn(
                    2, generator=generator, dtype=torch.float64
                ),
            }
        )
    return PaddedBatch(items[which])


def make_brain(case, tmp_path):
    loss, options = CASES[case]
    torch.manual_seed(0)
    system = tiny_system(**NO_DROPOUT).double()
    for module in system.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if case == "ser-only":
        system.se_head = None
        del system.mixture.routers["se"]
    with torch.no_grad():  # one expert is idle now and then, one always
        for router in system.mixture.routers.values():
            router.linear.bias -= torch.tensor([0.0, 2.0, 100.0])
    manifest = {
        str(i): {"emo": label, "act": 4.0, "val": 4.0}
        for i, label in enumerate([*LABELS, "neutral", "neutral"])
    }
    target = EmotionTarget({"train": manifest}, LABELS)
    target.loss.class_weights = target.loss.class_weights.double()
    if case == "attributes":
        target = AttributeTarget({"train": manifest}, ["act", "val"], [1, 7])
        target.labels = lambda batch: batch.attributes.data
        system.ser_head.classifier[-1] = torch.nn.Linear(16, 2).double()
    loss = JointLoss(**loss)
    return JointBrain(
        target,
        SimpleNamespace(set_epoch=lambda epoch: None),
        modules={"system": system, "loss": loss},
        # Adam would turn the rounding of a gradient of 1e-9 into a full step.
        opt_class=lambda params: torch.optim.SGD(params, 0.1, momentum=0.9),
        hparams={
            "loss": loss,
            "epoch_counter": EpochCounter(2),
            "output_folder": str(tmp_path),
            "stage_1_epochs": 1,
            **options,
        },
        run_opts={
            "device": "cpu",
            "distributed_backend": "gloo",
            "noprogressbar": True,
            "max_grad_norm": 1.0,
        },
    )


def train(case, which, tmp_path, weighed=True, counts=True):
    """Take two steps in each stage; return what came of it."""
    brain, busy = make_brain(case, tmp_path), []
    if not weighed:
        brain._share_of = lambda *args: None
    brain._counts = lambda: counts

    def note_busy(batch, outputs, loss, should_step):
        routing = outputs.mixture.routing.values()
        chosen = torch.cat([d.expert_index.flatten() for d in routing])
        busy.append(set(chosen.tolist()))

    brain.on_fit_batch_end = note_busy
    brain.on_fit_start()
    found = {"busy": busy}
    for epoch in brain.hparams.epoch_counter:
        brain.on_stage_start(sb.Stage.TRAIN, epoch)
        brain.modules.train()
        for brain.step in (1, 2):
            brain.fit_batch(batch_of(which, step=10 * epoch + brain.step))
        brain.on_stage_end(sb.Stage.TRAIN, 0.0, epoch)
        brain.step = 0
        found[f"stats_{epoch}"] = brain.train_stats
    found["weights"] = brain.system.state_dict()
    return found


def run(rank, store, tmp_path, results):
    """Be one of two processes; for ``torch.multiprocessing.spawn``."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    which = slice(0, 2) if rank == 0 else slice(2, None)
    found = {case: train(case, which, tmp_path) for case in CASES}
    found["repeated"] = train("attributes", which, tmp_path, counts=rank == 0)
    found["control"] = train("plain", which, tmp_path, weighed=False)
    torch.save(found, f"{results}_{rank}.pt")
    dist.destroy_process_group()

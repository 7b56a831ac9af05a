"""SpeechBrain's run options do what they say."""

import logging
from pathlib import Path

import pytest
import torch
from speechbrain.utils.run_opts import RunOptions

from merit_modules.errors import InputError
from merit_modules.evaluation.run_folder import read_results
from merit_modules.training import recipe
from merit_modules.training.brain import JointBrain
from merit_modules.training.defaults import DEFAULTS, NEEDED
from merit_modules.training.experiment import as_command
from tests.conftest import ROOT
from tests.helpers.training import (
    last_checkpoint,
    make_short,
    start,
    train,
)
from tests.helpers.yaml_files import changed

pytestmark = pytest.mark.slow


def options_of(*words):
    return RunOptions.from_command_line_args(["x.yaml", *words])[1]


def make(hparams, *words):
    data = recipe.dataio_prepare(hparams)
    options = options_of("--device", "cpu", "--noprogressbar", *words)
    return recipe.make_brain(hparams, options, data), data


def test_vectors_are_not_decayed(tiny_experiment, tmp_path):
    for words, n_bare in (((), 0), (("--remove_vector_weight_decay",), 1)):
        hparams = start(tiny_experiment, tmp_path)
        brain, _ = make(hparams, *words)
        brain.init_optimizers()
        groups = brain.optimizer.param_groups
        bare = [g for g in groups if g["weight_decay"] == 0.0]
        assert bool(bare) == bool(n_bare)
        for group in groups:
            for parameter in group["params"]:
                if n_bare:
                    assert (parameter.ndim < 2) == (group["weight_decay"] == 0)
        held = sum(len(group["params"]) for group in groups)
        trained = [p for p in brain.modules.parameters() if p.requires_grad]
        assert held == len(trained)


@pytest.mark.parametrize("words", [(), ("--remove_vector_weight_decay",)])
def test_experts_learn_at_their_own_rate(words, tiny_experiment, tmp_path):
    hparams = start(tiny_experiment, tmp_path, expert_lr_factor=0.25)
    brain, _ = make(hparams, *words)
    brain.init_optimizers()
    mixture = brain.system.mixture
    found = {}
    for group in brain.optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = group["lr_factor"]
    for part, factor in (
        (mixture.experts, 0.25),
        (mixture.routers, 1.0),
        (brain.system.se_head, 1.0),
        (brain.system.ssl_encoder, hparams["ssl_lr_factor"]),
    ):
        trained = [p for p in part.parameters() if p.requires_grad]
        assert {found[id(p)] for p in trained} == {factor}


def test_a_rate_for_experts_needs_experts(miniemo, tmp_path):
    _, hparams, _ = make_short("naive_mtl", miniemo, tmp_path)
    hparams["expert_lr_factor"] = 0.5
    brain, _ = make(hparams)
    with pytest.raises(InputError, match=r"expert_lr_factor 0\.5: .* experts"):
        brain.init_optimizers()


class OneBadBatch(JointBrain):
    """The loss, or the gradients, of one batch are not numbers."""

    where = "loss"

    def compute_objectives(self, predictions, batch, stage):
        loss = super().compute_objectives(predictions, batch, stage)
        if "TRAIN" in str(stage) and self.step == 2:
            if self.where == "loss":
                return loss * float("nan")
            bias = self.system.ser_head.classifier[-1].bias
            bias.register_hook(lambda grad: grad * float("nan"))
        return loss


def run_bad(path, tmp_path, where, *words, **overrides):
    hparams = start(path, tmp_path, number_of_epochs=1, **overrides)
    data = recipe.dataio_prepare(hparams)
    options = options_of("--device", "cpu", "--noprogressbar", *words)
    brain_class = type("Bad", (OneBadBatch,), {"where": where})
    brain = recipe.make_brain(hparams, options, data, brain_class)
    recipe.fit(brain, hparams, data)
    return brain


def test_the_first_bad_loss_stops_unless_there_is_patience(
    tiny_experiment, tmp_path, caplog
):
    with pytest.raises(InputError, match="the loss became nan in epoch 1"):
        run_bad(tiny_experiment, tmp_path / "a", "loss")
    with caplog.at_level(logging.WARNING):
        brain = run_bad(
            tiny_experiment, tmp_path / "b", "loss", "--nonfinite_patience", "1"
        )
    assert "left out" in caplog.text
    assert all(p.isfinite().all() for p in brain.system.parameters())
    assert all(v == v for v in brain.train_stats.values())
    with pytest.raises(InputError, match="the loss became nan"):
        run_bad(
            tiny_experiment, tmp_path / "c", "loss", "--nonfinite_patience", "0"
        )


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize("factor", [1, 2])
def test_what_is_left_out_spoils_nothing(
    tiny_experiment, tmp_path, surgery, factor
):
    """The second batch, which ends a step of two with a whole one."""
    words = "--nonfinite_patience 1 --grad_accumulation_factor".split()
    brain = run_bad(
        tiny_experiment,
        tmp_path,
        "loss",
        *words,
        str(factor),
        gradient_surgery=surgery,
    )
    assert brain.nonfinite_count == 1
    moments = brain.optimizer.state_dict()["state"].values()
    assert {int(state["step"]) for state in moments} == {
        brain.optimizer_step - (factor == 1)
    }
    assert all(p.isfinite().all() for p in brain.system.parameters())


class TooLarge(JointBrain):
    """A batch of one stage is larger than the GPU's memory."""

    stage = "TRAIN"

    def compute_forward(self, batch, stage):
        # In training the third one.
        in_training = self.system.training
        if self.stage in str(stage) and (self.step == 3 or not in_training):
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a "
                "total capacity of 7.79 GiB of which 1.06 GiB is free. "
                "Including non-PyTorch memory, this process has 6.7 GiB."
            )
        return super().compute_forward(batch, stage)


IN_TRAINING = (
    *("--ssl_checkpointing True", "--max_batch_size 4", "--precision bf16"),
    *("--batch_length_s 20", "--grad_accumulation_factor 2"),
)


@pytest.mark.parametrize(
    "stage, helps, does_not",
    [
        ("TRAIN", IN_TRAINING, ["merit evaluate"]),
        ("VALID", IN_TRAINING[1:], ["--ssl_checkpointing"]),
        (
            "TEST",
            ["merit evaluate", "--batch_length_s 20", "tested are kept"],
            ["--start_over", "--grad_accumulation_factor", "--precision"],
        ),
    ],
)
def test_a_batch_that_is_too_large_is_told_with_what_helps(
    tiny_experiment, tmp_path, stage, helps, does_not
):
    hparams = start(tiny_experiment, tmp_path)
    data = recipe.dataio_prepare(hparams)
    options = options_of(
        *("--device", "cpu", "--noprogressbar", "--ckpt_interval_steps", "1")
    )
    brain = recipe.make_brain(hparams, options, data, TooLarge)
    brain.stage = stage
    with pytest.raises(InputError) as caught:
        recipe.fit(brain, hparams, data)
        recipe.evaluate(brain, hparams, data)
    told = str(caught.value)
    assert "utterances, " in told and "with padding: CUDA out of" in told
    assert "1.06 GiB is free" in told and "Including" not in told
    assert all(option in told for option in helps)
    assert not any(option in told for option in does_not)
    if stage != "TEST":
        assert str(last_checkpoint(tmp_path / "run")) in told


def test_bad_gradients_are_skipped_if_asked(tiny_experiment, tmp_path, caplog):
    brain = run_bad(
        tiny_experiment, tmp_path / "a", "grad", "--skip_nonfinite_grads"
    )
    assert "gradients are not finite: step 2 left out" in caplog.text
    assert all(p.isfinite().all() for p in brain.system.parameters())
    with pytest.raises(InputError, match="the loss became nan"):
        run_bad(tiny_experiment, tmp_path / "b", "grad")


def test_checkpoints_by_steps(tiny_experiment, tmp_path):
    hparams = start(tiny_experiment, tmp_path, number_of_epochs=1)
    brain, data = make(hparams, "--ckpt_interval_steps", "1")
    saved = []
    brain._save_intra_epoch_ckpt = lambda: saved.append(brain.step)
    recipe.fit(brain, hparams, data)
    assert saved and saved == list(range(1, len(saved) + 1))


def test_test_only_wants_a_checkpoint(tiny_experiment, tmp_path):
    path = str(tiny_experiment)
    folder = ["--output_folder", str(tmp_path / "run"), "--noprogressbar"]
    with pytest.raises(InputError, match="test_only: expected a checkpoint"):
        recipe.main([path, *folder, "--test_only"])
    assert not (tmp_path / "run" / "results.json").exists()
    recipe.main([path, *folder, "--number_of_epochs", "1"])
    done = recipe.main([path, *folder, "--test_only"])
    assert done["validation"]["epoch"] == 1


def test_scores_of_a_debug_run_are_nobody_s(tiny_experiment, tmp_path):
    path, run = str(tiny_experiment), tmp_path / "run"
    words = [path, "--output_folder", str(run), "--noprogressbar"]
    debug = ["--debug", "--debug_batches", "1", "--debug_epochs", "1"]
    tried = recipe.main([*words, *debug])
    assert tried["conditions"][0]["ser"]["n"] < 12
    assert not (run / "results.json").exists()
    assert (run / "debug" / "results.json").is_file()
    done = recipe.main([*words, "--number_of_epochs", "1"])
    assert done["conditions"][0]["ser"]["n"] == 12
    assert read_results(run) == done


def test_speechbrain_s_checkpointer_works(tiny_experiment, tmp_path):
    path = tmp_path / "stock.yaml"
    stock = """
checkpointer: !new:speechbrain.utils.checkpoints.Checkpointer
    checkpoints_dir: !ref <save_folder>
    recoverables:
        system: !ref <system>
        counter: !ref <epoch_counter>
"""
    path.write_text(changed(tiny_experiment, stock))
    words = ["--output_folder", str(tmp_path / "run"), "--noprogressbar"]
    done = recipe.main([str(path), *words])
    assert done["validation"]["epoch"] == 2
    assert last_checkpoint(tmp_path / "run").is_dir()


def test_training_stops_when_its_patience_ends(tiny_experiment, tmp_path):
    path = tmp_path / "stopped.yaml"
    counter = """
epoch_counter: !new:speechbrain.utils.epoch_loop.EpochCounterWithStopper
    limit: !ref <number_of_epochs>
    limit_to_stop: 1
    limit_warmup: 0
    direction: min
checkpoint_score: ser_ce
lr: 0.0
final_lr: 0.0
stage_2_epochs: 5
"""
    path.write_text(changed(tiny_experiment, counter))
    brain = train(start(path, tmp_path))
    epochs = brain.hparams.epoch_counter.current
    assert epochs < 6
    again = train(start(path, tmp_path))
    assert again.hparams.epoch_counter.current == epochs


OWN = """
output_folder: {folder}
save_folder: !ref <output_folder>/save
train_annotation: {manifests}/train.json
valid_annotation: {manifests}/valid.json
test_annotation: {manifests}/test.json
noise_annotation: {manifests}/noise_{{noise_set}}.json
speech_root: {audio}
noise_root: {audio}
ser_outputs: [angry, sad, happy, neutral]
system: !apply:merit_modules.tiny.tiny_system []
loss: !new:merit_modules.losses.JointLoss
modules: {{system: !ref <system>, loss: !ref <loss>}}
opt_class: !name:torch.optim.SGD {{lr: 0.01}}
epoch_counter: !new:speechbrain.utils.epoch_loop.EpochCounter {{limit: 1}}
checkpointer: !new:speechbrain.utils.checkpoints.Checkpointer
    checkpoints_dir: !ref <save_folder>
    recoverables: {{system: !ref <system>, counter: !ref <epoch_counter>}}
my_note: 3
"""


def test_a_yaml_of_one_s_own_needs_few_keys(miniemo, tmp_path):
    path = tmp_path / "own.yaml"
    manifests = miniemo.parent / "manifests"
    text = OWN.format(
        folder=tmp_path / "run", manifests=manifests, audio=miniemo
    )
    path.write_text(text)
    done = recipe.main([str(path), "--noprogressbar"])
    assert [c["name"] for c in done["conditions"]] == ["clean"]
    path.write_text(text.replace("opt_class:", "optimiser:"))
    with pytest.raises(InputError, match="own.yaml: expected the keys opt_cl"):
        recipe.main([str(path)])


def test_each_default_is_a_key_that_is_read():
    folder = Path(recipe.__file__).parent
    readers = "".join(path.read_text() for path in folder.glob("*.py"))
    for key in (*DEFAULTS, *NEEDED):
        assert f'hparams["{key}"]' in readers or f"hparams.{key}" in readers


def test_help_lists_the_keys_and_speechbrain_s_options(capsys):
    path = str(ROOT / "hparams" / "sparse_merit.yaml")
    assert as_command(recipe.main, [path, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Recipe for joint speech enhancement")
    for line in ("--top_k 1 ", "--lr 1.0e-3 ", "--nonfinite_patience"):
        assert f"  {line}" in told, line
    assert "--mixture" not in told.replace("--mixture_seed", "")
    assert as_command(recipe.main, ["-h"]) == 0
    assert "--help lists its keys" in capsys.readouterr().out

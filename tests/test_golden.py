"""Every file of reference values is some test's business."""

import importlib

import pytest

COVERED = {
    "attentive_stats_pooling.pt": (
        "heads.test_heads",
        "test_pooling_agrees_with_the_released_code",
    ),
    "balance_losses.pt": (
        "losses.test_routing",
        "test_balance_losses_on_worked_values",
    ),
    "enhancement_metrics.pt": (
        "evaluation.test_metrics_enhancement",
        "test_golden_values",
    ),
    "moe_concat_dense.pt": (
        "moe.test_mixture",
        "test_agrees_with_the_released_code",
    ),
    "moe_concat_sparse.pt": (
        "moe.test_mixture",
        "test_agrees_with_the_released_code",
    ),
    "moe_layer_mixers_dense.pt": (
        "training.test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "moe_layer_mixers_sparse.pt": (
        "training.test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "moe_weighted_sum_dense.pt": (
        "training.test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "moe_weighted_sum_sparse.pt": (
        "training.test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "noise_mixing.pt": ("data.test_mixing", "test_released_code"),
    "se_head.pt": (
        "heads.test_heads",
        "test_se_head_agrees_with_the_released_code",
    ),
    "ser_head.pt": (
        "heads.test_heads",
        "test_classifier_agrees_with_the_released_code",
    ),
    "training_step.pt": ("training.test_reference_mode", "test_every_gradient"),
    "wav_stats.pt": ("data.test_statistics", "test_released_code"),
    "weighted_sum.pt": (
        "training.test_systems",
        "test_the_weighted_sum_agrees_with_the_released_code",
    ),
    "system_forward.pt": (
        "released.test_released",
        "test_padded_batch_with_the_released_rule",
    ),
    "wavlm_base_style.pt": (
        "released.test_released",
        "test_wavlm_gives_the_original_layers",
    ),
    "wavlm_large_style.pt": (
        "released.test_released",
        "test_wavlm_gives_the_original_layers",
    ),
}


def test_no_file_is_left_out(golden):
    public = {path.name for path in golden.public.glob("*.pt")}
    assert len(public) > 10 and public <= set(COVERED)
    if golden.private.is_dir():
        there = {path.name for path in golden.private.glob("*.pt")}
        assert there == set(COVERED)


def test_the_public_set_is_small_and_a_part_of_the_whole(golden):
    files = sorted(golden.public.glob("*.pt"))
    assert sum(path.stat().st_size for path in files) <= 2e6
    if golden.private.is_dir():
        for path in files:
            whole = golden.private / path.name
            assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("file", COVERED)
def test_its_test_is_there(file):
    module, function = COVERED[file]
    assert hasattr(importlib.import_module(f"tests.{module}"), function)

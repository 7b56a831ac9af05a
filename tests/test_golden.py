"""Every file of reference values is some test's business."""

import importlib

import pytest

COVERED = {
    "attentive_stats_pooling.pt": (
        "test_heads",
        "test_pooling_agrees_with_the_released_code",
    ),
    "balance_losses.pt": (
        "test_mixture",
        "test_balance_losses_on_worked_values",
    ),
    "enhancement_metrics.pt": (
        "test_metrics_enhancement",
        "test_golden_values",
    ),
    "moe_concat_dense.pt": (
        "test_mixture",
        "test_agrees_with_the_released_code",
    ),
    "moe_concat_sparse.pt": (
        "test_mixture",
        "test_agrees_with_the_released_code",
    ),
    "moe_layer_mixers_dense.pt": (
        "test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "moe_layer_mixers_sparse.pt": (
        "test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "moe_weighted_sum_dense.pt": (
        "test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "moe_weighted_sum_sparse.pt": (
        "test_systems",
        "test_experts_agree_with_the_released_code",
    ),
    "noise_mixing.pt": ("test_data_mixing", "test_released_code"),
    "se_head.pt": ("test_heads", "test_se_head_agrees_with_the_released_code"),
    "ser_head.pt": (
        "test_heads",
        "test_classifier_agrees_with_the_released_code",
    ),
    "training_step.pt": ("test_reference_mode", "test_every_gradient"),
    "wav_stats.pt": ("test_data_statistics", "test_released_code"),
    "weighted_sum.pt": (
        "test_systems",
        "test_the_weighted_sum_agrees_with_the_released_code",
    ),
    "system_forward.pt": (
        "test_released",
        "test_padded_batch_with_the_released_rule",
    ),
    "wavlm_base_style.pt": (
        "test_released",
        "test_wavlm_gives_the_original_layers",
    ),
    "wavlm_large_style.pt": (
        "test_released",
        "test_wavlm_gives_the_original_layers",
    ),
}


def test_no_file_is_left_out(golden):
    assert {path.name for path in golden.glob("*.pt")} == set(COVERED)


@pytest.mark.parametrize("file", COVERED)
def test_its_test_is_there(file):
    module, function = COVERED[file]
    assert hasattr(importlib.import_module(f"tests.{module}"), function)

"""Arrays whose type and scale do not go together are refused."""

import numpy as np
import pytest
import torch

from merit_modules.errors import InputError
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    save_folder(tiny_system(), folder, ["angry", "sad", "happy", "calm"])
    return SparseMERIT.from_hparams(source=folder)


NOISE = 0.3 * np.random.default_rng(0).standard_normal(8000)
SAMPLES = (NOISE * 32767 / 2).round()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.tensor(SAMPLES.astype(int).tolist()), "int64 with a peak"),
        (SAMPLES.astype(np.int32), "int32 with a peak.*make them int16"),
        (SAMPLES.astype(np.float32), "a peak of .*divide them by 32768"),
        (SAMPLES.astype(np.float64), "a peak of .*divide them by 32768"),
        (np.stack([NOISE, NOISE], axis=1), "(8000, 2); transpose it"),
    ],
    ids=["int64", "int32", "float32", "float64", "channels last"],
)
def test_what_would_be_another_sound_is_refused(model, samples, words):
    with pytest.raises(
        InputError, match=words.replace("(8000, 2)", ".8000, 2.")
    ):
        model.analyze(samples)


def test_right_scales_are_the_same_sound(model):
    expected = model.enhance(torch.tensor(SAMPLES / 32768).float())
    for samples in (
        SAMPLES.astype(np.int16),
        SAMPLES.astype(np.int32) * 2**16,
        torch.tensor(SAMPLES / 32768),
    ):
        torch.testing.assert_close(model.enhance(samples), expected)
    half = torch.tensor(NOISE).bfloat16()
    torch.testing.assert_close(model.enhance(half), model.enhance(half.float()))
    loud = torch.tensor(10 * NOISE).float()  # above 1, and no other scale
    assert model.enhance(loud).isfinite().all()


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_is_above_zero(model, rate):
    with pytest.raises(InputError, match="expected Hz from 1 to 1000000, got"):
        model.analyze(NOISE, sample_rate_hz=rate)
    with pytest.raises(InputError, match="expected Hz from 1 to 1000000, got"):
        model.live(sample_rate_hz=rate)


def test_batches_are_floats_with_a_length_each(model):
    wavs = torch.tensor(np.stack([NOISE, NOISE])).float()
    with pytest.raises(InputError, match="expected floats.*got torch.int16"):
        model.classify_batch((wavs * 32767).short())
    with pytest.raises(InputError, match="wavs: .*divide them by 32768"):
        model.enhance_batch(wavs * 32767)
    with pytest.raises(InputError, match="expected 2 relative lengths"):
        model.enhance_batch(wavs, torch.ones(3))
    listed = model.enhance_batch(wavs, [1.0, 0.5])
    expected = model.enhance_batch(wavs, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(listed, expected)

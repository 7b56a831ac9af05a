"""SpeechBrain's Augmenter in training: targets stay aligned."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.time_domain import (
    AddReverb,
    CutCat,
    DropChunk,
    DropFreq,
    RandAmp,
    SignFlip,
    SpeedPerturb,
)

from merit_modules.errors import InputError
from merit_modules.training.augmentation import AlignedAugmenter
from tests.helpers.training import start, train

OPTIONS = {"min_augmentations": 1, "max_augmentations": 3}


def augmented(*parts, **options):
    torch.manual_seed(0)
    augment = AlignedAugmenter(
        Augmenter(augmentations=list(parts), **{**OPTIONS, **options})
    )
    noisy = torch.randn(2, 8000)
    clean = 0.5 * noisy
    return noisy, clean, augment(noisy, clean, torch.tensor([1.0, 0.5]))


@pytest.fixture
def reverb(tmp_path):
    """Reverberation by one room."""
    response = np.exp(-np.arange(800) / 200) * np.sign(np.sin(np.arange(800)))
    soundfile.write(tmp_path / "rir.wav", response / 2, 16000)
    (tmp_path / "rir.csv").write_text(
        "ID,duration,wav,wav_format,wav_opts\n"
        f"room,0.05,{tmp_path}/rir.wav,wav,\n"
    )
    return AddReverb(csv_file=str(tmp_path / "rir.csv"))


def test_speed_changes_both_by_the_same_draw():
    for seed in range(4):
        torch.manual_seed(seed)
        speed = SpeedPerturb(16000, speeds=[80, 90, 110])
        noisy, _, (after, clean, lengths) = augmented(DropFreq(), speed)
        assert after.shape == clean.shape
        assert after.shape[1] != noisy.shape[1]
        assert torch.equal(lengths, torch.tensor([1.0, 0.5]))
    noisy, _, (after, clean, _) = augmented(SpeedPerturb(16000, speeds=[90]))
    assert torch.allclose(clean, 0.5 * after, atol=1e-6)


def test_the_sign_is_that_of_both():
    noisy, _, (after, clean, _) = augmented(SignFlip(1.0))
    assert not torch.equal(after, noisy)
    assert torch.allclose(clean, 0.5 * after, atol=1e-6)


@pytest.mark.parametrize("part", [CutCat(), RandAmp(0.2, 3.0)], ids=repr)
def test_what_leaves_no_target_is_refused(part):
    with pytest.raises(InputError, match=type(part).__name__):
        augmented(part)


def test_what_keeps_the_time_leaves_the_clean_target(reverb):
    for part in (DropFreq(), DropChunk(drop_start=100), reverb):
        noisy, before, (after, clean, _) = augmented(part)
        assert not torch.equal(after, noisy)
        assert torch.equal(clean, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concat_original": True}, "concat_original: expected False"),
        ({"parallel_augment": True}, "parallel_augment: expected False"),
        ({"repeat_augment": 2}, "repeat_augment: expected 1, got 2"),
        ({"augment_end_index": 1}, "augment_end_index: expected None, got 1"),
    ],
)
def test_what_would_change_the_batch_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        augmented(DropFreq(), **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["drop", "reverb", "speed"])
def test_each_of_them_trains(name, tiny_experiment, tmp_path, reverb):
    part = {
        "drop": DropFreq(),
        "reverb": reverb,
        "speed": SpeedPerturb(16000, speeds=[90]),
    }[name]
    losses = []
    for augment in (None, Augmenter(augmentations=[part], **OPTIONS)):
        hparams = start(
            tiny_experiment, tmp_path / str(len(losses)), number_of_epochs=1
        )
        hparams["wav_augment"] = augment
        losses.append(train(hparams).train_stats["loss"])
    assert all(loss == loss for loss in losses) and losses[0] != losses[1]
    hparams = start(tiny_experiment, tmp_path / "again", number_of_epochs=1)
    hparams["wav_augment"] = Augmenter(augmentations=[part], **OPTIONS)
    if name != "reverb":  # its loader of rooms has a state of its own
        assert train(hparams).train_stats["loss"] == losses[1]

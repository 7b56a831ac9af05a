"""What a mask took away comes back, up to a level under the input."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merit_modules.heads import LogSpectrum, SEHead, observation_share
from merit_modules.heads.spectral import SPAN
from merit_modules.pretrained import load_folder, save_folder
from merit_modules.tiny import tiny_system

LEVEL_DB = -20.0


def head_with(level_db, bias=-1.0):
    """An SE head whose mask takes much away, or little."""
    torch.manual_seed(0)
    head = SEHead(LogSpectrum(), 6, 8, observation_level_db=level_db).eval()
    torch.nn.init.constant_(head.output_layer.bias, bias)
    return head


@torch.no_grad()
def enhance(head, wavs, n_samples):
    """Enhance with features that only an utterance's length decides."""
    n_samples = torch.tensor(n_samples)
    n_frames = n_samples // 320
    features = torch.ones(len(wavs), int(n_frames.max()), 6)
    out = head(features, wavs, n_frames=n_frames, n_samples=n_samples)
    return head.to_wavs(out, wavs.shape[1])


def noise(n_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, n_samples, generator=generator)


def level_of(change, noisy):
    return 10 * torch.log10(change.square().sum() / noisy.square().sum())


def test_worked_values():
    noisy = torch.tensor([[[4.0, 0.0, 6.0]]])  # 10 in all: 0.1 may come back
    removed = torch.tensor([[[0.2, 0.0, 0.1]]])
    share = observation_share(noisy, removed, LEVEL_DB)
    expected = torch.full((1, 1, 3), (0.1 / (0.1 + 0.3)) ** 0.5)
    torch.testing.assert_close(share, expected)


def test_only_what_is_around_a_bin_counts():
    shape = 1, 3 * SPAN[0], 3 * SPAN[1]
    noisy, removed = torch.ones(shape), torch.zeros(shape)
    removed[0, 0, 0] = 100.0
    share = observation_share(noisy, removed, LEVEL_DB)[0]
    n_bins, n_frames = (size // 2 + 1 for size in SPAN)
    assert (share[:n_bins, :n_frames] < 0.9).all()
    assert (share[n_bins:] == 1.0).all()
    assert (share[:, n_frames:] == 1.0).all()


@given(
    removed=st.lists(st.floats(0, 1), min_size=1, max_size=3 * SPAN[1]),
    level_db=st.floats(-60, 0),
)
def test_no_more_comes_back_than_the_level(removed, level_db):
    removed = torch.tensor([[removed]], dtype=torch.float64)
    noisy = torch.ones_like(removed)
    share = observation_share(noisy, removed, level_db)
    assert (share > 0).all() and (share <= 1).all()
    span = torch.ones(1, 1, SPAN[1], dtype=torch.float64)

    def around(energy):
        return torch.nn.functional.conv1d(energy, span, padding=SPAN[1] // 2)

    back = share.square() * around(removed)
    assert (back <= 10 ** (level_db / 10) * around(noisy) + 1e-8).all()


def test_a_higher_level_gives_more_back():
    wav = noise(16000)
    outputs = [enhance(head_with(level), wav, [16000]) for level in (-30, -10)]
    none = enhance(head_with(None), wav, [16000])
    levels = [float(level_of(output - none, wav)) for output in outputs]
    assert levels[0] == pytest.approx(-30, abs=0.3)
    assert levels[1] == pytest.approx(-10, abs=1.0)


def test_what_is_hardly_changed_comes_back_whole():
    wav = noise(16000)
    # The mask changes less than what may come back.
    without = enhance(head_with(None, bias=8.0), wav, [16000])
    with_it = enhance(head_with(LEVEL_DB, bias=8.0), wav, [16000])
    before, after = (level_of(x - wav, wav) for x in (without, with_it))
    assert before < -40
    assert after < before - 20


def test_silence_stays_silence():
    assert not enhance(head_with(LEVEL_DB), torch.zeros(1, 8000), [8000]).any()


def test_not_in_training():
    head = head_with(LEVEL_DB).train()
    plain = head_with(None).train()
    wav = noise(4000)
    assert torch.equal(enhance(head, wav, [4000]), enhance(plain, wav, [4000]))
    head.eval()
    assert not torch.equal(
        enhance(head, wav, [4000]), enhance(plain, wav, [4000])
    )


@given(
    n_samples=st.lists(st.integers(640, 30000), min_size=2, max_size=3),
    seed=st.integers(0, 99),
)
def test_alone_as_in_a_padded_batch(n_samples, seed):
    head = head_with(LEVEL_DB)
    batch = torch.full((len(n_samples), max(n_samples)), 9.0)  # padding is loud
    for row, n in enumerate(n_samples):
        batch[row, :n] = noise(n, seed + row)
    together = enhance(head, batch, n_samples)
    for row, n in enumerate(n_samples):
        alone = enhance(head, batch[row : row + 1, :n], [n])
        torch.testing.assert_close(
            together[row, :n], alone[0], atol=1e-5, rtol=0
        )
        assert not together[row, n:].any()


def test_a_saved_model_keeps_its_level(tmp_path):
    system = tiny_system()
    system.se_head.observation_level_db = LEVEL_DB
    save_folder(system, tmp_path / "model", ["sad", "calm", "happy", "angry"])
    loaded = load_folder(tmp_path / "model")["system"]
    assert loaded.se_head.observation_level_db == LEVEL_DB

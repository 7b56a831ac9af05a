"""Any two rates: torchaudio's result, in bounded time and memory."""

import resource
import time

import pytest
import torch
import torchaudio
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from merit_modules.data.resampling import FewTapsResample, resampler
from merit_modules.inference.audio import BlockResampler

RATES = st.integers(1, 900)


@settings(max_examples=60)
@given(RATES, RATES, st.integers(1, 3000))
def test_it_is_torchaudio_s_filter(old, new, n_samples):
    assume(old != new)
    wav = torch.randn(2, n_samples)
    ours = FewTapsResample(old, new)(wav)
    theirs = torchaudio.transforms.Resample(old, new)(wav)
    # Its length is rounded in float32, ours is exact.
    assert abs(ours.shape[-1] - theirs.shape[-1]) <= 1
    assert ours.shape[-1] == -(-new * n_samples // old)
    n = min(ours.shape[-1], theirs.shape[-1])
    # It computes times in float32.
    torch.testing.assert_close(ours[:, :n], theirs[:, :n], atol=3e-4, rtol=0)


@pytest.mark.parametrize("rate", [15999, 16001, 11127, 44101, 96001, 7919])
def test_a_tone_stays_a_tone(rate):
    start, before = time.perf_counter(), peak_mib()
    time_s = torch.arange(2 * rate, dtype=torch.float64) / rate
    tone = torch.sin(2 * torch.pi * 440 * time_s).float()
    found = resampler(rate, 16000)(tone)
    assert found.shape == (32000,)
    time_s = torch.arange(32000, dtype=torch.float64) / 16000
    expected = torch.sin(2 * torch.pi * 440 * time_s).float()
    error = (found - expected)[500:-500].abs().max()
    assert error < 2e-3
    assert time.perf_counter() - start < 20
    assert peak_mib() - before < 600


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_blocks_join_without_a_seam_at_any_rate():
    wav, convert = torch.randn(40000), BlockResampler(15999, 16000)
    parts = [convert(block) for block in wav.split(3001)]
    whole = resampler(15999, 16000)(wav)
    joined = torch.cat([*parts, convert.finish()])
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_usual_rates_take_torchaudio_s_own():
    for rate in (8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000):
        assert isinstance(
            resampler(rate, 16000), torchaudio.transforms.Resample
        )

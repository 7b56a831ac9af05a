"""Waveform statistics: golden values, any order, any partition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.data.pipelines import RunningWavStats


def stats_of(wavs):
    stats = RunningWavStats()
    for wav in wavs:
        stats.update(wav)
    return stats


def test_released_code(golden):
    reference = torch.load(golden / "wav_stats.pt", weights_only=True)
    stats = stats_of(reference["wavs"])
    assert stats.mean == pytest.approx(reference["mean"], abs=1e-7)
    assert stats.std == pytest.approx(reference["std"], abs=1e-7)


def test_by_hand():
    stats = stats_of([torch.tensor([1.0]), torch.tensor([3.0, 5.0, 7.0])])
    # mean 4, squared deviations 9 + 1 + 1 + 9, divided by N = 4
    assert (stats.count, stats.mean, stats.std) == (4, 4.0, 5.0**0.5)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    offset=st.floats(-10, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_partition_gives_the_statistics_of_the_whole(lengths, offset, seed):
    generator = np.random.default_rng(seed)
    wavs = [torch.from_numpy(generator.normal(offset, 1, n)) for n in lengths]
    whole = torch.cat(wavs).numpy()
    stats, merged = stats_of(wavs), RunningWavStats()
    for wav in reversed(wavs):
        merged.merge(stats_of([wav]))
    merged.merge(RunningWavStats())
    for result in (stats, merged):
        assert result.count == len(whole)
        assert result.mean == pytest.approx(whole.mean(), abs=1e-12)
        assert result.std == pytest.approx(whole.std(), abs=1e-12)


def test_a_small_deviation_beside_a_large_mean_survives():
    wav = 1e6 + torch.tensor([-1e-3, 1e-3], dtype=torch.float64)
    assert stats_of([wav, wav, wav]).std == pytest.approx(1e-3, rel=1e-6)


def test_empty_and_infinite_input_is_refused():
    stats = RunningWavStats()
    for name in ("mean", "std"):
        with pytest.raises(ValueError, match="no waveform"):
            getattr(stats, name)
    for wav in (torch.zeros(0), torch.tensor([1.0, float("inf")])):
        with pytest.raises(ValueError, match="expected finite samples"):
            stats.update(wav)
    assert stats.count == 0

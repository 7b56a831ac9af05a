"""Windows, seams, blocks: nothing lost, nothing twice, nothing shifted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.data.resampling import resampler
from merit_modules.errors import InputError
from merit_modules.inference.assembler import SEStage
from merit_modules.inference.audio import BlockResampler
from merit_modules.inference.windows import (
    MIN_SAMPLES,
    Piece,
    Sizes,
    WindowFeeder,
    Windowing,
    WindowJoiner,
    join,
)

GRID = 320


@st.composite
def windowings(draw):
    hop, left, right = (
        GRID * draw(st.integers(least, 6)) for least in (1, 0, 2)
    )
    most = min(2 * left, 2 * right, hop) // 2
    fade = 2 * draw(st.integers(0, most))
    return Windowing(hop, left, right, fade, GRID)


def blocks_of(wav, sizes):
    """Cut a waveform into blocks of these sizes, in turn."""
    blocks, start, turn = [], 0, 0
    while start < len(wav):
        size = sizes[turn % len(sizes)]
        blocks.append(wav[start : start + size])
        start += size
        turn += 1
    return blocks


@given(windowings(), st.integers(1, 20000))
def test_windows_answer_for_every_sample_once(windowing, n_samples):
    windows = list(windowing.cut(n_samples))
    assert windows[0].own_start == 0 and windows[-1].stop == n_samples
    for before, after in zip(windows, windows[1:]):
        assert before.own_stop == after.own_start
    for window in windows:
        assert window.start % GRID == 0
        assert window.start <= window.own_start < window.own_stop
        assert window.stop - window.start <= windowing.size
    # The last one has as much to go by as any other.
    shortest = min(n_samples, windowing.size - GRID + 1)
    last = windows[-1]
    assert len(windows) == 1 or last.stop - last.start >= shortest


@given(
    windowings(),
    st.integers(1, 20000),
    st.lists(st.integers(1, 5000), min_size=1, max_size=4),
)
def test_blocks_are_cut_like_the_whole(windowing, n_samples, sizes):
    wav, feeder = torch.arange(n_samples).float(), WindowFeeder(windowing)
    fed = [w for block in blocks_of(wav, sizes) for w in feeder.feed(block)]
    fed += feeder.close()
    expected = list(windowing.cut(n_samples))
    if len(fed) < len(expected):
        # The window before the last one ended with the recording.
        assert fed[-1][0].stop == n_samples
    for (window, samples), wanted in zip(fed, expected):
        assert window[:3] == wanted[:3]
        piece = wav[window.start : window.stop]
        assert torch.equal(samples[: len(piece)], piece)
        assert len(samples) == max(len(piece), MIN_SAMPLES)
        assert not samples[len(piece) :].any()


def test_the_feeder_forgets():
    feeder = WindowFeeder(Windowing(16000, 3200, 3200, 0, GRID))
    most = 0
    for block in torch.zeros(1_000_000).split(4000):
        list(feeder.feed(block))
        most = max(most, len(feeder._kept))
    assert most < 2 * feeder.windowing.size


@given(windowings(), windowings(), st.integers(MIN_SAMPLES, 20000))
def test_joining_what_was_cut_gives_the_recording(windowing, behind, n_samples):
    """A system that changes nothing: no seam, no frame lost or twice."""
    wav = torch.rand(n_samples)
    feeder, joiner = WindowFeeder(windowing), WindowJoiner(windowing)
    seen = []

    def enhance(features, samples):
        # Each window of the head gets the frames of its own samples.
        start = int(features[0, 0]) * GRID
        piece = wav[start : start + len(samples)]
        assert torch.equal(samples[: len(piece)], piece)
        seen.append((len(features), len(samples)))
        return samples

    stage, pieces, enhanced = SEStage(behind, enhance), [], []
    for window, samples in [*feeder.feed(wav), *feeder.close()]:
        n_frames = (len(samples) - 400) // GRID + 1
        frames = torch.arange(n_frames) + window.start // GRID
        result = Piece(
            samples[: window.stop - window.start],
            {"se": frames.unsqueeze(1).float()},
            {"se": frames},
        )
        pieces.append(joiner.add(window, result))
    pieces.append(joiner.finish())
    enhanced = [stage.add(piece.wav, piece.features["se"]) for piece in pieces]
    whole = join(pieces)
    assert torch.equal(whole.wav, wav)
    frames = torch.arange((n_samples - 400) // GRID + 1)
    assert torch.equal(whole.routing["se"], frames)
    assert torch.equal(whole.features["se"][:, 0], frames.float())
    torch.testing.assert_close(torch.cat([*enhanced, stage.finish()]), wav)
    for n_frames, n in seen:
        assert n_frames >= (n - 400) // GRID + 1


def test_a_seam_is_faded():
    """Worked values: zeros meet ones over four samples."""
    levels = iter((0.0, 1.0))
    stage = SEStage(
        Windowing(400, left=4, right=8, fade=4, grid=4),
        enhance=lambda features, wav: torch.full_like(wav, next(levels)),
    )
    first = stage.add(torch.zeros(800), torch.zeros(200, 1))
    enhanced = torch.cat([first, stage.finish()])
    assert len(first) == 398 and not first.any()
    expected = torch.ones(402)
    expected[:4] = torch.tensor([0.2, 0.4, 0.6, 0.8])
    torch.testing.assert_close(enhanced[398:], expected)


@pytest.mark.parametrize(
    "sizes, fade_s, message",
    [
        ((0.01, 1, 1), 0, "chunk_s: expected at least 0.02 s"),
        ((5, -1, 1), 0, "left_s: expected at least 0 s"),
        ((5, 1, float("nan")), 0, "right_s: expected at least"),
        ((5, 1, 0.02), 0, "right_s: expected at least 0.04 s"),
        ((5, 1, 0.1), 1, "fade_s: expected at most 0.2 s"),
    ],
)
def test_sizes_that_cannot_be(sizes, fade_s, message):
    with pytest.raises(InputError, match=message):
        Windowing.of(Sizes(*sizes), fade_s, 16000, GRID)


RATES = (8000, 16000, 22050, 44100, 48000)


@settings(max_examples=40)
@given(
    st.sampled_from(RATES),
    st.sampled_from(RATES),
    st.integers(1, 6000),
    st.lists(st.integers(1, 2000), min_size=1, max_size=3),
)
def test_converting_blocks_is_converting_the_whole(old, new, n, sizes):
    wav, convert = torch.randn(n), BlockResampler(old, new)
    parts = [convert(block) for block in blocks_of(wav, sizes)]
    parts.append(convert.finish())
    whole = wav if old == new else resampler(old, new)(wav)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)

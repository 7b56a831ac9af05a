"""Every part as a lobe of SpeechBrain: ``forward(x, lengths)``."""

import pytest
import torch
from torch.testing import assert_close

from merit_modules.heads import (
    AttentiveStatsPooling,
    LogSpectrum,
    MeanPooling,
    PaddedBLSTM,
    SEHead,
    SERHead,
    SpectralMask,
)
from merit_modules.losses import RoutedCost, load_balance, router_z
from merit_modules.moe import (
    ExpertMixture,
    ExpertPool,
    LayerNormConcat,
    TaskLayerSums,
    TopKRouter,
    WeightedLayerSum,
)
from merit_modules.ssl import RandomSSLEncoder
from merit_modules.tiny import TINY_SSL

LENGTHS = torch.tensor([1.0, 0.62, 0.3])
N_FRAMES = torch.tensor([50, 31, 15])
N_SAMPLES = torch.tensor([16000, 9920, 4800])


def mixture_of(*tasks):
    routers = {task: TopKRouter(24, 3) for task in tasks}
    pool = ExpertPool(3, 24, 16, 6)
    return ExpertMixture(LayerNormConcat(3, 8), pool, routers)


#: Parts on frames (B, T, 8) and on layers (L, B, T, 8): what comes of an
#: utterance is a vector, or frames.
ON_FRAMES = {
    "attention": lambda: AttentiveStatsPooling(8),
    "mean": lambda: MeanPooling(8),
    "ser_head": lambda: SERHead(AttentiveStatsPooling(8), 4, 16),
    "blstm": lambda: PaddedBLSTM(8, 5, num_layers=2),
}
ON_LAYERS = {
    "concat": lambda: LayerNormConcat(3, 8),
    "sum": lambda: WeightedLayerSum(3, 8),
    "mixture": lambda: mixture_of("ser"),
    "sums": lambda: TaskLayerSums({"ser": WeightedLayerSum(3, 8)}),
}


def assert_same_alone(part, padded, lengths):
    """Compare a batch with each of its utterances, cut out by hand."""
    batch = part(padded, lengths)
    for i, n in enumerate(N_FRAMES.tolist()):
        (alone,) = part(padded[..., i : i + 1, :n, :])
        ours = batch[i] if alone.dim() == 1 else batch[i, :n]
        assert_close(ours, alone, atol=1e-5, rtol=0)
    return batch


@pytest.mark.parametrize("name", [*ON_FRAMES, *ON_LAYERS])
@torch.no_grad()
def test_relative_lengths_give_what_the_utterance_gives_alone(name):
    torch.manual_seed(0)
    part = (ON_FRAMES | ON_LAYERS)[name]().eval()
    shape = (3, 50, 8) if name in ON_FRAMES else (3, 3, 50, 8)
    frames = torch.randn(shape)
    batch = assert_same_alone(part, frames, LENGTHS)
    assert torch.equal(part(frames, LENGTHS), part(frames, n_frames=N_FRAMES))
    assert torch.equal(part(frames), part(frames, torch.ones(3)))
    if name in ON_LAYERS:
        assert not any(batch[i, n:].any() for i, n in enumerate(N_FRAMES))
        return
    with pytest.raises(AssertionError):  # padding as if it were speech
        assert_same_alone(part, frames, torch.ones(3))


@pytest.mark.parametrize("name", [*ON_FRAMES, *ON_LAYERS])
def test_a_length_of_the_wrong_kind_raises(name):
    part = (ON_FRAMES | ON_LAYERS)[name]()
    frames = torch.randn((3, 50, 8) if name in ON_FRAMES else (3, 3, 50, 8))
    with pytest.raises(TypeError, match="frames or samples, integers.*float32"):
        part(frames, n_frames=LENGTHS)
    with pytest.raises(TypeError, match="relative lengths.*int64"):
        part(frames, N_FRAMES)
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        part(frames, LENGTHS * 1.2)
    with pytest.raises(ValueError, match="got both"):
        part(frames, LENGTHS, n_frames=N_FRAMES)


@torch.no_grad()
def test_heads_on_waveforms_and_on_a_spectrum():
    torch.manual_seed(0)
    head = SEHead(LogSpectrum(), 6, 16).eval()
    features, wavs = torch.randn(3, 50, 6), torch.randn(3, 16000)
    batch = head(features, wavs, LENGTHS)
    assert torch.equal(batch.n_samples, N_SAMPLES)
    mask = SpectralMask(201, 6, 16).eval()
    spectrum = torch.rand(3, 100, 201)
    masks = mask(spectrum, features, LENGTHS)
    for i, (n, samples) in enumerate(zip(N_FRAMES, N_SAMPLES)):
        one = features[i : i + 1, :n]
        alone = head(one, wavs[i : i + 1, :samples]).log1p[0]
        ours = batch.log1p[i, :, : alone.shape[1]]
        assert_close(ours, alone, atol=1e-5, rtol=0)
        (alone,) = mask(spectrum[i : i + 1, : 2 * n], one)
        assert_close(masks[i, : 2 * n], alone, atol=1e-5, rtol=0)
        assert not masks[i, 2 * n :].any()
    with pytest.raises(TypeError, match="integers"):
        head(features, wavs, n_frames=LENGTHS, n_samples=N_SAMPLES)
    with pytest.raises(TypeError, match="integers"):
        head(features, wavs, n_frames=N_FRAMES, n_samples=LENGTHS)


@torch.no_grad()
def test_behind_our_encoder_frames_are_those_of_its_receptive_field():
    torch.manual_seed(0)
    encoder = RandomSSLEncoder("wavlm", TINY_SSL).eval()
    mixture, pooling = mixture_of_tiny(), AttentiveStatsPooling(6)
    wavs = torch.randn(2, 16000)

    def pooled(wavs, lengths=None, frame_lengths=None):
        frames = mixture(encoder(wavs, lengths), frame_lengths)
        return pooling(frames, frame_lengths)

    differ = 0
    for n in range(4000, 4640, 20):
        lengths = torch.tensor([1.0, n / 16000])
        exact = encoder.frame_lengths(lengths, 16000)
        alone = pooled(wavs[1:, :n])[0]
        ours = pooled(wavs, lengths, exact)[1]
        assert_close(ours, alone, atol=1e-5, rtol=0)
        rounded = pooled(wavs, lengths, lengths)[1]
        differ += bool((rounded - alone).abs().max() > 1e-5)
    assert differ  # the waveforms' lengths are off by a frame


def mixture_of_tiny():
    width = 3 * TINY_SSL["hidden_size"]
    return ExpertMixture(
        LayerNormConcat(3, TINY_SSL["hidden_size"]),
        ExpertPool(2, width, 16, 6),
        {"ser": TopKRouter(width, 2)},
    ).eval()


def test_one_task_is_a_tensor_and_several_are_a_dict():
    layers = torch.randn(3, 2, 9, 8)
    assert mixture_of("ser")(layers).shape == (2, 9, 6)
    features = mixture_of("se", "ser")(layers)
    assert list(features) == ["se", "ser"]
    assert features["se"].shape == (2, 9, 6)


def test_decisions_and_their_losses_can_be_reached():
    mixture = mixture_of("ser")
    assert mixture.routing == {}
    features = mixture(torch.randn(3, 2, 9, 8), torch.tensor([1.0, 1 / 3]))
    decision = mixture.routing["ser"]
    assert decision.expert_index.shape == (12, 1)  # valid frames alone
    cost = RoutedCost(lambda x: x.mean(), mixture, 0.5, 0.25)
    expected = features.mean() + 0.5 * load_balance(decision)
    expected = expected + 0.25 * router_z(decision)
    assert_close(cost(features), expected)
    router = mixture.routers["ser"].linear.weight
    mixture.zero_grad()
    RoutedCost(lambda x: 0.0, mixture, 0.5, 0.25)(features).backward()
    assert router.grad.abs().max() > 0

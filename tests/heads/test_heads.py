"""Spectral domain, BLSTM, pooling and heads, against the released code too."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from merit_modules.heads.se import PaddedBLSTM, SEHead
from merit_modules.heads.ser import AttentiveStatsPooling, MeanPooling, SERHead
from merit_modules.heads.spectral import LogSpectrum, log1p_magnitude
from merit_modules.lengths import valid_mask
from merit_modules.ssl.front_end import mel_gabor_filters


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_blstm_equals_torch_on_packed_sequences(training):
    torch.manual_seed(0)
    blstm = PaddedBLSTM(4, 3, num_layers=2).train(training)
    n_frames = torch.tensor([9, 1, 5])
    frames = torch.randn(3, 9, 4, requires_grad=True)
    packed = pack_padded_sequence(
        frames, n_frames, batch_first=True, enforce_sorted=False
    )
    reference = torch.nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
    reference.load_state_dict(blstm.state_dict())
    expected, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    valid = valid_mask(n_frames, 9)
    actual = blstm(frames, n_frames=n_frames)
    close(actual[valid], expected[valid])
    upstream = torch.randn(9 + 1 + 5, 6)
    grads = [
        torch.autograd.grad((out[valid] * upstream).sum(), frames)[0]
        for out in (actual, expected)
    ]
    close(*grads)
    assert not grads[0][~valid].any()


@pytest.mark.parametrize("n", [201, 400, 1599, 1600, 1601, 16000])
def test_spectrum_is_torch_stft_and_comes_back(n):
    torch.manual_seed(0)
    spectrum, wav = LogSpectrum(), torch.randn(1, n)
    padded = torch.nn.functional.pad(wav, (0, 777))
    n_samples = torch.tensor([n])
    stft = spectrum(padded, n_samples)
    expected = torch.stft(
        wav, 400, 160, window=spectrum.window, return_complex=True
    )
    close(stft[..., : expected.shape[-1]], expected)
    assert not stft[..., expected.shape[-1] :].any()
    back = spectrum.inverse(stft, n_samples, n + 777)
    close(back[:, :n], wav)
    assert not back[:, n:].any()


def test_inverse_is_torch_istft():
    torch.manual_seed(0)
    spectrum, wav = LogSpectrum(), torch.randn(2, 4321)
    n_samples = torch.tensor([4321, 4321])
    stft = spectrum(wav, n_samples) * torch.rand(2, 201, 28)
    expected = torch.istft(stft, 400, 160, window=spectrum.window, length=4321)
    close(spectrum.inverse(stft, n_samples, 4321), expected)


def test_spectrum_refuses_what_it_cannot_reflect():
    with pytest.raises(ValueError, match="more than 200 samples .* got 200"):
        LogSpectrum()(torch.zeros(1, 300), torch.tensor([200]))


def test_pooling_agrees_with_the_released_code(golden):
    case = torch.load(golden / "attentive_stats_pooling.pt", weights_only=True)
    weights = case["state_dict"]
    pool = AttentiveStatsPooling(case["x"].shape[-1])
    pool.load_state_dict(
        {
            "attention": weights["attention"].squeeze(1),
            "projection.weight": weights["sap_linear.weight"],
            "projection.bias": weights["sap_linear.bias"],
        }
    )
    n_frames = torch.tensor(case["frame_lengths"])
    close(pool(case["x"], n_frames=n_frames), case["out"])
    assert (
        pool(case["x"], n_frames=n_frames - 1) - case["out"]
    ).abs().max() > 1e-4
    mean = MeanPooling(case["x"].shape[-1])
    close(mean(case["x"], n_frames=n_frames), case["mean_pool_out"])
    assert (
        mean(case["x"], n_frames=n_frames - 1).ne(case["mean_pool_out"]).any()
    )


def test_classifier_agrees_with_the_released_code(golden):
    case = torch.load(golden / "ser_head.pt", weights_only=True)
    weights = case["state_dict"]
    hidden, size = weights["fc.0.0.weight"].shape
    head = SERHead(AttentiveStatsPooling(size // 2), 4, hidden).eval()
    names = {"1": "fc.0.0", "2": "fc.0.1", "5": "out.0"}
    head.classifier.load_state_dict(
        {
            f"{ours}.{kind}": weights[f"{theirs}.{kind}"]
            for ours, theirs in names.items()
            for kind in ("weight", "bias")
        }
    )
    close(head.classifier(case["x"]), case["logits"])


def test_se_head_agrees_with_the_released_code(golden):
    case = torch.load(golden / "se_head.pt", weights_only=True)
    renamed = {
        key.replace("lstm_enc.0", "input_layer")
        .replace("lstm_enc.1.blstm", "blstm")
        .replace("lstm_enc.2", "output_layer"): value
        for key, value in case["state_dict"].items()
    }
    hidden = renamed["input_layer.bias"].shape[0]
    features = case["se_features"]
    head = SEHead(LogSpectrum(), features.shape[-1], hidden)
    head.load_state_dict(renamed)
    batch, n = case["wav"].shape
    n_samples = torch.full((batch,), n)
    n_frames = torch.full((batch,), features.shape[1])
    with torch.no_grad():
        out = head(
            features, case["wav"], n_frames=n_frames, n_samples=n_samples
        )
        wavs = head.to_wavs(out, n)
    close(log1p_magnitude(out.noisy_stft), case["noisy_log1p"])
    close(out.log1p, case["enhanced_log1p"])
    close(wavs, case["enhanced_wav"])


def test_padding_frames_cannot_reach_the_pooled_vector():
    pool = AttentiveStatsPooling(4)
    frames = torch.randn(1, 9, 4)
    dirty = frames.clone()
    dirty[:, 6:] = 1e4
    n_frames = torch.tensor([6])
    close(pool(frames, n_frames=n_frames), pool(dirty, n_frames=n_frames))


def test_filterbank_filters_sit_where_they_should():
    filters = mel_gabor_filters(64, 400)[:, 0]
    assert torch.allclose(filters.norm(dim=1), torch.ones(64))
    spectra = torch.fft.rfft(filters, n=16000).abs()
    peaks_hz = spectra.argmax(dim=1)
    assert (peaks_hz[::2] - peaks_hz[1::2]).abs().max() < 20  # cos and sin
    assert peaks_hz[2:64:2].diff().min() > 0
    assert peaks_hz[-1] == pytest.approx(7600, abs=20)


@pytest.mark.parametrize("n_utterances", [1, 5, 16, 17, 40])
def test_a_filled_up_batch_gives_what_packing_gives(n_utterances):
    torch.manual_seed(n_utterances)
    blstm = PaddedBLSTM(4, 3, num_layers=2)
    n_frames = torch.randint(1, 12, (n_utterances,))
    n_frames[0] = 11
    frames = torch.randn(n_utterances, 11, 4)
    valid = torch.arange(11) < n_frames[:, None]
    found = []
    for form in (blstm._in_filled_pieces, blstm._packed):
        blstm.zero_grad()
        x = frames.clone().requires_grad_()
        output = form(x, n_frames)
        assert output.shape == (n_utterances, 11, 6)
        output[valid].square().sum().backward()
        weights = [p.grad.clone() for p in blstm.parameters()]
        found.append([output[valid], x.grad[valid], *weights])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    frames[-1] += 1.0
    other = blstm._in_filled_pieces(frames, n_frames)[valid]
    assert not torch.allclose(other, found[0][0], atol=1e-5)

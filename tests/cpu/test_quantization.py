"""8-bit linear layers: near fp32, the same on any batch, saved and loaded."""

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.inference.interfaces import Pretrained
from torch import nn

from merit_modules.cpu import int8 as quantization
from merit_modules.cpu.full_precision import KEPT_PARTS, is_kept
from merit_modules.cpu.int8 import (
    Int8Linear,
    is_quantized,
    quantize_,
    quantize_rows,
)
from merit_modules.errors import InputError
from merit_modules.export import export_run
from merit_modules.inference import SparseMERIT
from merit_modules.moe.routers import TopKRouter
from merit_modules.pretrained import (
    encoder_of,
    load_folder,
    load_parts,
    save_folder,
)
from merit_modules.system import CascadeSystem
from merit_modules.tiny import tiny_system
from tests.helpers.exported import card_of, write_results, write_run

LABELS = ["angry", "sad", "happy", "calm"]


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 24)


def wavs_of(seed=1):
    generator = torch.Generator().manual_seed(seed)
    wavs = 0.1 * torch.randn(3, 9000, generator=generator)
    return wavs, torch.tensor([1.0, 0.61, 0.3])


# ---- one layer ------------------------------------------------------------


def test_worked_by_hand():
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.27, -0.5]]))
        layer.bias.fill_(3.0)
    quantised = Int8Linear.of(layer)
    assert quantised.weight_int8.tolist() == [[127, -50]]
    assert quantised.scale.item() == pytest.approx(0.01)
    # 2.54 is 127 steps of 0.02, 0.1 is 5 of them: (127 * 127 - 5 * 50) times
    # 0.01 * 0.02, and the bias.
    found = quantised(torch.tensor([[2.54, 0.1]])).item()
    assert found == pytest.approx((16129 - 250) * 2e-4 + 3.0)


@settings(max_examples=40)
@given(
    st.integers(1, 70),
    st.integers(0, 9),
    st.integers(1, 40),
    st.sampled_from([1e-45, 1e-20, 1e-3, 1.0, 1e4, 1e20]),
    st.booleans(),
)
def test_error_is_within_its_bound(width, n_rows, outputs, size, bias):
    torch.manual_seed(width)
    layer = nn.Linear(width, outputs, bias=bias)
    x = size * torch.randn(n_rows, width)
    with torch.no_grad():
        expected = layer(x).double()
        found = Int8Linear.of(layer)(x).double()
    # Half a step of each factor, times the other one, over all products.
    steps = x.abs().amax(1, keepdim=True).double() / 254
    weight = layer.weight.abs().double()
    weight_steps = (weight.amax(1) / 254).unsqueeze(0)
    bound = steps * weight.sum(1) + x.abs().double().sum(1, True) * weight_steps
    bound = bound + width * steps * weight_steps + 1e-5 * expected.abs()
    assert (found - expected).abs().le(bound + 1e-6).all()


def test_a_frame_is_the_same_in_any_company(layer):
    quantised = Int8Linear.of(layer)
    x = torch.randn(2, 7, 96) * torch.logspace(-3, 3, 7).unsqueeze(1)
    together = quantised(x)
    assert together.shape == (2, 7, 24)
    for row in range(2):
        for frame in range(7):
            alone = quantised(x[row, frame])
            assert torch.equal(alone, together[row, frame])


def test_blocks_change_nothing(layer, monkeypatch):
    x = torch.randn(50, 96)
    expected = quantize_rows(x)
    monkeypatch.setattr(quantization, "BLOCK_SIZE", 300)
    for one, other in zip(expected, quantize_rows(x)):
        assert torch.equal(one, other)


def test_zeros_and_what_is_no_number(layer):
    quantised = Int8Linear.of(layer)
    x = torch.randn(4, 96)
    x[0] = 0
    x[1, 5], x[2, 5] = torch.nan, torch.inf
    found = quantised(x)
    assert torch.equal(found[0], layer.bias)
    assert found[1].isnan().all() and not found[2].isfinite().any()
    assert torch.equal(found[3], quantised(x[3]))


def test_a_silent_output():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    found = Int8Linear.of(layer)(torch.randn(4, 3))
    assert torch.equal(found, layer.bias.expand(4, 2))


def test_half_precision_comes_back_as_it_came(layer):
    x = torch.randn(3, 96)
    found = Int8Linear.of(layer)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(x), atol=0.1, rtol=0.05)


def test_processors_without_exact_products(layer, monkeypatch):
    quantised, x = Int8Linear.of(layer), torch.randn(5, 96)
    expected = quantised(x)
    assert quantization.int8_products_are_exact()

    def overflowing(a, b):
        return (a.float() @ b.float()).clamp(-(2**15), 2**15).int()

    quantization.int8_products_are_exact.cache_clear()
    try:
        monkeypatch.setattr(torch, "_int_mm", overflowing)
        with pytest.warns(UserWarning, match="computes in fp32"):
            found = quantised(x)
    finally:
        quantization.int8_products_are_exact.cache_clear()
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.03)
    by_weight = nn.functional.linear(x, quantised.weight, quantised.bias)
    assert torch.equal(found, by_weight)


def test_training_and_other_devices_are_refused(layer):
    quantised = Int8Linear.of(layer)
    with pytest.raises(InputError, match="cannot be trained"):
        quantised(torch.randn(2, 96, requires_grad=True))
    with pytest.raises(InputError, match="runs on a CPU, got device meta"):
        quantised(torch.randn(2, 96, device="meta"))
    with pytest.raises(InputError, match="expected device cpu, got meta"):
        quantize_(nn.Linear(2, 2, device="meta"))


# ---- whole systems --------------------------------------------------------


def test_what_is_quantised_and_what_is_not():
    system = quantize_(tiny_system())
    linears = {n for n, m in system.named_modules() if type(m) is nn.Linear}
    assert all(is_kept(name) for name in linears)
    for part in KEPT_PARTS:
        assert any(part in name for name in linears)
    quantised = " ".join(
        n for n, m in system.named_modules() if isinstance(m, Int8Linear)
    )
    for part in (
        "attention.q_proj",
        "attention.out_proj",
        "feed_forward.intermediate_dense",
        "experts.2.0",
        "experts.0.2",
        "pooling.projection",
        "se_head.input_layer",
        "se_head.output_layer",
    ):
        assert part in quantised
    assert not any(p.requires_grad for p in system.parameters())
    assert is_quantized(system) and not is_quantized(tiny_system())
    before = {k: v.clone() for k, v in system.state_dict().items()}
    again = quantize_(system).state_dict()
    assert all(torch.equal(before[k], again[k]) for k in before)


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("model_type", ["wavlm", "hubert", "wav2vec2"])
def test_outputs_are_near_those_of_fp32(model_type, fast_path):
    torch.manual_seed(0)
    system = tiny_system(model_type)
    system.ssl_encoder.arrange(fast=fast_path)
    wavs, lens = wavs_of()
    with torch.no_grad():
        expected = system(wavs, lens)
        expected_wavs = system.enhanced_wavs(expected, 9000)
        found = quantize_(system)(wavs, lens)
        found_wavs = system.enhanced_wavs(found, 9000)
    torch.testing.assert_close(
        found.logits, expected.logits, atol=0.05, rtol=0.05
    )
    error = (found_wavs - expected_wavs).norm() / expected_wavs.norm()
    assert 0 < error < 0.02


def test_an_utterance_is_the_same_alone_and_padded():
    torch.manual_seed(0)
    system = quantize_(tiny_system())
    wavs, lens = wavs_of()
    with torch.no_grad():
        together = system(wavs, lens)
        enhanced = system.enhanced_wavs(together, 9000)
        for row, length in enumerate([9000, 5490, 2700]):
            alone = system(wavs[row : row + 1, :length])
            torch.testing.assert_close(
                alone.logits[0], together.logits[row], atol=1e-5, rtol=0
            )
            torch.testing.assert_close(
                system.enhanced_wavs(alone, length)[0],
                enhanced[row, :length],
                atol=1e-5,
                rtol=0,
            )


def test_routers_decide_on_what_they_see_in_fp32():
    system = quantize_(tiny_system())
    routers = [m for m in system.modules() if isinstance(m, TopKRouter)]
    assert len(routers) == 2
    assert all(r.linear.weight.dtype == torch.float32 for r in routers)


# ---- folders --------------------------------------------------------------


def test_folders_of_integers(tmp_path):
    torch.manual_seed(0)
    system = quantize_(tiny_system())
    save_folder(system, tmp_path / "int8", LABELS)
    text = (tmp_path / "int8" / "hyperparams.yaml").read_text()
    assert '\nquantization: "int8"\n' in text
    weights = safetensors.torch.load_file(
        tmp_path / "int8" / "model.safetensors"
    )
    kinds = {str(tensor.dtype) for tensor in weights.values()}
    assert "torch.int8" in kinds
    wavs, lens = wavs_of()
    with torch.no_grad():
        expected = system(wavs, lens).logits
    hparams = load_folder(tmp_path / "int8")
    assert hparams["modules"]["system"] is hparams["system"]
    plain = Pretrained.from_hparams(source=str(tmp_path / "int8"))
    ours = SparseMERIT.from_hparams(source=tmp_path / "int8")
    for other in (hparams["system"], plain.mods.system, ours.mods.system):
        assert is_quantized(other)
        with torch.no_grad():
            torch.testing.assert_close(other(wavs, lens).logits, expected)


def test_a_cascade(tmp_path):
    cascade = CascadeSystem(tiny_system(), front_end=tiny_system()).eval()
    save_folder(quantize_(cascade), tmp_path / "int8", LABELS)
    again = load_folder(tmp_path / "int8")["system"]
    assert is_quantized(again.front_end) and is_quantized(again.ser_system)
    wavs, lens = wavs_of()
    with torch.no_grad():
        one, other = cascade(wavs, lens), again(wavs, lens)
    torch.testing.assert_close(one.logits, other.logits)


def test_quantised_on_loading(tmp_path):
    save_folder(tiny_system(), tmp_path / "fp32", LABELS)
    model = SparseMERIT.from_hparams(source=tmp_path / "fp32", int8=True)
    assert is_quantized(model.mods.system)
    plain = SparseMERIT.from_hparams(source=tmp_path / "fp32")
    wav = wavs_of()[0][0]
    one, other = model.analyze(wav), plain.analyze(wav)
    for label, value in one.emotion.probabilities.items():
        assert value == pytest.approx(
            other.emotion.probabilities[label], abs=0.02
        )
    with pytest.raises(InputError, match="device that is here.*got 'meta'"):
        SparseMERIT.from_hparams(
            source=tmp_path / "fp32", int8=True, run_opts={"device": "meta"}
        )


def test_integers_do_not_fit_where_floats_were(tmp_path):
    save_folder(quantize_(tiny_system()), tmp_path / "int8", LABELS)
    save_folder(tiny_system(), tmp_path / "fp32", LABELS)
    for take in (
        lambda: load_parts(tiny_system(), tmp_path / "int8"),
        lambda: encoder_of(tmp_path / "int8"),
    ):
        with pytest.raises(InputError, match="8-bit integers: training start"):
            take()
    (tmp_path / "int8" / "model.safetensors").replace(
        tmp_path / "fp32" / "model.safetensors"
    )
    with pytest.raises(InputError, match="weight_int8: not expected"):
        load_folder(tmp_path / "fp32")


@pytest.mark.slow
def test_export_as_integers(tmp_path):
    run = write_results(write_run(tmp_path / "run"))
    export_run(run, tmp_path / "fp32")
    export_run(run, tmp_path / "int8", int8=True)
    data, text = card_of(tmp_path / "int8")
    assert data.eval_results is None
    assert "measured before the weights were quantised" in text
    assert "8-bit integers in the linear layers" in text
    plain = card_of(tmp_path / "fp32")[1]
    size = plain.partition("Parameters: ")[2].partition(".")[0]
    assert f"Parameters: {size}." in text
    model = SparseMERIT.from_hparams(source=tmp_path / "int8")
    assert model.hparams.quantization == "int8"


@pytest.mark.slow
def test_no_warning_reaches_the_user(tmp_path):
    save_folder(tiny_system(), tmp_path / "fp32", LABELS)
    code = (
        "import sys, warnings, torch\n"
        "from merit_modules.inference import SparseMERIT\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        "    model = SparseMERIT.from_hparams(sys.argv[1], int8=True)\n"
        "    model.classify(torch.randn(8000))\n"
        "print([str(w.message) for w in told if 'quant' in str(w.message)])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "fp32")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"

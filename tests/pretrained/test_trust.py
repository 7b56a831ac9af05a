"""Foreign models: nothing that a stranger's folder names is run."""

import time

import pytest
import safetensors.torch
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.errors import InputError
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import load_folder, save_folder
from merit_modules.pretrained.trust import (
    MODEL_TAGS,
    RUN_TAGS,
    check_text,
)
from merit_modules.tiny import tiny_system
from tests.conftest import ROOT
from tests.helpers.copies import experiments
from tests.helpers.pages import blocks

LABELS = ["angry", "sad", "happy", "calm"]


@pytest.fixture
def folder(tmp_path):
    save_folder(tiny_system(), tmp_path / "model", LABELS)
    return tmp_path / "model"


def change(folder, text="", old=None, new=""):
    path = folder / "hyperparams.yaml"
    before = path.read_text()
    if old is not None:
        assert old in before
        before = before.replace(old, new)
    path.write_text(before + text)


MARK = "merit_was_here"
HOSTILE = {
    "system": f"x: !apply:os.system ['touch {MARK}']\n",
    "popen": f"x: !new:subprocess.Popen ['touch {MARK}']\n",
    "eval": f"""x: !apply:builtins.eval ["open('{MARK}', 'w')"]\n""",
    "exec": f"""x: !apply:builtins.exec ["open('{MARK}', 'w')"]\n""",
    "python": f"x: !!python/object/apply:os.system ['touch {MARK}']\n",
    "verbatim": f"x: !<!apply:os.system> ['touch {MARK}']\n",
    "module": "x: !name:os.system\n",
    "copyfile": f"x: !apply:shutil.copyfile [hyperparams.yaml, {MARK}]\n",
    "unpickle": "x: !apply:torch.load {f: a.pt, weights_only: False}\n",
    "reach": f"x: !apply:merit_modules.files.os.system ['touch {MARK}']\n",
    "own": f"x: !apply:merit_modules.files.write_atomically [{MARK}, text]\n",
    "include": "x: !include:/etc/hostname\n",
    "bomb": "".join(
        f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9 if i else ['x'] * 9)}]\n"
        for i in range(10)
    ),
    "power": "x: 10\ny: !ref <x> * 10**400000000\n",
    "longer": "x: 10\ny: !ref <x> ** <x> ** <x>\n",
    "deep": "x: " + "[" * 5000 + "]" * 5000 + "\n",
    "many": "x: [" + "1, " * 40000 + "1]\n",
    "large": "x: '" + "a" * 2**21 + "'\n",
    "two": "\n---\nx: 1\n",
    "copy": "x: !copy <system>\n",
    "import": f"x: !name:{MARK}.run\n",
}


@pytest.mark.parametrize("payload", HOSTILE)
def test_nothing_else_is_built(folder, payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(folder, HOSTILE[payload])
    start = time.monotonic()
    for load in (
        lambda: load_folder(folder),
        lambda: SparseMERIT.from_hparams(source=folder),
    ):
        with pytest.raises(InputError, match="hyperparams.yaml"):
            load()
    assert time.monotonic() - start < 10  # 5 s each
    assert not (tmp_path / MARK).exists()


SIZES = [
    ("num_hidden_layers: 2", "num_hidden_layers: 100000"),
    ("num_hidden_layers: 2", "num_hidden_layers: 1_000_000"),
    ("hidden_size: 16", "hidden_size: 160000"),
    ("hidden_size: 16", "hidden_size: 1e15"),
    ("hidden_size: 16", "hidden_size: 0x7fffffffff"),
    ("n_experts: 3", "n_experts: 300000"),
    ("n_layer_reps: 3", "n_layer_reps: 1000000"),
    ("attention_span_s: null", "attention_span_s: 1.0e+9"),
    ("attention_span_s: null", "attention_span_s: .inf"),
    ("attention_span_s: null", "attention_span_s: -.INF"),
    ('"model.safetensors"', '"another.safetensors"'),
    ('"model.safetensors"', '"../other/model.safetensors"'),
    ('"model.safetensors"', '"/etc/passwd"'),
    ("{hidden_size", '{_attn_implementation: "owner/kernel", hidden_size'),
    ("{hidden_size", '{dtype: "float16", hidden_size'),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_sizes_and_settings_have_bounds(folder, old, new):
    change(folder, old=old, new=new)
    start = time.monotonic()
    with pytest.raises(InputError):
        load_folder(folder)
    assert time.monotonic() - start < 5


POOL = (
    "!new:merit_modules.moe.ExpertPool {n_experts: 1000, input_size: 9000, "
    "hidden_size: 9000, output_size: 9000}"
)
ENCODER = (
    "!new:merit_modules.ssl.RandomSSLEncoder {model_type: wavlm, config: "
    "{num_hidden_layers: 900}}"
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("modules:", f"other: {POOL}\nmodules:"),
        ("modules:", f"others: [1, [{ENCODER}, {ENCODER}]]\nmodules:"),
        ("{hidden_size", f"{{apply_spec_augment: {POOL}, hidden_size"),
        ("n_layer_reps: 3", f"n_layer_reps: 3\n            eps: {POOL}"),
    ],
)
def test_no_part_is_larger_than_the_weights(folder, old, new):
    # Nothing of that size may be made: 324 GB would end this process.
    change(folder, old=old, new=new)
    start = time.monotonic()
    for load in (load_folder, lambda f: SparseMERIT.from_hparams(source=f)):
        with pytest.raises(InputError, match="larger than its weights|yaml"):
            load(folder)
    assert time.monotonic() - start < 10


def test_without_weights_nothing_is_built(folder):
    change(folder, "other: !new:merit_modules.moe.LayerNormConcat "
           "{n_layer_reps: 2, dim: 4}\n")  # fmt: skip
    (folder / "model.safetensors").unlink()
    for load in (load_folder, lambda f: SparseMERIT.from_hparams(source=f)):
        with pytest.raises(InputError, match="model.safetensors"):
            load(folder)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"calm"]', '"calm", "bored"]', "as many as the SER head has"),
        ('["angry", "sad", "happy", "calm"]', "null", "label"),
        ('["angry", "sad", "happy", "calm"]', "[1, 2, 3, 4]", "labels"),
        ('"calm"]', '"sad"]', "labels"),
        ("sample_rate_hz: 16000", "sample_rate_hz: 0", "sample_rate_hz"),
        ("sample_rate_hz: 16000", "sample_rate_hz: fast", "sample_rate_hz"),
    ],
)
def test_facts_that_cannot_be_so(folder, old, new, named):
    change(folder, old=old, new=new)
    with pytest.raises(InputError, match=named):
        SparseMERIT.from_hparams(source=folder)


@pytest.mark.parametrize("kind", ["nan", "integer", "missing", "more"])
def test_weights_that_do_not_fit(folder, kind):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    name = next(n for n in weights if n.startswith("mixture.experts"))
    if kind == "nan":
        weights[name].view(-1)[0] = float("nan")
    elif kind == "integer":
        weights[name] = weights[name].to(torch.int32)
    elif kind == "missing":
        del weights[name]
    else:
        name = "another"
        weights[name] = torch.zeros(3)
    safetensors.torch.save_file(weights, path)
    for load in (load_folder, lambda f: SparseMERIT.from_hparams(source=f)):
        with pytest.raises(InputError, match=name):
            load(folder)


def test_half_precision_is_read_as_single(folder):
    path = folder / "model.safetensors"
    expected = load_folder(folder)["system"](torch.ones(1, 8000)).logits
    weights = safetensors.torch.load_file(path)
    halves = {
        k: v.half() if v.is_floating_point() else v for k, v in weights.items()
    }
    safetensors.torch.save_file(halves, path)
    system = load_folder(folder)["system"]
    assert {p.dtype for p in system.parameters()} == {torch.float32}
    found = system(torch.ones(1, 8000)).logits
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_a_folder_that_is_trusted_may(folder, capsys, tmp_path):
    change(folder, "made: !new:collections.Counter {a: 2}\n")
    with pytest.raises(InputError, match="line .*collections.Counter.*--trust"):
        load_folder(folder)
    assert load_folder(folder, trust=True)["made"] == {"a": 2}
    SparseMERIT.from_hparams(source=folder, trust=True)
    soundfile.write(tmp_path / "a.wav", torch.randn(8000).numpy() / 9, 16000)
    command = ["classify", str(tmp_path / "a.wav"), "--model", str(folder)]
    assert main(command) == 2
    assert main([*command, "--trust"]) == 0


def test_all_recipes_are_known():
    for path in [
        *experiments(),
        ROOT / "tests/fixtures/before_rooms/run/composed.yaml",
    ]:
        check_text(path.read_text(), path, RUN_TAGS)
    for name in ("model", "model_int8"):
        path = ROOT / f"tests/fixtures/before_rooms/{name}/hyperparams.yaml"
        check_text(path.read_text(), path)


def test_augmentation_is_known_unless_it_reads_files():
    """What docs/speechbrain.md shows; not what takes a table of recordings."""
    (shown,) = (
        block
        for block in blocks("docs/speechbrain.md", "yaml")
        if "wav_augment" in block
    )
    check_text(shown, "run.yaml", RUN_TAGS)
    for name in ("AddNoise", "AddReverb"):
        text = shown.replace("SpeedPerturb", name)
        with pytest.raises(InputError, match=f"names .*{name}"):
            check_text(text, "run.yaml", RUN_TAGS)


def test_what_is_known_is_exact():
    for tag in MODEL_TAGS - {"!ref"}:
        with pytest.raises(InputError, match="names"):
            check_text(f"x: {tag}x {{}}", "m.yaml")
        parts = tag.rpartition(".")
        with pytest.raises(InputError, match="names"):
            check_text(f"x: {parts[0]}.os.{parts[2]} {{}}", "m.yaml")


@pytest.mark.parametrize("command", ["evaluate", "export"])
@pytest.mark.parametrize("file", ["composed.yaml", "overrides.yaml"])
@pytest.mark.parametrize("payload", ["system", "power", "bomb", "include"])
def test_somebody_elses_run(tmp_path, command, file, payload, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("composed.yaml", "overrides.yaml"):
        (run / name).write_text("seed: 1\n")
    (run / file).write_text(f"seed: 1\n{HOSTILE[payload]}")
    rest = [str(tmp_path / "out")] if command == "export" else []
    assert main([command, str(run), *rest]) == 2
    assert not (tmp_path / MARK).exists()

"""Wrong values: each ends in one message that names it, before any work."""

import contextlib
import re
import shlex

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speechbrain.utils.run_opts import RunOptions

from merit_modules.commands.__main__ import main as merit
from merit_modules.data.kinds import numbered
from merit_modules.errors import InputError
from merit_modules.hparams import load_hparams, parse_overrides
from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import save_folder
from merit_modules.report.compare import Settings
from merit_modules.report.report import write_report
from merit_modules.tiny import tiny_system
from merit_modules.training.defaults import (
    DEFAULTS,
    NEEDED,
    with_defaults,
    workers_of,
)
from merit_modules.training.experiment import usage
from merit_modules.training.keys import (
    KEYS,
    check_command,
    checked,
    problems_of,
)
from tests.conftest import ROOT
from tests.helpers import forking, keys_page
from tests.helpers.experiments import EXPERIMENTS, name_of
from tests.helpers.exported import write_run
from tests.helpers.pages import PAGES, commands

SHIPPED = ROOT / "hparams" / "sparse_merit.yaml"


def ended(words, capsys, caplog):
    """Run a command; return its exit code and what it said."""
    caplog.clear()
    capsys.readouterr()
    try:
        code = merit([str(word) for word in words])
    except SystemExit as stop:  # SpeechBrain's own parser
        code = stop.code
    return code, capsys.readouterr().err + caplog.text


def contents(folder):
    return {
        path.relative_to(folder): path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


# ---- keys of a training --------------------------------------------------

WRONG = {
    "lr": ["-1", "fast", "", "nan", ".inf", "[1]", "True", "2020-01-01"],
    "final_lr": ["-1"],
    "ssl_lr_factor": ["-0.5"],
    "expert_lr_factor": ["-0.1", "slow"],
    "weight_decay": ["x", "-1"],
    "number_of_epochs": ["-3", "two", "1.5", "1e3"],
    "stage_1_epochs": ["1.5", "-1", "null"],
    "stage_2_epochs": ["many"],
    "batch_length_s": ["0", "-5", ".nan"],
    "max_batch_size": ["0", "2.5"],
    "n_length_buckets": ["0", "few"],
    "num_workers": ["-1", "many", "True"],
    "sample_rate_hz": ["0", "500", "16k", "16000.5", "1000000000"],
    "max_duration_s": ["0", "-1", "long"],
    "test_snrs_db": ["5", "[loud]", "[500]", "[0, 0]", "null"],
    "train_snr_db": ["[20,-5]", "loud", "[1, 2, 3]", "1000", "True"],
    "valid_snr_db": ["[]", "[a, b]"],
    "test_noise_sets": ["test_unseen", "3"],
    "test_sets": ["test", "[]", "[1]"],
    "emotions": ["[]", "[sad]", "[sad, sad]", "sad", "[1, 2]"],
    "ser_outputs": ["sad", "[null]"],
    "corpus_about": ["[a]", "{a", "text"],
    "ser_ce_weight": [".nan", "-1", "heavy"],
    "se_l1_weight": ["[1]"],
    "load_balance_weight": ["-.inf"],
    "expert_hidden": ["0", "-5", "wide"],
    "expert_output": ["0"],
    "n_experts": ["0", "three"],
    "top_k": ["0", "-1"],
    "se_hidden": ["0"],
    "observation_level_db": ["3", "low"],
    "ser_hidden": ["1.5"],
    "ser_dropout": ["2", "-0.1"],
    "n_examples": ["-1", "few"],
    "measure_cost": ["often", "2"],
    "n_sentences": ["0"],
    "seed": ["-1", "1.5", "x", "99999999999", "null"],
    "mixture_seed": ["-1"],
    "ser_target": ["feeling"],
    "attribute_scale": ["[7, 1]", "3"],
    "padding_rule": ["never"],
    "fast_path": ["maybe", "1"],
    "skip_prep": ["maybe"],
    "test_clean": ["5"],
    "router_gradient": ["magic"],
    "expert_start": ["anew"],
    "balance_loss": ["kl2"],
    "balance_scope": ["all"],
    "task_weighting": ["no"],
    "gradient_surgery": ["scalpel"],
    "gradient_conflict_interval": ["-1", "0.5"],
    "checkpoint_score": ["wer", "[loss]"],
    "keep_checkpoints": ["0"],
    "metrics": ["[psq]", "stoi", "[stoi, stoi]"],
    "num_metric_workers": ["-1"],
    "test_conditions": ["clean"],
    "removal_conditions": ["clean"],
    "init_from": ["3"],
    "init_parts": ["encoder", "[]"],
    "train_mixtures": ["5"],
    "system": ["x"],
    "loss": ["3"],
    "opt_class": ["adam"],
    "epoch_counter": ["5"],
    "lr_annealing": ["linear"],
    "modules": ["3"],
    # SpeechBrain's run options
    "device": ["toaster", "cuda:99", "cuda:x", "meta"],
    "grad_accumulation_factor": ["0", "-2", "x"],
    "precision": ["fp64"],
    "nonfinite_patience": ["-1"],
    "debug_batches": ["0"],
    "optimizer_step_limit": ["5"],
    "compile_mode": ["fastest"],
    "distributed_backend": ["pigeons"],
}
PAIRS = [(key, value) for key, values in WRONG.items() for value in values]


def test_there_are_many():
    assert len(PAIRS) >= 130
    assert set(WRONG) <= set(KEYS)


@pytest.mark.parametrize("key, value", PAIRS)
def test_a_wrong_value_is_named(key, value, tmp_path, capsys, caplog):
    words = ["train", "sparse_merit", f"--{key}", value]
    words += ["--output_folder", tmp_path / "run"]
    code, said = ended(words, capsys, caplog)
    assert code == 2 and "Traceback" not in said
    assert re.search(
        rf"\b{key}: (expected .+, got|invalid)|not '{key}: ", said, re.S
    )
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_named(tmp_path, capsys, caplog):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    words = ["train", "sparse_merit", "--output_folder", tmp_path / "run"]
    for more, expected in [
        (["--device", "cuda"], "got 'cuda'; "),
        (["--precision", "fp16"], "precision: expected fp32 or bf16 on a CPU"),
        (["--data_parallel_backend"], "data_parallel_backend: expected a GPU"),
    ]:
        code, said = ended([*words, *more], capsys, caplog)
        assert code == 2 and expected in said
    assert not list(tmp_path.iterdir())


def test_bf16_is_for_gpus_that_have_it(monkeypatch, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("precision: bf16")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    able = []
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: bool(able) or including_emulation,
    )
    with pytest.raises(InputError, match="fp16 or fp32, as Tesla T4 has no"):
        checked(path, {"device": "cuda"}, "").__enter__()
    for options, overrides in (
        ({"device": "cuda", "precision": "fp16"}, ""),
        ({"device": "cuda"}, "precision: fp32"),
        ({"device": "cpu"}, ""),
    ):
        with checked(path, options, overrides):
            pass
    able.append(True)
    with checked(path, {"device": "cuda"}, ""):
        pass


@pytest.mark.parametrize(
    "run_opts, hparams, expected",
    [
        ({"device": "cuda"}, {}, "cuda:0"),
        ({"device": "cuda:1"}, {}, "cuda:1"),
        ({"device": "cpu"}, {"device": "cuda"}, "cpu"),
        ({"debug": True}, {"device": "cuda"}, "cuda:0"),
        (RunOptions.from_dictionary({"device": "cuda"}), {}, "cuda:0"),
        (None, {}, "cuda:0"),  # SpeechBrain's own guess, where there is one
    ],
)
def test_speechbrain_gets_a_gpu_by_its_number(
    monkeypatch, run_opts, hparams, expected
):
    guess = "speechbrain.utils.distributed.infer_device"
    monkeypatch.setattr(guess, lambda: "cuda")
    found = numbered(run_opts, hparams)
    assert found["device"] == expected
    if found is not run_opts:
        given = {*getattr(run_opts, "overridden_args", run_opts or ())}
        assert found.overridden_args == given | {"device"}
        monkeypatch.setenv("LOCAL_RANK", "3")
        assert numbered(run_opts, hparams)["device"] == "cuda:3"


@pytest.mark.parametrize("key", ["output_folder", "save_folder"])
def test_a_file_is_no_folder(key, tmp_path, capsys, caplog):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        words = ["train", SHIPPED, "--output_folder", tmp_path / "run"]
        code, said = ended([*words, f"--{key}", place], capsys, caplog)
        assert code == 2 and re.search(f"{key}: expected a folder|{key}", said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_values_of_the_file_are_told_with_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: -1\nseed: x\nhalf: !ref <lr> / 2\nmy_note: -1\n")
    with pytest.raises(InputError) as caught:
        check_command(path, None, {})
    lines = str(caught.value).splitlines()
    assert [line.split(": expected")[0] for line in lines] == [
        f"{path}: lr",
        f"{path}: seed",
    ]
    check_command(path, None, "lr: 1\nseed: 2")
    with pytest.raises(InputError, match="did you mean 'my_note'"):
        check_command(path, None, {"my_not": 1})


FILES = {
    "binary": (b"lr: \xff\xfe\x80\n", "binary.yaml: expected text in UTF-8"),
    "itself": (b"a: !include:itself.yaml\n", "itself.yaml, which includes it"),
    "circle": (b"a: !include:round.yaml\n", "circle.yaml, which includes its"),
    "round": (b"a: !include:circle.yaml\n", "round.yaml, which includes its"),
    "outer": (b"a: !include:inner.yaml\n", r"outer.yaml: .*/inner.yaml: not Y"),
    "inner": (b"a: [1\n", "inner.yaml: not YAML"),
    "middle": (b"a: !include:outer.yaml\n", r"outer.yaml: includes .*/inner.y"),
    "deep": (b"a: !include:binary.yaml\n", "binary.yaml: expected text in UTF"),
    "gone": (b"a: !include:nothing.yaml\n", "nothing.yaml: No such file"),
    "nameless": (b"a: !include: text\n", "nameless.yaml: "),
    "tag": (b"a: !include text\n", "tag.yaml: not YAML: .*!include"),
    "empty": (b"", "empty.yaml: expected keys and values"),
    "list": (b"- 1\n", "list.yaml: expected keys and values"),
    "twice": (b"a: 1\na: 2\n", 'twice.yaml: .*duplicate key "a"'),
    "nested": (b"a: " + b"[" * 800, "nested.yaml: not YAML"),
    "huge": (b"a: " + b"9" * 9999, "huge.yaml: "),
    "reference": (b"a: !ref <b>\n", 'reference.yaml: .*"b" is not valid'),
    "number": (b"seed: one\n", "number.yaml: seed: expected a whole number"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_named(name, tmp_path):
    for other, (content, _) in FILES.items():
        (tmp_path / f"{other}.yaml").write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"(?s){FILES[name][1]}"):
        check_command(tmp_path / f"{name}.yaml", {}, "{}")
        load_hparams(tmp_path / f"{name}.yaml")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "value, words",
    [
        ("{source: 3}", "SSL source 3: "),
        ("{source: no/such/folder}", "'no/such/folder'"),
        ("{padding_rule: none}", "'none'"),
        ("{fast: {}, more: 1}", "more"),
    ],
)
def test_what_a_part_says_to_its_arguments_is_told(value, words):
    with pytest.raises(InputError, match=words):
        load_hparams(SHIPPED, f"ssl_encoder: {value}")


# ---- other commands --------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run, a model and a recording."""
    folder = tmp_path_factory.mktemp("places")
    write_run(folder / "RUN")
    save_folder(tiny_system(), folder / "MODEL", ["a", "b", "c", "d"])
    sound = np.random.default_rng(0).normal(0, 0.1, 4000)
    soundfile.write(folder / "a.wav", sound, 16000)
    (folder / "file").touch()
    return folder


COMMANDS = [
    ("evaluate RUN --batch_length_s 0", "batch_length_s: expected"),
    ("evaluate RUN --num_workers many", "num_workers: expected"),
    ("evaluate RUN --test_snrs_db 5", "test_snrs_db: expected a list"),
    ("evaluate RUN --test_noise_sets test_seen", "test_noise_sets: expected"),
    ("evaluate RUN --device toaster", "device: expected"),
    ("evaluate RUN --metrics stoi", "metrics: expected a list"),
    ("evaluate RUN --n_examples -1", "n_examples: expected"),
    ("evaluate RUN --lrr 1", "no key 'lrr'"),
    ("evaluate RUN --metrics [stoi", "not 'metrics: "),
    ("evaluate RUN word", "options: expected"),
    ("mix YAML --split train --out OUT --num_workers -1", "num_workers: exp"),
    ("mix YAML --split train --out OUT --train_snr_db x", "train_snr_db: exp"),
    ("mix YAML --split train --out FILE", "--out: expected a folder"),
    ("mix YAML --split train --out OUT --epoch x", "--epoch: invalid int"),
    ("mix YAML --split train --out OUT --lrr 1", "no key 'lrr'"),
    ("folds TRAIN YAML --out OUT -- --lr fast", "lr: expected a number"),
    ("folds TRAIN YAML --out OUT -- --emotions []", "emotions: expected"),
    ("folds TRAIN YAML --out OUT -- --lr=-1", "lr: expected a number"),
    ("folds TRAIN YAML --out OUT -- --grad_accumulation_factor 0", "grad_acc"),
    ("folds TRAIN YAML --out OUT -- --precision fp64", "precision: expected"),
    ("report RUN --out OUT --alpha 2", "alpha: expected a number above 0 and"),
    ("report RUN --out OUT --alpha 0", "alpha: expected"),
    ("report RUN --out OUT --alpha x", "--alpha: invalid float"),
    ("report RUN --out OUT --resamples 0", "resamples: expected a whole"),
    ("report RUN --out OUT --seed -1", "seed: expected a whole number"),
    ("report RUN --out FILE", "out: expected a folder"),
    ("report RUN --out FILE/below", "out: expected a folder"),
    ("export RUN FILE", "FILE: expected a folder, found a file"),
    ("export RUN FILE/below", "model folder: expected a folder"),
    ("export RUN OUT --average 0", "average: expected 1 or more"),
    ("export RUN OUT --corpus_about [a]", "--corpus_about: expected keys"),
    ("export RUN OUT --corpus_about {a", "--corpus_about: expected YAML"),
    ("export RUN OUT --corpus_about 5", "--corpus_about: expected keys"),
    ("convert MODEL FILE/below", "model folder: expected a folder"),
    ("analyze WAV --model MODEL --device toaster", "device: expected"),
    ("analyze WAV --model MODEL --device cuda:99", "device: expected"),
    ("analyze WAV --model MODEL --jobs -1", "--jobs: expected a whole"),
    ("analyze WAV --model MODEL --batch-seconds nan", "--batch-seconds: exp"),
    ("analyze WAV --model MODEL --chunk-seconds x", "--chunk-seconds: expect"),
    ("analyze WAV --model MODEL --out FILE/below", "file/below: cannot be"),
    ("demo --model MODEL --port 70000", "--port: expected a whole number"),
    ("demo --model MODEL --port x", "--port: expected a whole number"),
    ("demo --model MODEL --max-minutes -1", "--max-minutes: expected"),
    ("demo --model MODEL --max-upload-mb inf", "--max-upload-mb: expected"),
    ("demo --model MODEL --device toaster", "device: expected"),
]


@pytest.mark.parametrize("command, expected", COMMANDS)
def test_wrong_options(command, expected, places, capsys, caplog):
    names = {"OUT": "out", "FILE": "file", "WAV": "a.wav"}
    names |= {"RUN": "RUN", "MODEL": "MODEL"}
    names = {name: places / path for name, path in names.items()}
    names |= {"YAML": SHIPPED, "TRAIN": ROOT / "train.py"}
    pattern = r"\b(" + "|".join(names) + r")\b"
    words = [
        re.sub(pattern, lambda found: str(names[found[1]]), word)
        for word in command.split()
    ]
    before = contents(places)
    code, said = ended(words, capsys, caplog)
    assert code == 2 and "Traceback" not in said
    assert expected.replace("FILE", str(places / "file")) in said
    assert contents(places) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["train.py", "hparams/sparse_merit.yaml", "--lr", "-1"],
        ["train.py", "hparams/sparse_merit.yaml", "--num_workers", "many"],
        ["-m", "merit_modules.commands", "train", "sparse_merit", "--seed="],
    ],
)
def test_a_command_of_its_own_says_it_in_one_line(words, tmp_path):
    words = [*words, "--output_folder", tmp_path / "run"]
    done = forking.run(words)
    said = done.stdout + done.stderr
    assert done.returncode == 2 and "Traceback" not in said
    assert re.search(r"error: \w+: expected .*number.*, got ", said)
    assert not list(tmp_path.iterdir())


# ---- from Python -----------------------------------------------------------


@pytest.fixture(scope="module")
def model(places):
    return SparseMERIT.from_hparams(source=places / "MODEL")


NOISE = torch.randn(2, 4000) * 0.1


@pytest.mark.parametrize(
    "name, call",
    [
        ("sample_rate_hz", lambda m: m.analyze(NOISE, sample_rate_hz=-1)),
        ("sample_rate_hz", lambda m: m.analyze(NOISE, sample_rate_hz="x")),
        ("sample_rate_hz", lambda m: m.analyze(NOISE, sample_rate_hz=True)),
        ("sample_rate_hz", lambda m: m.enhance(NOISE, float("inf"))),
        ("sample_rate_hz", lambda m: m.live(sample_rate_hz=-1)),
        ("sample_rate_hz", lambda m: m.live(sample_rate_hz="x")),
        ("sample_rate_hz", lambda m: m.live(sample_rate_hz=1e12)),
        ("sample_rate_hz", lambda m: m.live(sample_rate_hz=0.5)),
        ("tasks", lambda m: m.live(tasks=["x"])),
        ("tasks", lambda m: m.live(tasks="se")),
        ("tasks", lambda m: m.live(tasks=[])),
        ("tasks", lambda m: m.live(tasks=5)),
        ("segment_s", lambda m: m.timeline(NOISE, segment_s="x")),
        ("segment_s", lambda m: m.timeline(NOISE, segment_s=None)),
        ("segment_s", lambda m: m.analyze(NOISE, segment_s=0)),
        ("batch_s", lambda m: m.run([], ["se"], batch_s=-1)),
        ("n_readers", lambda m: m.run([], ["se"], n_readers=-1)),
        ("wav_lens", lambda m: m.enhance_batch(NOISE, torch.ones(3))),
        ("wav_lens", lambda m: m.enhance_batch(NOISE, "x")),
        ("lengths", lambda m: m.enhance_batch(NOISE, torch.tensor([1, 2.0]))),
        ("lengths", lambda m: m.enhance_batch(NOISE, NOISE[:, 0] * torch.nan)),
        ("wav_lens", lambda m: m.mods.system(NOISE, torch.ones(3))),
        ("wav_lens", lambda m: m.mods.system(NOISE, torch.ones(1))),
        ("wavs", lambda m: m.classify_batch("x")),
    ],
)
def test_wrong_arguments(model, name, call):
    with pytest.raises(InputError, match=f"{name}.*: expected"):
        call(model)


@pytest.mark.parametrize("device", ["toaster", "cuda:99", 3])
def test_a_model_s_device_is_there(places, device):
    with pytest.raises(InputError, match="device: expected"):
        SparseMERIT.from_hparams(
            source=places / "MODEL", run_opts={"device": device}
        )


def test_settings_of_a_report(tmp_path):
    for changes in ({"alpha": "x"}, {"n_resamples": 0}, {"seed": 1.5}):
        with pytest.raises(InputError, match=": expected"):
            write_report([], tmp_path / "out", Settings(**changes))
    assert not list(tmp_path.iterdir())


def test_what_python_gives_is_checked_too():
    needed = dict.fromkeys(NEEDED, object())
    with pytest.raises(InputError, match="x.yaml: max_batch_size: expected"):
        with_defaults({**needed, "max_batch_size": 0}, "x.yaml")
    with_defaults({**needed, "emotions": object()}, "x.yaml")


# ---- what is right passes --------------------------------------------------


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_shipped_files_pass(path, tmp_path):
    text = path.read_text()
    blanks = re.findall(r"^(\w+): !PLACEHOLDER", text, re.M)
    check_command(path, RunOptions(), dict.fromkeys(blanks, str(tmp_path)))
    keys = {key for key in re.findall(r"^(\w+):", text, re.M) if key[0] != "_"}
    assert keys <= set(KEYS)


def test_each_key_is_somebody_s():
    keys = set(DEFAULTS) | set(NEEDED) | set(RunOptions().as_dict())
    for path in EXPERIMENTS:
        keys |= set(re.findall(r"^(\w+):", path.read_text(), re.M))
    assert set(KEYS) <= keys
    assert set(DEFAULTS) | set(NEEDED) <= set(KEYS)
    assert problems_of(DEFAULTS) == {}
    older = ROOT / "tests" / "fixtures" / "before_rooms" / "run"
    overrides = parse_overrides((older / "overrides.yaml").read_text())
    check_command(older / "composed.yaml", {}, overrides)


def test_values_of_the_pages_pass():
    found = {}
    for page in PAGES.keys() - {"docs/performance.md"}:  # benchmarks
        for command in [*commands(page), *re.findall(r"`(.+?)`", PAGES[page])]:
            pattern = r"--(\w+) ('[^']*'|\"[^\"]*\"|[^\s`$\"']+)"
            for key, value in re.findall(pattern, command):
                if key in KEYS and "merit" not in value:
                    (word,) = shlex.split(value)
                    found[page, key, word] = parse_overrides(f"{key}: {word}")
    assert len(found) > 40
    for where, values in found.items():
        if "device" not in values:  # pages have GPUs
            assert problems_of(values) == {}, where


def test_one_s_own_keys_and_parts_pass(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "lr: !apply:math.sqrt [4]\nmy_lr: -1\nmy_part: {a: [1, null]}\n"
        "system: !new:torch.nn.Linear [1, 2]\nseed: !ref <lr>\n"
        "train_snr_db: (0, 5)\nlr_annealing: null\n"
    )
    check_command(path, {"device": None}, {"my_lr": None})
    path.write_text("lr: !apply:operator.neg [4]\n")
    check_command(path, {}, {})  # what comes of it is checked when it is built
    with pytest.raises(InputError, match="mine.yaml: lr: expected"):
        needed = dict.fromkeys(NEEDED, object())
        with_defaults({**needed, **load_hparams(path)}, path)


def bounds_of(told):
    """Read the bounds of a kind from its words."""
    number = r"(-?[\d.]+)"
    least = re.search(rf", {number} or more", told)
    both = re.search(rf"from {number} to {number}", told)
    above = re.search(rf"above {number}", told)
    below = re.search(rf"below {number}", told)
    low = (both and both[1]) or (least and least[1]) or (above and above[1])
    high = (both and both[2]) or (below and below[1])
    return (
        None if low is None else float(low),
        None if high is None else float(high),
        {"exclude_min": bool(above), "exclude_max": bool(below)},
    )


NUMBERS = sorted(
    key
    for key, (kind, _) in KEYS.items()
    if re.match(r"(null or )?(a (whole )?number|seconds|minutes)\b", kind.told)
)


@settings(max_examples=300)
@given(st.data())
def test_what_is_within_the_words_passes_and_nothing_else(data):
    key = data.draw(st.sampled_from(NUMBERS))
    kind = KEYS[key][0]
    low, high, open_ends = bounds_of(kind.told)
    whole = "whole" in kind.told
    if whole:
        good = st.integers(
            None if low is None else int(low) + open_ends["exclude_min"],
            None if high is None else int(high),
        )
    else:
        good = st.floats(
            low, high, allow_nan=False, allow_infinity=False, **open_ends
        )
    value = data.draw(good)
    assert problems_of({key: value}) == {}, (key, value)
    bad = [st.just(x) for x in ("x", [], {}, float("nan"), True)]
    if low is not None:
        bad.append(st.floats(max_value=low, exclude_max=True))
        if open_ends["exclude_min"]:
            bad.append(st.just(low))
    if high is not None:
        bad.append(st.floats(min_value=high, exclude_min=True))
    if whole:
        bad.append(st.just(1.5))
    value = data.draw(st.one_of(bad))
    assert list(problems_of({key: value})) == [key], value


def test_choices_are_those_there_are():
    from merit_modules.evaluation.metrics.scoring import METRICS
    from merit_modules.inference.batch_interface import MAX_RATE_HZ
    from merit_modules.lengths import RULES
    from merit_modules.losses.joint import BALANCE_SCOPES, WEIGHTINGS
    from merit_modules.losses.routing import BALANCE_LOSSES
    from merit_modules.moe.experts import EXPERT_STARTS
    from merit_modules.moe.routers import GRADIENTS
    from merit_modules.pretrained.load import PARTS
    from merit_modules.system import SER_INPUTS
    from merit_modules.training.checkpoints import SCORES
    from merit_modules.training.gradients import SURGERIES

    for key, names in {
        "metrics": METRICS,
        "padding_rule": RULES,
        "balance_loss": BALANCE_LOSSES,
        "balance_scope": BALANCE_SCOPES,
        "task_weighting": WEIGHTINGS,
        "expert_start": EXPERT_STARTS,
        "router_gradient": GRADIENTS,
        "init_parts": PARTS,
        "ser_input": SER_INPUTS,
        "checkpoint_score": SCORES,
        "gradient_surgery": SURGERIES,
        "sample_rate_hz": [f"to {MAX_RATE_HZ}"],
    }.items():
        assert ", ".join(names) in KEYS[key][0].told, key


# ---- one description, everywhere ------------------------------------------


def test_the_page_of_keys_is_what_the_code_says():
    path = ROOT / "docs" / "keys.md"
    assert path.read_text(encoding="utf-8") == keys_page.text(), keys_page.HOW


def test_the_help_says_what_each_key_has_to_be(capsys):
    told = usage("About.", [str(SHIPPED), "--help"])
    for key in ("lr", "top_k", "train_snr_db", "ser_dropout", "emotions"):
        kind, about = KEYS[key]
        assert f"  --{key} " in told and f"      {about}: {kind.told}" in told
    assert merit(["train", "sparse_merit", "--help"]) == 0
    assert KEYS["lr"][0].told in capsys.readouterr().out


def test_workers_that_are_left_open_share_the_cores(monkeypatch):
    open_ones = {"num_workers": None, "num_metric_workers": None}
    for n_cores, n_ranks, expected in (
        (1, 1, (1, 1)),
        (2, 1, (1, 2)),
        (2, 2, (1, 1)),
        (8, 1, (2, 8)),
        (64, 2, (2, 16)),
    ):
        monkeypatch.setattr(
            "os.sched_getaffinity", lambda _, n=n_cores: set(range(n))
        )
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n_ranks))
        assert tuple(workers_of(open_ones).values()) == expected
    assert workers_of({"num_workers": 5}) == {"num_workers": 5}

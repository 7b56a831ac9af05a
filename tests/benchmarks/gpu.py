"""Measure training and inference on a GPU against the baseline.

> python tests/benchmarks/gpu.py --compile --json gpu.json

At WavLM-Large size, with random weights, in five minutes on a card of the H100
class. The baseline (baseline.py) computes in the same precision with the same
weights, optimiser and clipping; *released* is how the released code trains:
fp32, 8 batches of 4, plain AdamW; *arranged* is a model as it is loaded for
inference; *floor* the bare operations that have to be done (gpu_floor.py);
*train.py* the training loop on audio files (gpu_loop.py). Utterances are of the
length that is told down to half of it.

--ssl wavlm_small --device cpu --batch 2 shows on any machine that it runs. The
ways of a GPU are taken there, too, and operations are counted for kernels.
"""

import argparse
import contextlib
import copy
import statistics
import tempfile
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from unittest import mock

import common
import torch
import whole_system
from baseline import Baseline
from gpu_floor import Floor
from gpu_loop import loop_row
from torch._dynamo.utils import counters
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from training_step import Forms

from merit_modules.cpu import onednn
from merit_modules.inference.prepack import arrange_
from merit_modules.ssl.compiled import compile_

COLUMNS = (
    ("what", "what", "{}"),
    ("s", "seconds", "{:g}"),
    ("batch", "batch", "{}"),
    ("form", "form", "{}"),
    ("time s", "time_s", "{:.4f}"),
    ("audio s/s", "audio_s_per_s", "{:.0f}"),
    ("x baseline", "time_ratio", "{:.2f}"),
    ("x floor", "floor_ratio", "{:.2f}"),
    ("peak GiB", "peak_gib", "{:.1f}"),
    ("first s", "first_s", "{:.1f}"),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(options):
    """Make the context in which forms compute."""
    if options.precision == "fp32":
        return contextlib.nullcontext()
    kind = torch.device(options.device).type
    return torch.autocast(kind, dtype=DTYPES[options.precision])


def is_gpu(options):
    """Tell whether figures are of a GPU."""
    return torch.device(options.device).type == "cuda"


def measure_forms(what, sizes, forms, audio_s, options):
    """Time forms in turn and measure the memory that each needs in all."""
    first = {
        name: common.seconds_of(form, options.device)
        for name, form in forms.items()
    }
    found = common.interleave(forms, options.repeats, options.device)
    rows = []
    for name, form in forms.items():
        row = {
            "what": what,
            "seconds": sizes[0],
            "batch": sizes[1],
            "form": name,
            "time_s": statistics.median(found[name]),
            "all_s": found[name],
            "first_s": first[name],
        }
        row["audio_s_per_s"] = audio_s / row["time_s"]
        for other in ("baseline", "floor"):
            if other in found:
                ratio = common.median_ratio(found[name], found[other])
                key = "time_ratio" if other == "baseline" else "floor_ratio"
                row[key] = ratio
        if is_gpu(options):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            form()
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if "compiled" in name:
            # Unchanged from row to row if no size is compiled again.
            row["n_graphs"] = counters["stats"]["unique_graphs"]
        rows.append(row)
    return rows


def compiled_pieces(system, options):
    """Compile what ``--compile`` compiles; return it to be put in and out."""
    compile_(system, backend=options.compile_backend)
    return vars(system.ssl_encoder).pop("pieces")


@contextlib.contextmanager
def with_pieces(system, pieces):
    """Let the encoder take compiled parts."""
    system.ssl_encoder.pieces = pieces
    try:
        yield
    finally:
        del system.ssl_encoder.pieces


def call_with(system, pieces, form):
    """Run a form with compiled parts."""
    with with_pieces(system, pieces):
        form()


def sizes_of(batches, options):
    """List lengths and batches, without those that are too large."""
    return [
        (seconds, batch)
        for seconds in options.seconds
        for batch in batches
        if seconds * batch <= options.max_audio_s
    ]


def dtype_of(options):
    """Name the precision of products."""
    return DTYPES.get(options.precision, torch.float32)


def step(forms, name, learned, optimizer, options):
    """Take a whole training step."""
    with precision_of(options):
        if name == "baseline":
            loss = sum(forms.baseline_terms().values())
        else:
            loss = forms.loss(forms.sparse_terms())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learned, 5.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learner(system, fused=True):
    """Collect what is learned, and make its optimiser."""
    learned = [p for p in system.parameters() if p.requires_grad]
    return learned, torch.optim.AdamW(learned, lr=0.0, fused=fused)


def training_rows(hparams, pieces, options):
    """Measure training steps of all lengths and batch sizes."""
    system = hparams["system"]
    learned, optimizer = learner(system)
    rows = []
    for sizes in sizes_of(options.batch, options):
        forms = forms_of(hparams, *sizes, options)
        forms.train(True)
        calls = {
            name: partial(step, forms, name, learned, optimizer, options)
            for name in ("baseline", "sparse")
        }
        if pieces is not None:
            calls["sparse, compiled"] = partial(
                call_with, system, pieces, calls["sparse"]
            )
        audio_s = forms.wav_lens.sum().item() * sizes[0]
        rows += measure_forms("step", sizes, calls, audio_s, options)
        given = system, forms.noisy, forms.wav_lens, ["se", "ser"]
        with Floor(*given, dtype_of(options), optimizer) as floor:
            rows += with_floor(rows, "step", sizes, floor, audio_s, options)
    return rows


def with_floor(rows, what, sizes, floor, audio_s, options):
    """Measure a floor, and put it in relation to what stands on it."""
    (row,) = measure_forms(what, sizes, {"floor": floor}, audio_s, options)
    for other in rows:
        if (other["what"], other["seconds"], other["batch"]) == (what, *sizes):
            other["floor_ratio"] = other["time_s"] / row["time_s"]
    return [row]


def released_row(hparams, options):
    """Measure the step of the released code: 32 utterances in 8 pieces."""
    seconds = options.seconds[0]
    forms = forms_of(hparams, seconds, 4, options)
    forms.train(True)
    _, optimizer = learner(hparams["system"], fused=False)

    def whole_step():
        for _ in range(8):
            sum(forms.baseline_terms().values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    audio_s = 8 * forms.wav_lens.sum().item() * seconds
    calls, sizes = {"released": whole_step}, (seconds, "8 x 4")
    return measure_forms("step", sizes, calls, audio_s, options)


@torch.no_grad()
def infer(system, wavs, lens, tasks, options):
    """Do what a loaded model does with a batch."""
    with precision_of(options):
        output = system(wavs, lens, tasks)
        if output.enhancement is not None:
            system.enhanced_wavs(output, wavs.shape[1])


@torch.no_grad()
def infer_baseline(baseline, wavs, lens, tasks, options):
    """Do what the released code does with it."""
    with precision_of(options):
        baseline(wavs, lens.to(wavs.device), tasks)


TASKS = {"both": ["se", "ser"], "emotion": ["ser"]}


def inference_forms(system, arranged, what, sizes, options):
    """Make the forms of inference, and tell how much audio they take."""
    seconds, batch = sizes
    wavs, lens = whole_system.batch_of(
        batch, seconds, batch > 1, options.device
    )
    lens = lens.cpu()
    rest = wavs, lens, TASKS[what], options
    calls = {
        "baseline": partial(infer_baseline, Baseline(system).eval(), *rest),
        "sparse": partial(infer, system, *rest),
        "arranged": partial(infer, arranged, *rest),
    }
    return calls, wavs, lens


def inference_rows(system, arranged, pieces, options):
    """Measure inference of both tasks and of emotion alone."""
    rows = []
    for sizes in sizes_of(options.inference_batch, options):
        for what, tasks in TASKS.items():
            calls, wavs, lens = inference_forms(
                system, arranged, what, sizes, options
            )
            if pieces is not None:
                calls["arranged, compiled"] = partial(
                    call_with, arranged, pieces, calls["arranged"]
                )
            audio_s = lens.sum().item() * sizes[0]
            rows += measure_forms(what, sizes, calls, audio_s, options)
            floor = Floor(system, wavs, lens, tasks, dtype_of(options))
            rows += with_floor(rows, what, sizes, floor, audio_s, options)
    return rows


def forms_of(hparams, seconds, batch, options):
    """Make a batch of ragged utterances, its lengths on the CPU."""
    given = vars(options) | {"batch": batch, "seconds": seconds}
    forms = Forms(hparams, argparse.Namespace(**given))
    theirs = forms.baseline_terms
    on_device, on_cpu = forms.wav_lens, forms.wav_lens.cpu()
    forms.wav_lens = on_cpu

    def baseline_terms():
        forms.wav_lens = on_device
        try:
            return theirs()
        finally:
            forms.wav_lens = on_cpu

    forms.baseline_terms = baseline_terms
    return forms


@torch.no_grad()
def agreement(system, arranged, options):
    """Compare precisions: outputs in fp32, experts in the other."""
    seconds = options.seconds[0]
    wavs, lens = whole_system.batch_of(2, seconds, True, options.device)
    lens = lens.cpu()
    full = system(wavs, lens)
    with precision_of(options):
        halves = {
            "sparse": system(wavs, lens),
            "arranged": arranged(wavs, lens),
        }
    found = {
        f"same_expert, {name}": min(
            (a.expert_index == b.expert_index).float().mean().item()
            for a, b in zip(
                full.mixture.routing.values(), half.mixture.routing.values()
            )
        )
        for name, half in halves.items()
    }
    if is_gpu(options):
        on_cpu = system.cpu()(wavs.cpu(), lens)
    else:
        with mock.patch.object(onednn, "suits", lambda device: True):
            on_cpu = system(wavs, lens)
    system.to(options.device)
    found["cpu_difference"] = max(
        (full.logits.cpu() - on_cpu.logits).abs().max().item(),
        (full.enhancement.log1p.cpu() - on_cpu.enhancement.log1p)
        .abs()
        .max()
        .item(),
    )
    return found


class WholeLSTM(TorchFunctionMode):
    """Counts one operation for those that an LSTM is made of."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        before = self.found.copy()
        result = func(*args, **(kwargs or {}))
        if func is torch.lstm:
            self.found.clear()
            self.found.update(before + Counter(["lstm"]))
        return result


class Operations(TorchDispatchMode):
    """Counts the operations that are more than another view of a tensor.

    An LSTM is one, as on a GPU: a CPU without bf16 makes some of each frame.
    """

    VIEWS = (
        "alias as_strided chunk detach expand permute reshape select slice "
        "split split_with_sizes squeeze t transpose unbind unfold unsqueeze "
        "view view_as_real _unsafe_view _reshape_alias lift_fresh "
        "empty empty_like empty_strided new_empty new_empty_strided"
    ).split()

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self.whole = WholeLSTM(self.found)

    def __enter__(self):
        self.whole.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.whole.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self):
        """Number of calls."""
        return sum(n for k, n in self.found.items() if k not in self.VIEWS)


def counts_of(form, options, compiled=False):
    """Count what a form launches, and how often it makes the host wait."""
    form()
    found = {}
    if not compiled:  # what is compiled cannot be listened to
        with Operations() as operations:
            form()
        found["operations"] = operations.total
    if not is_gpu(options):
        return found
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        form()
    torch.cuda.set_sync_debug_mode("default")
    found["waits"] = [
        f"{w.filename.rpartition('/')[2]}:{w.lineno}"
        for w in caught
        if "synchroniz" in str(w.message)
    ]
    with torch.profiler.profile() as profile:
        form()
        torch.cuda.synchronize()
    kinds = torch.autograd.DeviceType
    kernels = [e for e in profile.events() if e.device_type == kinds.CUDA]
    busy_us = sum(e.time_range.elapsed_us() for e in kernels)
    return {**found, "kernels": len(kernels), "busy_s": busy_us / 1e6}


def counts_of_steps(hparams, pieces, options):
    """Count for training steps."""
    system, name = hparams["system"], "sparse"
    learned, optimizer = learner(system)
    batch = min(16, max(options.batch))
    forms = forms_of(hparams, options.seconds[0], batch, options)
    forms.train(True)
    found = {}
    for name in ("baseline", "sparse"):
        one = partial(step, forms, name, learned, optimizer, options)
        found[f"step, {name}"] = counts_of(one, options)
    if pieces is not None and is_gpu(options):
        one = partial(call_with, system, pieces, one)
        found["step, sparse, compiled"] = counts_of(one, options, compiled=True)
    return found


def counts_of_inference(system, arranged, options):
    """Count for a single utterance."""
    sizes, found = (options.seconds[0], 1), {}
    for what in TASKS:
        calls, _, _ = inference_forms(system, arranged, what, sizes, options)
        for name, form in calls.items():
            found[f"{what}, {name}"] = counts_of(form, options)
    return found


def make_parser():
    """Make the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 12.0])
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument(
        "--inference_batch", type=int, nargs="+", default=[1, 16]
    )
    parser.add_argument(
        "--max_audio_s",
        type=float,
        default=320.0,
        help="leave out larger batches: 64 utterances of 5 s take 46 GiB",
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--precision", choices=["fp32", *DTYPES], default="bf16"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--compile_backend", default="inductor")
    parser.add_argument(
        "--data_folder",
        help="manifests of a corpus for train.py, with paths that are whole; "
        "noise is written by default",
    )
    parser.add_argument(
        "--loop_audio_s",
        type=float,
        default=2400.0,
        help="audio of train.py's epoch; 0: without it",
    )
    whole_system.add_options(parser)
    parser.set_defaults(padded=True, device="cuda")
    return parser


def measure(options, folder):
    """Measure all, and print it as it is there."""
    hparams = whole_system.build(options, folder)
    system = hparams["system"]
    seconds = options.seconds[0]
    batch = whole_system.batch_of(4, seconds, False, options.device)
    whole_system.balance(system, *batch)
    half = None if options.precision == "fp32" else dtype_of(options)
    arranged = arrange_(copy.deepcopy(system), half)
    pieces = compiled_pieces(system, options) if options.compile else None
    # SpeechBrain allows TF32; precisions are compared without.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    found = {"agreement": agreement(system, arranged, options)}
    print(found["agreement"], flush=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    found["rows"] = inference_rows(system, arranged, pieces, options)
    common.print_table(COLUMNS, found["rows"], options.markdown)
    found["counts"] = counts_of_inference(system, arranged, options)
    del arranged
    system.ssl_encoder.train_front_end = False
    system.ssl_encoder.set_frozen(False)
    rows = training_rows(hparams, pieces, options)
    rows += released_row(hparams, options)
    found["counts"] |= counts_of_steps(hparams, pieces, options)
    del system, hparams
    if options.loop_audio_s:
        if is_gpu(options):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        rows.append(loop_row(options, Path(folder)))
    common.print_table(COLUMNS, rows, options.markdown)
    found["rows"] += rows
    for name, counts in found["counts"].items():
        print(name, counts)
    return found


def main(arguments=None):
    """Measure and print tables; write JSON on request."""
    options = make_parser().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if not is_gpu(options):
            for name, way in (
                ("suits", lambda device: False),
                ("_is_possible", lambda x, weight: False),
            ):
                stack.enter_context(mock.patch.object(onednn, name, way))
        found = measure(options, folder)
    found["sizes"] = vars(options)
    found["machine"] = common.machine(options.device, options.threads)
    if options.json:
        common.write_json(options.json, found)


if __name__ == "__main__":
    main()

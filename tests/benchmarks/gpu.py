"""Measure training and inference on a GPU against the baseline.

> python tests/benchmarks/gpu.py --json gpu.json

At WavLM-Large size, with random weights, in five minutes on a card of the H100
class; --ssl wavlm_small --device cpu --batch 2 shows on any machine that it
runs. Utterances are of 5 s down to 2.5 s. The baseline (baseline.py) computes
in the same precision with the same weights, optimiser and clipping; *released*
is how the released code trains: fp32, 8 batches of 4, plain AdamW.
"""

import argparse
import contextlib
import statistics
import tempfile
import warnings
from functools import partial

import common
import torch
import whole_system
from baseline import Baseline
from training_step import Forms

from merit_modules.ssl import transformer

COLUMNS = (
    ("what", "what", "{}"),
    ("batch", "batch", "{}"),
    ("form", "form", "{}"),
    ("time s", "time_s", "{:.4f}"),
    ("audio s/s", "audio_s_per_s", "{:.0f}"),
    ("x baseline", "time_ratio", "{:.2f}"),
    ("peak GiB", "peak_gib", "{:.1f}"),
)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(options):
    """Make the context in which forms compute."""
    if options.precision == "fp32":
        return contextlib.nullcontext()
    kind = torch.device(options.device).type
    return torch.autocast(kind, dtype=DTYPES[options.precision])


def measure_forms(what, batch, forms, audio_s, options):
    """Time forms in turn and measure the memory that each needs in all."""
    found = common.interleave(forms, options.repeats, options.device)
    rows = []
    for name, form in forms.items():
        row = {
            "what": what,
            "batch": batch,
            "form": name,
            "time_s": statistics.median(found[name]),
            "all_s": found[name],
        }
        row["audio_s_per_s"] = audio_s / row["time_s"]
        if "baseline" in found:
            row["time_ratio"] = common.median_ratio(
                found[name], found["baseline"]
            )
        if torch.device(options.device).type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            form()
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        rows.append(row)
    return rows


@contextlib.contextmanager
def compiled():
    """Compile the transformer's layers, for any length."""
    plain = transformer._apply_norm_first
    transformer._apply_norm_first = torch.compile(plain, dynamic=True)
    try:
        yield
    finally:
        transformer._apply_norm_first = plain


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


def with_compiled(form):
    """Run a form with compiled layers."""
    with compiled():
        form()


def training_rows(hparams, options):
    """Measure training steps of all batch sizes."""
    system = hparams["system"]
    learned = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0, fused=True)
    rows = []
    for batch in options.batch:
        forms = forms_of(hparams, batch, options)
        forms.train(True)
        calls = {
            name: partial(step, forms, name, learned, optimizer, options)
            for name in ("baseline", "sparse")
        }
        if options.compile:
            calls["sparse, compiled"] = partial(with_compiled, calls["sparse"])
        audio_s = forms.wav_lens.sum().item() * options.seconds
        rows += measure_forms("step", batch, calls, audio_s, options)
    return rows


def released_row(hparams, options):
    """Measure the step of the released code: 32 utterances in 8 pieces."""
    forms = forms_of(hparams, 4, options)
    forms.train(True)
    system = hparams["system"]
    learned = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0)

    def whole_step():
        for _ in range(8):
            sum(forms.baseline_terms().values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    audio_s = 8 * forms.wav_lens.sum().item() * options.seconds
    calls = {"released": whole_step}
    return measure_forms("step", "8 x 4", calls, audio_s, options)


@torch.no_grad()
def inference_rows(system, options):
    """Measure inference of both tasks and of emotion alone."""
    baseline, rows = Baseline(system).eval(), []
    system.eval()
    for batch in options.inference_batch:
        wavs, lens = whole_system.batch_of(
            batch, options.seconds, batch > 1, options.device
        )
        lens = lens.cpu()
        for what, tasks in (("both", ["se", "ser"]), ("emotion", ["ser"])):

            def theirs(tasks=tasks, wavs=wavs, lens=lens):
                with precision_of(options):
                    baseline(wavs, lens.to(wavs.device), tasks)

            def ours(tasks=tasks, wavs=wavs, lens=lens):
                with precision_of(options):
                    output = system(wavs, lens, tasks)
                    if output.enhancement is not None:
                        system.enhanced_wavs(output, wavs.shape[1])

            calls = {"baseline": theirs, "sparse": ours}
            if options.compile:
                calls["sparse, compiled"] = partial(with_compiled, ours)
            audio_s = lens.sum().item() * options.seconds
            rows += measure_forms(what, batch, calls, audio_s, options)
    return rows


def forms_of(hparams, batch, options):
    """Make a batch of ragged utterances, its lengths on the CPU."""
    given = argparse.Namespace(**vars(options) | {"batch": batch})
    forms = Forms(hparams, given)
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
def agreement(system, options):
    """Compare precisions: outputs in fp32, experts in the other."""
    system.eval()
    wavs, lens = whole_system.batch_of(2, options.seconds, True, options.device)
    lens = lens.cpu()
    full = system(wavs, lens)
    with precision_of(options):
        half = system(wavs, lens)
    same = [
        (a.expert_index == b.expert_index).float().mean().item()
        for a, b in zip(
            full.mixture.routing.values(), half.mixture.routing.values()
        )
    ]
    found = {"same_expert": min(same)}
    if torch.device(options.device).type == "cuda":
        on_cpu = system.cpu()(wavs.cpu(), lens)
        system.to(options.device)
        found["cpu_difference"] = max(
            (full.logits.cpu() - on_cpu.logits).abs().max().item(),
            (full.enhancement.log1p.cpu() - on_cpu.enhancement.log1p)
            .abs()
            .max()
            .item(),
        )
    return found


def waits_and_kernels(hparams, options):
    """Count how often a step makes the host wait, and what it launches."""
    system = hparams["system"]
    learned = [p for p in system.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0, fused=True)
    forms = forms_of(hparams, 16, options)
    forms.train(True)
    found = {}
    for name in ("baseline", "sparse"):
        one = partial(step, forms, name, learned, optimizer, options)
        one()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            one()
        torch.cuda.set_sync_debug_mode("default")
        waits = [
            f"{w.filename.rpartition('/')[2]}:{w.lineno}"
            for w in caught
            if "synchroniz" in str(w.message)
        ]
        with torch.profiler.profile() as profile:
            one()
            torch.cuda.synchronize()
        kinds = torch.autograd.DeviceType
        kernels = [e for e in profile.events() if e.device_type == kinds.CUDA]
        busy_us = sum(e.time_range.elapsed_us() for e in kernels)
        found[name] = {
            "waits": waits,
            "kernels": len(kernels),
            "busy_s": busy_us / 1e6,
        }
    return found


def main(arguments=None):
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument(
        "--inference_batch", type=int, nargs="+", default=[1, 16]
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--precision", choices=["fp32", *DTYPES], default="bf16"
    )
    parser.add_argument("--compile", action="store_true")
    whole_system.add_options(parser)
    parser.set_defaults(padded=True, device="cuda")
    options = parser.parse_args(arguments)
    is_gpu = torch.device(options.device).type == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        hparams = whole_system.build(options, folder)
    system = hparams["system"]
    batch = whole_system.batch_of(4, options.seconds, False, options.device)
    whole_system.balance(system, *batch)
    # SpeechBrain allows TF32; precisions are compared without.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    found = {"agreement": agreement(system, options)}
    print(found["agreement"], flush=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    found["rows"] = inference_rows(system, options)
    common.print_table(COLUMNS, found["rows"], options.markdown)
    system.ssl_encoder.train_front_end = False
    system.ssl_encoder.set_frozen(False)
    rows = training_rows(hparams, options)
    rows += released_row(hparams, options)
    common.print_table(COLUMNS, rows, options.markdown)
    found["rows"] += rows
    if is_gpu:
        found["of_a_step"] = waits_and_kernels(hparams, options)
        for name, counts in found["of_a_step"].items():
            print(name, counts)
    found["sizes"] = vars(options)
    found["machine"] = common.machine(options.device, options.threads)
    if options.json:
        common.write_json(options.json, found)


if __name__ == "__main__":
    main()

"""Compare all systems at full size: parameters, operations, time, memory.

> python tests/benchmarks/systems.py

Every system is built from its YAML files, with random weights, and runs in a
process of its own. The process also runs the system's SSL encoder alone, in
turn with the system; the ratio of the two times says more than seconds do, as
what the machine does meanwhile meets both. A run is inference for all tasks
of the system, enhanced waveforms included.

Multiply-accumulates leave out Fourier transforms and element-wise work.
Routers are balanced on the batch first: those of an untrained system would
send about all frames to one expert. Memory is what a run needs above weights.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from whole_system import ENCODERS, HPARAMS, load_at_paper_size

from merit_modules.evaluation.cost import (
    PeakMemory,
    count_macs,
    count_parameters,
    pair_share,
)
from merit_modules.system import WaveformNormalizer

SYSTEMS = (
    "sparse_merit",
    "residual_merit",
    "dense_merit",
    "weighted_sum_experts",
    "weighted_sum_experts_dense",
    "layer_mixing_experts",
    "layer_mixing_experts_dense",
    "naive_mtl",
    "ser_only",
    "se_only",
    "cascade",
)
SAMPLE_RATE_HZ = 16000
SIZES = ("ssl", "seconds", "batch", "repeats", "device")
PACKAGES = ("torch", "speechbrain", "transformers")
#: Heading, key of a row, format.
COLUMNS = (
    ("system", "system", "{}"),
    ("params M", "parameters_m", "{:.1f}"),
    ("active M", "active_m", "{:.1f}"),
    ("pairs", "pair_share", "{:.3f}"),
    ("GMAC/s", "gmac_per_s", "{:.2f}"),
    ("s/s", "s_per_s", "{:.3f}"),
    ("x SSL", "time_ratio", "{:.3f}"),
    ("peak GiB", "peak_gib", "{:.2f}"),
    ("weights GiB", "weights_gib", "{:.2f}"),
)
LEGEND = """\
params, active: parameters, and those that one frame can touch at most
pairs: share of (frame, expert) pairs computed on this batch
GMAC/s: 10^9 multiply-accumulates per second of audio
s/s: seconds per second of audio; x SSL: over that of the SSL encoder alone
peak, weights: memory that a run needs above the weights, and the weights"""


def build(name, ssl, folder):
    """Build a system at the paper's sizes and what runs in front of it."""
    hparams = load_at_paper_size(name, ssl, folder)
    system = hparams["system"]
    if hparams["front_end_experiment"]:
        front_end = Path(hparams["front_end_experiment"]).stem
        system.front_end = build(front_end, ssl, folder)
    for part in system.modules():
        if isinstance(part, WaveformNormalizer):
            part.set_statistics(mean=0.0, std=1.0)
    return system.eval()


@torch.no_grad()
def infer(system, wavs):
    """Do all tasks of a system, as a user would have them done."""
    output = system(wavs)
    if output.enhancement is not None:
        system.enhanced_wavs(output, wavs.shape[1])
    return output


@torch.no_grad()
def encode(system, wavs):
    """Run the system's SSL encoder alone."""
    return system.ssl_encoder(wavs)


@torch.no_grad()
def balance(system, wavs):
    """Make the random routers send frames to all experts."""
    if not hasattr(system.mixture, "routers"):
        return
    for task, decision in system(wavs).mixture.routing.items():
        bias = system.mixture.routers[task].linear.bias
        bias -= decision.logits.mean(dim=0)


def seconds_of(form, system, wavs):
    """Time one run."""
    finish(wavs)
    start = time.perf_counter()
    form(system, wavs)
    finish(wavs)
    return time.perf_counter() - start


def finish(wavs):
    """Wait until a GPU has done what it was given."""
    if wavs.is_cuda:
        torch.cuda.synchronize()


def run_watched(form, system, wavs):
    """Return a run's output and the bytes it takes above those in use."""
    with PeakMemory(wavs.device.type) as memory:
        output = form(system, wavs)
    return output, memory.bytes


def noise(options):
    """Make the batch, the same for all systems."""
    generator = torch.Generator().manual_seed(0)
    n_samples = round(options.seconds * SAMPLE_RATE_HZ)
    wavs = torch.randn(options.batch, n_samples, generator=generator)
    return wavs.to(options.device)


def costs(form, model, system, wavs):
    """Return an output, and what does not depend on the machine's speed."""
    duration_s = wavs.numel() / SAMPLE_RATE_HZ
    tensors = [*model.parameters(), *model.buffers()]
    sizes = count_parameters(model)
    n_macs = count_macs(lambda: form(system, wavs))
    output, n_bytes = run_watched(form, system, wavs)
    return output, {
        "parameters_m": sizes["total"] / 1e6,
        "active_m": sizes["active"] / 1e6,
        "gmac_per_s": n_macs / (1e9 * duration_s),
        "peak_gib": n_bytes / 2**30,
        "weights_gib": sum(t.nbytes for t in tensors) / 2**30,
    }


def measure(name, options):
    """Measure a system and its SSL encoder: two rows."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        system = build(name, options.ssl, folder).to(options.device)
    wavs = noise(options)
    infer(system, wavs[:1, : SAMPLE_RATE_HZ // 2])  # loads what is lazy
    balance(system, wavs)
    output, row = costs(infer, system, system, wavs)
    row |= {"system": name, "pair_share": pair_share(output.mixture.routing)}
    _, encoder = costs(encode, system.ssl_encoder, system, wavs)
    encoder |= {"system": "SSL encoder alone", "pair_share": None}
    pairs = [
        [seconds_of(form, system, wavs) for form in (infer, encode)]
        for _ in range(options.repeats)
    ]
    row["seconds"], encoder["seconds"] = map(list, zip(*pairs))
    for found in (row, encoder):
        duration_s = options.batch * options.seconds
        found["s_per_s"] = statistics.median(found["seconds"]) / duration_s
    row["time_ratio"] = statistics.median(a / b for a, b in pairs)
    encoder["time_ratio"] = 1.0
    return row, encoder


def measure_apart(name, arguments):
    """Measure in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--worker", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def cells_of(row):
    """Format the columns of a row."""
    values = [(row[key], form) for _, key, form in COLUMNS]
    return ["-" if v is None else form.format(v) for v, form in values]


def line(cells, markdown):
    """Lay out a line of the table."""
    if markdown:
        return f"| {' | '.join(cells)} |"
    first, *others = cells
    return f"{first:28}" + "".join(f"{cell:>12}" for cell in others)


def print_header(markdown):
    """Print the headings."""
    print(line([heading for heading, _, _ in COLUMNS], markdown), flush=True)
    if markdown:
        print("|---|" + "---:|" * (len(COLUMNS) - 1), flush=True)


def machine(options):
    """Describe what the figures were measured on."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    cuda = options.device == "cuda"
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads or torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    systems = sorted(path.stem for path in HPARAMS.glob("*.yaml"))
    parser.add_argument(
        "--systems", nargs="+", choices=systems, default=SYSTEMS, metavar="NAME"
    )
    parser.add_argument("--ssl", choices=ENCODERS, default="wavlm_large_random")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: PyTorch's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for key in ("seconds", "batch", "repeats"):
        if getattr(options, key) <= 0:
            parser.error(f"--{key}: expected more than 0")
    return options


def main(arguments):
    """Measure and print a table; write JSON on request."""
    options = parse(arguments)
    if options.worker:
        print(json.dumps(measure(options.worker, options)))
        return
    rows, encoder = [], None
    print_header(options.markdown)
    for name in options.systems:
        row, encoder = measure_apart(name, arguments)
        rows.append({**row, "ssl_encoder": encoder})
        print(line(cells_of(row), options.markdown), flush=True)
    print(line(cells_of(encoder), options.markdown))
    sizes = {key: getattr(options, key) for key in SIZES}
    result = {"sizes": sizes, "machine": machine(options), "rows": rows}
    print(f"\n{LEGEND}\n")
    for part in ("sizes", "machine"):
        print(", ".join(f"{k} {v}" for k, v in result[part].items()))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Compare inference with the baseline: time and peak memory.

> python tests/benchmarks/inference.py

Baseline: the published system as the released code does it (baseline.py), on
the same weights; outputs are compared before anything is timed. All forms run
in turn within one process; a ratio is the median over pairs of runs. Routers
are balanced on the batch, as training keeps them. Peak memory is what a run
needs above weights and input.

Several values of --seconds and --batch give a table over the length of the
audio or the size of the batch:

> python tests/benchmarks/inference.py --seconds 5 10 30 60 120 --batch 1
"""

import argparse
import copy
import itertools
import tempfile
from functools import partial

import common
import torch
import whole_system
from baseline import Baseline, check_equal

from merit_modules.cpu.int8 import quantize_
from merit_modules.inference.prepack import prepack_

TASKS = {"both": ("se", "ser"), "emotion": ("ser",), "speech": ("se",)}
#: Heading, key of a row, format.
COLUMNS = (
    ("tasks", "tasks", "{}"),
    ("batch", "batch", "{}"),
    ("s", "seconds", "{:g}"),
    ("form", "form", "{}"),
    ("time s", "time_s", "{:.2f}"),
    ("s/s", "s_per_s", "{:.3f}"),
    ("x baseline", "time_ratio", "{:.3f}"),
    ("peak GiB", "peak_gib", "{:.2f}"),
    ("x baseline", "memory_ratio", "{:.3f}"),
)
LEGEND = """\
time s: median seconds per batch; s/s: seconds per second of audio
peak: memory above weights and input; x baseline: time, peak memory"""


def as_it_is(system):
    """Take the system as a training loop evaluates it."""
    return system


def prepacked(system):
    """Prepare a copy as a model is prepared that is loaded on a CPU."""
    return prepack_(copy.deepcopy(system))


def int8(system):
    """Prepare a copy with linear layers in 8 bits, as it is loaded."""
    return prepack_(quantize_(copy.deepcopy(system)))


#: Name of a form to what makes it of a system.
PREPARATIONS = {"sparse": as_it_is, "prepacked": prepacked, "int8": int8}
#: Forms that must give what the baseline gives.
EXACT = {"sparse", "prepacked"}
FORMS = ["baseline", *PREPARATIONS]


def infer(system, wavs, wav_lens, tasks):
    """Do what a user wants done: to enhanced waveforms and logits."""
    output = system(wavs, wav_lens, tasks)
    if output.enhancement is not None:
        system.enhanced_wavs(output, wavs.shape[1])


def measure_one(forms, n_wavs, seconds, tasks, options):
    """Measure all forms on one batch; return a row of each."""
    wavs, wav_lens = whole_system.batch_of(
        n_wavs, seconds, options.padded, options.device
    )
    calls = {
        name: partial(form, wavs, wav_lens, TASKS[tasks])
        for name, form in forms.items()
    }
    found = common.interleave(calls, options.repeats, options.device)
    peaks = {
        name: common.peak_bytes(call, options.device)
        for name, call in calls.items()
    }
    audio_s = wav_lens.sum().item() * seconds
    rows = []
    for name, median in common.medians(found).items():
        row = {
            "tasks": tasks,
            "batch": n_wavs,
            "seconds": seconds,
            "form": name,
            "time_s": median,
            "s_per_s": median / audio_s,
            "all_s": found[name],
        }
        if "baseline" in forms:
            row["time_ratio"] = common.median_ratio(
                found[name], found["baseline"]
            )
        if all(peaks.values()):
            row["peak_gib"] = peaks[name] / 2**30
            if "baseline" in forms:
                row["memory_ratio"] = peaks[name] / peaks["baseline"]
        rows.append(row)
    return rows


@torch.no_grad()
def measure(options):
    """Build the system, compare outputs, measure all sizes asked for."""
    with tempfile.TemporaryDirectory() as folder:
        system = whole_system.build(options, folder)["system"]
    batch = whole_system.batch_of(
        options.batch[0], options.seconds[0], options.padded, options.device
    )
    whole_system.balance(system, *batch)
    baseline = Baseline(system).eval()
    forms, differences = {}, []
    for name in options.forms:
        if name == "baseline":
            forms[name] = baseline
            continue
        prepared = PREPARATIONS[name](system)
        forms[name] = partial(infer, prepared)
        if name in EXACT:
            differences.append(check_equal(prepared, *batch, baseline))
    rows = []
    for tasks, n_wavs, seconds in itertools.product(
        options.tasks, options.batch, options.seconds
    ):
        rows += measure_one(forms, n_wavs, seconds, tasks, options)
    return {
        "sizes": vars(options),
        "machine": common.machine(options.device, options.threads),
        "largest_difference": max(differences, default=None),
        "rows": rows,
    }


def main(arguments=None):
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=["baseline", "prepacked"],
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=list(TASKS), default=["both", "emotion"]
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0])
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--repeats", type=int, default=5)
    whole_system.add_options(parser)
    options = parser.parse_args(arguments)
    result = measure(options)
    common.print_table(COLUMNS, result["rows"], options.markdown)
    print(LEGEND)
    if result["largest_difference"] is not None:
        print(
            "largest difference of an output, both tasks, in fp32: "
            f"{result['largest_difference']:.1e}"
        )
    if options.json:
        common.write_json(options.json, result)


if __name__ == "__main__":
    main()

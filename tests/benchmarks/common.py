"""What the benchmarks share: timing in turn, the machine, tables.

A machine that does other things meanwhile is slow for a while. Forms that are
to be compared therefore run in turn within one process, and figures are ratios
of medians; the arithmetic floor is measured in the same run.
"""

import json
import os
import platform
import re
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch

from merit_modules.evaluation.cost import PeakMemory

PACKAGES = ("torch", "speechbrain", "transformers")


def finish(device):
    """Wait until a GPU has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_of(form, device="cpu"):
    """Time one call."""
    finish(device)
    start = time.perf_counter()
    form()
    finish(device)
    return time.perf_counter() - start


def interleave(forms, repeats, device="cpu"):
    """Time forms in turn, each once untimed first.

    Arguments
    ---------
    forms : dict
        Name to a callable without arguments.
    repeats : int
        Timed runs of each form.
    device : str
        Where the forms compute.

    Returns
    -------
    dict
        Name to a list of seconds, in the order of the runs.
    """
    for form in forms.values():
        form()
    found = {name: [] for name in forms}
    for _ in range(repeats):
        for name, form in forms.items():
            found[name].append(seconds_of(form, device))
    return found


def medians(found):
    """Take the median of each form's seconds."""
    return {name: statistics.median(values) for name, values in found.items()}


def median_ratio(ours, theirs):
    """Compare two forms that ran in turn, pair by pair."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def gemm_rate(rows, inner, cols, repeats=5, device="cpu", dtype=torch.float32):
    """Measure how fast a plain matrix product is: the best of some runs.

    Arguments
    ---------
    rows, inner, cols : int
        (rows, inner) times (inner, cols).
    repeats : int
        Timed runs, after an untimed one.
    device : str
        Where to compute.
    dtype : torch.dtype
        In which precision.

    Returns
    -------
    float
        Floating-point operations per second, two per multiply-accumulate.
    """
    a = torch.rand(rows, inner, device=device).to(dtype)
    b = torch.rand(inner, cols, device=device).to(dtype)
    out = torch.empty(rows, cols, device=device, dtype=dtype)
    times = interleave(
        {"gemm": lambda: torch.mm(a, b, out=out)}, repeats, device
    )
    return 2 * rows * inner * cols / min(times["gemm"])


def peak_bytes(form, device="cpu"):
    """Measure the memory that a call takes above what is in use.

    Arguments
    ---------
    form : callable
        Called once, without arguments.
    device : str
        Where it computes.

    Returns
    -------
    int or None
        Bytes; None where the machine does not tell.
    """
    with PeakMemory(torch.device(device).type) as memory:
        form()
    return memory.bytes


def machine(device="cpu", threads=None):
    """Describe what the figures were measured on.

    Arguments
    ---------
    device : str
        ``cpu`` or ``cuda``.
    threads : int, optional
        Threads per process; PyTorch's setting by default.

    Returns
    -------
    dict
        Names of processors, numbers of cores and threads, versions.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    cpu = re.search(r"model name\s*: (.+)", text)
    cuda = torch.device(device).type == "cuda"
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def cells_of(columns, row):
    """Format the columns of a row; what is missing or None is a dash."""
    values = [(row.get(key), form) for _, key, form in columns]
    return ["-" if v is None else form.format(v) for v, form in values]


def print_table(columns, rows, markdown=False):
    """Print rows under headings.

    Arguments
    ---------
    columns : sequence of tuple
        Heading, key of a row, format such as ``{:.2f}``. The first column is
        set flush left.
    rows : sequence of dict
        What to print.
    markdown : bool
        As a table in Markdown.
    """
    headings = [heading for heading, _, _ in columns]
    table = [headings] + [cells_of(columns, row) for row in rows]
    if markdown:
        table.insert(1, ["---"] + ["---:"] * (len(columns) - 1))
        for cells in table:
            print(f"| {' | '.join(cells)} |")
        return
    widths = [max(map(len, cells)) for cells in zip(*table)]
    for first, *others in table:
        line = first.ljust(widths[0])
        for cell, width in zip(others, widths[1:]):
            line += "  " + cell.rjust(width)
        print(line)


def write_json(path, content):
    """Write figures to a file."""
    Path(path).write_text(json.dumps(content, indent=2) + "\n")

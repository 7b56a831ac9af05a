"""Prepare a corpus of MSP-Podcast's size: seconds, and peak memory.

> python tests/benchmarks/preparation.py

The corpus is a flat folder of links to a few WAV files, made for the purpose.
Links cost no disk space, but they are also read from memory: what is measured
is the program's own work, and not how long a disk takes to answer.

Every step runs in a process of its own, kept to some cores, and tells its
highest resident memory, that of the imported packages included. Where other
programs run beside it, the seconds of CPU say more than those of the clock.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from merit_modules.data.manifest import DATA_ROOT, read_manifest
from merit_modules.data.preparation import (
    count_table,
    is_prepared,
    probe_many,
    remove_stamp,
    speaker_disjoint_splits,
    split_digest,
    write_manifests,
)
from merit_modules.files import find_audio

#: What one process each does, in this order.
STEPS = {
    "import": "start Python, import the packages",
    "list": "list the files",
    "first": "prepare: read every header",
    "cached": "prepare again: lengths from the cache",
    "up_to_date": "prepare again: nothing to do",
    "read": "read all manifests",
    "speakers": "split by speakers",
}
SPLITS = ("train", "valid", "test")
EMOTIONS = ("angry", "sad", "happy", "neutral")
N_SOURCES = 16  # a file has at most 65,000 names on some file systems
N_SPEAKERS = 2000
SAMPLE_RATE_HZ = 16000


def make_corpus(folder, n_entries):
    """Make ``audio/`` with as many names as MSP-Podcast has files."""
    rng = np.random.default_rng(0)
    sources, audio = folder / "sources", folder / "audio"
    for path in (sources, audio):
        path.mkdir()
    for i in range(N_SOURCES):
        wav = rng.normal(0, 0.1, SAMPLE_RATE_HZ * (i + 4) // 4)
        soundfile.write(sources / f"{i}.wav", wav, SAMPLE_RATE_HZ)
    for i in range(n_entries):
        source = sources / f"{i % N_SOURCES}.wav"
        name = audio / f"MSP-PODCAST_{i // 1000:04d}_{i % 1000:04d}.wav"
        try:
            os.link(source, name)
        except OSError:  # a file system without hard links
            os.symlink(source, name)


def label(number):
    """Return a class and a speaker; where they are split is left open."""
    return {
        "emo": EMOTIONS[number % 7 % len(EMOTIONS)],
        "spk_id": str(number * 7919 % N_SPEAKERS),
    }


def list_files(folder):
    """Return ``{id: path}``, sorted."""
    found = find_audio(folder / "audio", "speech")
    return {path.stem: path for path in found}


def prepare(folder):
    """Do what a recipe does; return the digest of each split."""
    audio, manifests = folder / "audio", folder / "manifests"
    files = list_files(folder)
    stamp = {"data_folder": str(audio), "n_files": len(files)}
    if is_prepared(manifests, SPLITS, stamp):
        return {}
    durations_s, problems = probe_many(files, folder / "headers.cache")
    if problems:
        raise SystemExit(f"{len(problems)} files could not be read")
    splits = {split: {} for split in SPLITS}
    for number, (item, path) in enumerate(files.items()):
        # Eight of ten for training, one each for the others.
        split = SPLITS[max(number % 10 - 7, 0)]
        splits[split][item] = {
            "wav": f"{DATA_ROOT}/{path.name}",
            "duration": durations_s[item],
            **label(number),
        }
    write_manifests(manifests, splits, stamp)
    return {split: split_digest(entries) for split, entries in splits.items()}


def read_all(folder):
    """Return the entries of all manifests, kept at one time."""
    return {
        split: read_manifest(
            folder / "manifests" / f"{split}.json", folder / "audio"
        )
        for split in SPLITS
    }


def split_by_speakers(folder):
    """Return how many entries each new split has."""
    entries = {}
    for split in read_all(folder).values():
        entries |= split
    start = time.perf_counter()
    splits = speaker_disjoint_splits(entries)
    return {
        "split_s": time.perf_counter() - start,
        "n": {name: len(split) for name, split in splits.items()},
    }


def run_step(step, folder):
    """Do one step in this process; return what it found."""
    if step in ("first", "cached"):
        remove_stamp(folder / "manifests")
    start, cpu_start = time.perf_counter(), time.process_time()
    found = {}
    if step in ("first", "cached", "up_to_date"):
        found = {"digests": prepare(folder)}
    elif step == "list":
        found = {"n_files": len(list_files(folder))}
    elif step == "read":
        splits = read_all(folder)
        found = {"n_entries": sum(map(len, splits.values()))}
    elif step == "speakers":
        found = split_by_speakers(folder)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu_start,
        **found,
    }


def peak_bytes():
    """Return the highest resident memory of this process so far."""
    # Not getrusage: it begins with what the parent process had.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status does not tell the peak memory")


def measure(step, folder, n_cores):
    """Do one step in a process of its own; return what it found."""
    command = [sys.executable, __file__, "--step", step, "--folder", folder]
    command += ["--cores", str(n_cores)]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    return found | {"process_s": time.perf_counter() - start}


def report(result):
    """Return the figures as a table."""
    rows = {
        STEPS[step]: {
            "seconds": f"{row['seconds']:.2f}",
            "of CPU": f"{row['cpu_s']:.2f}",
            "with start": f"{row['process_s']:.2f}",
            "peak MiB": f"{row['peak_bytes'] / 2**20:.0f}",
        }
        for step, row in result["steps"].items()
    }
    return (
        f"{result['n_entries']} files, {result['n_cores']} cores\n"
        f"{count_table(rows)}"
    )


def main(argv=None):
    """Measure every step and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--step", choices=STEPS, help="one step, in --folder")
    parser.add_argument("--folder", help="where an earlier step has been")
    options = parser.parse_args(argv)
    if options.entries < len(SPLITS) * 10 or options.cores < 1:
        parser.error("--entries: 30 or more, --cores: 1 or more")
    if options.step:
        cores = sorted(os.sched_getaffinity(0))[: options.cores]
        os.sched_setaffinity(0, cores)
        found = run_step(options.step, Path(options.folder))
        print(json.dumps(found | {"peak_bytes": peak_bytes()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_corpus(Path(folder), options.entries)
        made_s = time.perf_counter() - start
        steps = {s: measure(s, folder, options.cores) for s in STEPS}
    result = {
        "n_entries": options.entries,
        "n_cores": options.cores,
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "make_corpus_s": made_s,
        "steps": steps,
    }
    print(report(result))
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A corpus of MSP-Podcast's size, rehearsed: what starts and epochs cost.

> python tests/benchmarks/rehearsal.py

Makes a tree of MSP-Podcast's form: its label file, and recordings that are
links to real speech. Then, each in a process of its own and held to the same
cores, with caches of its own:

- *first start*: preparation, all audio read, the first batch loaded;
- *later start*: the same command again;
- *other seed*, and each system of ``--systems``: first starts of further runs.

The speech is joined from ``--speech`` to lengths of 2 to 9 s. Each partition
links to recordings of its own, of the same lengths as the others': their
sizes are the same and their contents are not, so that the search for shared
recordings reads in each. What links do not show is the disk: the recordings
come from the system's cache. The model is a small one: it is not measured.
Where other programs run beside it, the seconds of CPU say more than those of
the clock.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from common import print_table, write_json

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "MSP-Podcast" / "joint_se_ser"
DATA = ROOT.parent / "shared" / "data"
#: Partition to its share of the turns, as in release 1.11.
SHARES = {"Train": 0.565, "Development": 0.133, "Test1": 0.206, "Test2": 0.096}
N_SOURCES = 128  # of each partition; a file has at most 65,000 names
HEADER = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
SMALL = (
    "{config: {conv_dim: [8, 8, 8], hidden_size: 16, num_hidden_layers: 2, "
    "num_attention_heads: 2, intermediate_size: 32, "
    "num_conv_pos_embeddings: 16, num_conv_pos_embedding_groups: 2}}"
)
COLUMNS = (
    ("start", "start", "{}"),
    ("prepare s", "prepare_s", "{:.1f}"),
    ("audio s", "audio_s", "{:.1f}"),
    ("to first batch s", "total_s", "{:.1f}"),
    ("of CPU", "cpu_s", "{:.1f}"),
    ("order, of CPU", "order_s", "{:.2f}"),
    ("peak MiB", "peak_mib", "{:.0f}"),
    ("all processes MiB", "peak_all_mib", "{:.0f}"),
)


def joined(paths, n_samples, start):
    """Join recordings, from one of them on, to a length."""
    parts, n = [], 0
    while n < n_samples:
        wav, rate_hz = soundfile.read(paths[start % len(paths)], dtype="int16")
        parts.append(wav)
        n, start = n + len(wav), start + 1
    return np.concatenate(parts)[:n_samples]


def write_sources(folder, paths, lengths, rate_hz, first=0):
    """Write a recording of each length; return their paths."""
    folder.mkdir(parents=True)
    sources = [folder / f"{i}.wav" for i in range(len(lengths))]
    for i, n_samples in enumerate(lengths):
        wav = joined(paths, n_samples, first + i)
        soundfile.write(sources[i], wav, rate_hz)
    return sources


def link(source, name):
    """Give a file one more name."""
    try:
        os.link(source, name)
    except OSError:  # a file system without hard links
        os.symlink(source, name)


def make_corpus(folder, n_utterances, n_noises, speech, noise):
    """Make the release and the noise; return the hours of speech."""
    speech, noise = sorted(speech.rglob("*.wav")), sorted(noise.rglob("*.wav"))
    if not speech or not noise:
        raise SystemExit("--speech, --noise: expected folders with WAV files")
    rng = np.random.default_rng(0)
    lengths = rng.integers(2 * 16000, 9 * 16000, N_SOURCES)
    release = folder / "MSP-PODCAST-Publish-rehearsal"
    for path in (release / "Audios", release / "Labels", folder / "noise"):
        path.mkdir(parents=True)
    rows, n_samples = [HEADER], 0
    splits = rng.choice(len(SHARES), n_utterances, p=list(SHARES.values()))
    sources = [
        write_sources(folder / "sources" / name, speech, lengths, 16000, 50 * i)
        for i, name in enumerate(SHARES)
    ]
    for i, split in enumerate(splits):
        name = f"MSP-PODCAST_{i // 1000:04d}_{i % 1000:04d}.wav"
        n_samples += lengths[i % N_SOURCES]
        link(sources[split][i % N_SOURCES], release / "Audios" / name)
        rows.append(
            f"{name},{'NNNHHASX'[i * 7919 % 8]},3.4,4.2,3.8,"
            f"{split * 1000 + i % 700},Female,{list(SHARES)[split]}"
        )
    table = release / "Labels" / "labels_consensus.csv"
    table.write_text("\n".join(rows) + "\n")
    lengths = rng.integers(2 * 44100, 12 * 44100, min(n_noises, N_SOURCES))
    noises = write_sources(folder / "sources" / "noise", noise, lengths, 44100)
    for i in range(n_noises):
        link(noises[i % len(noises)], folder / "noise" / f"{i:06d}.wav")
    return n_samples / 16000 / 3600


class Memory:
    """The highest memory of a process and its children, shared parts once."""

    def __init__(self):
        self.peak = 0

    def look(self):
        """Add up what each process has for itself and its shares."""
        total, pids = 0, [os.getpid()]
        while pids:
            pid = pids.pop()
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                tasks = Path(f"/proc/{pid}/task").iterdir()
                children = [(t / "children").read_text() for t in tasks]
            except OSError:  # it has ended
                continue
            pids += map(int, " ".join(children).split())
            total += int(rollup.split("Pss:")[1].split()[0])
        self.peak = max(self.peak, total / 1024)
        return total / 1024


def resident_mib(key="VmRSS"):
    """Return what this process has in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status does not tell the memory")


def start(options):
    """Start a run in this process, up to batches of some epochs."""
    begun = time.perf_counter()
    import threading

    import speechbrain as sb

    from merit_modules.hparams import format_overrides, keys_of, load_hparams
    from merit_modules.training import experiment, recipe
    from merit_modules.training.defaults import with_defaults

    memory, done = Memory(), threading.Event()

    def watch():
        while not done.wait(0.5):
            memory.look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    sys.path.insert(0, str(RECIPE))
    folder = Path(options.folder)
    path = RECIPE / "hparams" / f"{options.system}.yaml"
    overrides = {
        "data_folder": str(folder / "MSP-PODCAST-Publish-rehearsal"),
        "noise_folder": str(folder / "noise"),
        "output_folder": str(folder / "runs" / options.system / options.seed),
        "seed": int(options.seed),
        "num_workers": options.workers,
        "expert_hidden": 32,
        "expert_output": 16,  # as wide as a layer
        "tensorboard_logger": None,
        "init_experiment": None,
        "ssl_source": str(folder / "ssl"),
    }
    known = keys_of(path.read_text())
    overrides = {k: v for k, v in overrides.items() if k in known}
    hparams = with_defaults(load_hparams(path, overrides), path)
    found = {"start": options.start, "load_s": time.perf_counter() - begun}

    tick = time.perf_counter()
    text = format_overrides(overrides)
    experiment.begin_run(path, text, hparams, hparams["prepare"])
    sb.create_experiment_directory(hparams["output_folder"], str(path), text)
    found["prepare_s"] = time.perf_counter() - tick
    tick = time.perf_counter()
    data = recipe.dataio_prepare(hparams)
    found["audio_s"] = time.perf_counter() - tick
    tick = time.perf_counter()
    data.train_mixer.keep_noise()
    kwargs = recipe.loader_kwargs(hparams, data.train, shuffle=True)
    loader = sb.dataio.dataloader.make_dataloader(data.train, **kwargs)
    batches = iter(loader)
    next(batches)
    found["first_batch_s"] = time.perf_counter() - tick
    found["total_s"] = time.perf_counter() - begun
    found["cpu_s"] = sum(os.times()[:4])

    sampler, found["epochs"] = kwargs["batch_sampler"], []
    for epoch in range(1, options.epochs + 1):
        tick = time.process_time()
        sampler.set_epoch(epoch)
        n_batches = len(list(sampler))
        order_s = time.process_time() - tick
        for _, _ in zip(range(options.batches), loader):
            pass
        found["epochs"].append(
            {
                "n_batches": n_batches,
                "order_s": order_s,
                "resident_mib": resident_mib(),
                "all_mib": memory.look(),
            }
        )
    found["order_s"] = max([e["order_s"] for e in found["epochs"]] or [0])
    done.set()
    watcher.join()
    found |= {"peak_mib": resident_mib("VmHWM"), "peak_all_mib": memory.peak}
    found["statistics"] = [
        float(hparams["system"].normalizer.mean),
        float(hparams["system"].normalizer.std),
    ]
    Path(options.found).write_text(json.dumps(found))


def run_start(options, folder, name, system, seed):
    """Start a run in a process of its own; return what it found."""
    found = folder / "found.json"
    command = [sys.executable, __file__, "--start", name, "--system", system]
    command += ["--seed", str(seed), "--folder", str(folder)]
    command += ["--found", str(found), "--workers", str(options.workers)]
    command += ["--epochs", str(options.epochs)]
    command += ["--batches", str(options.batches)]
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    with open(folder / "log.txt", "a") as log:
        done = subprocess.run(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "MERIT_CACHE": str(folder / "cache")},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    if done.returncode:
        raise SystemExit((folder / "log.txt").read_text()[-3000:])
    row = json.loads(found.read_text())
    print_table(COLUMNS, [row])
    return row


def rehearse(options, folder):
    """Make the corpus and start all runs."""
    from merit_modules.ssl import RandomSSLEncoder
    from merit_modules.tiny import TINY_SSL

    RandomSSLEncoder("wavlm", TINY_SSL).model.save_pretrained(folder / "ssl")
    made = folder / "made.json"
    if not made.is_file():
        hours = make_corpus(
            folder,
            options.utterances,
            options.noises,
            options.speech,
            options.noise,
        )
        made.write_text(json.dumps({"hours": hours}))
    hours = json.loads(made.read_text())["hours"]
    for name in ("cache", "runs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    print(
        f"{options.utterances} utterances, {hours:.0f} h, "
        f"{options.noises} noises at 44.1 kHz, {options.cores} cores, "
        f"{options.workers} workers"
    )
    first, *others = options.systems
    starts = [("first start", first, 1), ("later start", first, 1)]
    starts += [("other seed", first, 2)]
    starts += [(name, name, 1) for name in others]
    rows = [run_start(options, folder, *start) for start in starts]
    return {"hours": hours, "load": os.getloadavg(), "rows": rows}


def main(argv=None):
    """Rehearse and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=150_000)
    parser.add_argument("--noises", type=int, default=5_000)
    parser.add_argument("--speech", type=Path, default=DATA / "emodb")
    parser.add_argument("--noise", type=Path, default=DATA / "noise")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20, help="of an epoch")
    parser.add_argument(
        "--systems", nargs="+", default=["sparse_merit", "naive_mtl"]
    )
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument(
        "--keep", type=Path, help="a folder to make it in, or to find it in"
    )
    for hidden in ("--start", "--system", "--seed", "--folder", "--found"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.start:
        return start(options)
    with tempfile.TemporaryDirectory() as folder:
        result = rehearse(options, options.keep or Path(folder))
    for row in result["rows"]:
        memory = [f"{e['resident_mib']:.0f}" for e in row["epochs"]]
        print(f"{row['start']}: MiB after each epoch: {', '.join(memory)}")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()

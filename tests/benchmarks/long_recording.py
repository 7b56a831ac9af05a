"""Long recordings: time and memory over length, and the seams of windows.

> python tests/benchmarks/long_recording.py --model MODEL_DIR --minutes 10 120
> python tests/benchmarks/long_recording.py --model MODEL_DIR --seams 60 180
> python tests/benchmarks/long_recording.py --large --minutes 10

A recording is made of the files under ``--audio`` one after another in random
order, with white noise at 6 dB, or of noise alone. Each length is analysed
from a 16-bit file to a file of enhanced speech and a timeline, in a process of
its own: seconds, and peak memory above what the loaded model takes. ``--large``
takes sparse MERIT on WavLM-Large with random weights (random routers, too, so
experts are used unevenly).

``--seams`` computes recordings of these lengths in windows and whole: SI-SDR
between the two, without the first and last second, and decisions that differ.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import machine, print_table, write_json
from systems import build

from merit_modules.evaluation.cost import PeakMemory
from merit_modules.evaluation.metrics.enhancement import si_sdr_db
from merit_modules.files import find_audio
from merit_modules.inference import SparseMERIT

RATE_HZ = 16000
LENGTHS = (
    ("minutes", "minutes", "{:g}"),
    ("s", "seconds", "{:.1f}"),
    ("s per s", "s_per_s", "{:.4f}"),
    ("peak MiB above the model", "peak_mib", "{:.0f}"),
)
SEAMS = (
    ("s", "length_s", "{:g}"),
    ("windows", "n_windows", "{}"),
    ("draw", "draw", "{}"),
    ("SI-SDR/dB", "si_sdr_db", "{:.1f}"),
    ("frames routed otherwise", "rerouted", "{:.4f}"),
)


def recording(n_samples, audio, seed):
    """Make a noisy recording (n,)."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(n_samples, dtype=np.float32)
    if audio is None:
        return 0.05 * noise
    paths = find_audio(audio, "recordings")
    rng.shuffle(paths)
    speech, turn = np.zeros(n_samples, np.float32), 0
    done = 0
    while done < n_samples:
        wav, rate_hz = soundfile.read(
            paths[turn % len(paths)], dtype="float32", always_2d=True
        )
        if rate_hz != RATE_HZ:
            raise SystemExit(f"{paths[turn]}: expected {RATE_HZ} Hz")
        wav = wav.mean(axis=1)[: n_samples - done]
        speech[done : done + len(wav)] = wav
        done, turn = done + len(wav), turn + 1
    return speech + 0.5 * speech.std() * noise


def load(options):
    """Load the model."""
    if not options.large:
        return SparseMERIT.from_hparams(
            source=options.model, run_opts={"device": "cpu"}
        )
    with tempfile.TemporaryDirectory() as folder:
        system = build("sparse_merit", "wavlm_large_random", folder)
    labels = ["angry", "sad", "happy", "neutral"]
    hparams = {"labels": labels, "sample_rate_hz": RATE_HZ}
    return SparseMERIT(
        modules={"system": system}, hparams=hparams, run_opts={"device": "cpu"}
    )


def analyse(options, minutes):
    """Analyse one recording; print seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.wav"
        # In pieces of a minute, so that making it takes no memory.
        with soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_16") as file:
            for minute in range(max(1, round(minutes))):
                seconds = min(60.0, 60.0 * minutes)
                n = round(seconds * RATE_HZ)
                file.write(recording(n, options.audio, minute))
        model = load(options)
        model.analyze(torch.zeros(RATE_HZ))  # what is loaded on first use
        with PeakMemory("cpu") as memory:
            start = time.perf_counter()
            found = model.analyze_file(path, Path(folder) / "out.wav")
            seconds = time.perf_counter() - start
    return {
        "minutes": minutes,
        "seconds": seconds,
        "s_per_s": seconds / found.duration_s,
        "peak_mib": memory.bytes / 2**20,
        "n_segments": len(found.timeline),
    }


def apart(argv, minutes):
    """Analyse in a process of its own."""
    command = [sys.executable, __file__, *argv, "--worker", str(minutes)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def seam(model, options, length_s, draw):
    """Compare windows with the whole."""
    n_samples = round(length_s * RATE_HZ)
    wav = torch.from_numpy(recording(n_samples, options.audio, draw))
    found = model.analyze(wav)
    whole = model.analyze_batch(wav[None])
    inner = slice(RATE_HZ, -RATE_HZ)
    row = {
        "length_s": length_s,
        "n_windows": len(list(model.windowing().cut(n_samples))),
        "draw": draw,
        "si_sdr_db": si_sdr_db(found.enhanced[inner], whole.enhanced[0][inner]),
    }
    if found.routing:
        differ = [
            (experts != whole.routing[task][0]).float().mean().item()
            for task, experts in found.routing.items()
        ]
        row["rerouted"] = max(differ)
    return row


def main():
    """Measure and print tables; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a model")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--audio", help="folder of speech, 16 kHz")
    parser.add_argument("--minutes", type=float, nargs="*", default=[])
    parser.add_argument("--seams", type=float, nargs="*", default=[])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None and not options.large:
        parser.error("expected --model DIR or --large")
    if options.worker is not None:
        print(json.dumps(analyse(options, options.worker)))
        return
    result = {"machine": machine(), "lengths": [], "seams": []}
    result["lengths"] = [apart(sys.argv[1:], m) for m in options.minutes]
    if options.seams:
        model = load(options)
        result["seams"] = [
            seam(model, options, length_s, draw)
            for length_s in options.seams
            for draw in range(options.draws)
        ]
    for columns, rows in ((LENGTHS, "lengths"), (SEAMS, "seams")):
        if result[rows]:
            print_table(columns, result[rows], options.markdown)
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()

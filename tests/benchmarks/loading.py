"""How fast one process reads, resamples and mixes: does the GPU wait?

> python tests/benchmarks/loading.py

Seconds of audio per second and process, each step alone and all together, on
real speech at 16 kHz and real noise that is taken for 44.1 kHz. The noise is
decoded and resampled for every mixture (*anew*: a noise corpus much larger
than what is kept), or once (*kept*: what fits in). Seconds of CPU are measured:
the files come from the system's cache, and other programs may run beside it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, medians, print_table, write_json
from rehearsal import DATA, write_sources

from merit_modules.data.audio import read_audio
from merit_modules.data.labels import emotion_labels
from merit_modules.data.mixing import NoiseMixer, mix_at_snr
from merit_modules.data.pipelines import make_dataset
from merit_modules.data.resampling import resampler

COLUMNS = (
    ("step", "step", "{}"),
    ("audio s/s", "rate", "{:.0f}"),
    ("workers", "workers", "{:.2f}"),
)


def make_files(options, folder):
    """Write the speech and the noise; return their paths."""
    speech = sorted(options.speech.rglob("*.wav"))
    noise = sorted(options.noise.rglob("*.wav"))
    if not speech or not noise:
        raise SystemExit("--speech, --noise: expected folders with WAV files")
    rng, n = np.random.default_rng(0), options.files
    return (
        write_sources(
            folder / "speech",
            speech,
            rng.integers(2 * 16000, 9 * 16000, n),
            16000,
        ),
        write_sources(
            folder / "noise",
            noise,
            rng.integers(2 * 44100, 12 * 44100, n),
            44100,
        ),
    )


def dataset_of(speech, noise, cache_bytes):
    """Make what a loader's process goes through."""
    mixer = NoiseMixer(
        {path.name: {"wav": str(path)} for path in noise},
        (-5, 20),
        seed=1,
        cache_bytes=cache_bytes,
    )
    entries = {
        path.name: {"wav": str(path), "duration": 1.0, "emo": "sad"}
        for path in speech
    }
    reader = emotion_labels(["angry", "sad"])
    return make_dataset(entries, mixer, reader, 16000)


def cpu_seconds(forms, repeats):
    """Time forms in turn as ``interleave`` does, by the processor's clock."""
    found = {name: [] for name in forms}
    for number in range(repeats + 1):
        for name, form in forms.items():
            start = time.process_time()
            form()
            if number:
                found[name].append(time.process_time() - start)
    return found


def measure(options):
    """Measure all steps in turn."""
    with tempfile.TemporaryDirectory() as folder:
        speech, noise = make_files(options, Path(folder))
        wavs = [read_audio(path) for path in speech]
        raw = [read_audio(path, None, is_speech=False) for path in noise]
        beside = [torch.randn(len(wav)) for wav in wavs]
        anew, kept = (dataset_of(speech, noise, b) for b in (0, 2**31))
        convert = resampler(44100, 16000)
        found = cpu_seconds(
            {
                "read speech": lambda: [read_audio(path) for path in speech],
                "read noise": lambda: [
                    read_audio(path, None, is_speech=False) for path in noise
                ],
                "resample noise": lambda: [convert(wav) for wav in raw],
                "mix": lambda: [
                    mix_at_snr(wav, other, 5.0)
                    for wav, other in zip(wavs, beside)
                ],
                "all, noise anew": lambda: list(anew),
                "all, noise kept": lambda: list(kept),
            },
            options.repeats,
        )
    speech_s = sum(map(len, wavs)) / 16000
    noise_s = sum(map(len, raw)) / 44100
    rows = []
    for step, seconds in medians(found).items():
        audio_s = noise_s if step.endswith(" noise") else speech_s
        rate = audio_s / seconds
        workers = options.gpu_rate / rate if step.startswith("all") else None
        rows.append({"step": step, "rate": rate, "workers": workers})
    return {"machine": machine(), "gpu_rate": options.gpu_rate, "rows": rows}


def main(argv=None):
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speech", type=Path, default=DATA / "emodb")
    parser.add_argument("--noise", type=Path, default=DATA / "noise")
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--gpu-rate",
        type=float,
        default=400.0,
        help="seconds of audio per second that a GPU trains on",
    )
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = measure(options)
    print_table(COLUMNS, result["rows"], options.markdown)
    print(f"workers: of {options.gpu_rate:.0f} s/s, what training needs")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()

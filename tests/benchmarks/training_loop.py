"""What training costs beside the model: the Brain, reading, resampling, mixing.

> python tests/benchmarks/training_loop.py

One epoch of the default recipe's training set, in turn within one process:

- *bare loop*: forward, losses, backward, clipping, AdamW on batches that are
  in memory; what has to be done whoever writes the loop.
- *Brain*: the same batches through ``JointBrain.fit_batch``, with the
  statistics of the epoch, but without measurements of gradient conflict (they
  are one more backward pass, every ``gradient_conflict_interval`` steps).
- *loading*: reading, resampling, mixing and padding the same batches in one
  process. Workers keep up as long as this is less than the bare loop times
  their number.

Also measured: how fast one process resamples and mixes, in seconds of audio
per second.
"""

import argparse
import copy
import sys
import tempfile
from pathlib import Path

import speechbrain as sb
import torch
from common import (
    interleave,
    machine,
    median_ratio,
    medians,
    print_table,
    write_json,
)

from merit_modules.data.mixing import mix_at_snr
from merit_modules.data.resampling import resampler
from merit_modules.hparams import load_hparams
from merit_modules.training import recipe

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = (
    ("form", "form", "{}"),
    ("s per epoch", "seconds", "{:.2f}"),
    ("x bare loop", "ratio", "{:.3f}"),
)


def make(options, folder):
    """Build the experiment, its data and its Brain."""
    argv = [str(options.hparams), "--output_folder", f"{folder}/run"]
    argv += ["--data_folder", options.data_folder or f"{folder}/data"]
    argv += ["--gradient_conflict_interval", "0", "--num_workers", "0"]
    argv += ["--stage_1_epochs", "0", "--noprogressbar", *options.overrides]
    path, run_opts, overrides = sb.parse_arguments(argv)
    hparams = load_hparams(path, overrides)
    hparams["prepare"]()
    data = recipe.dataio_prepare(hparams)
    brain = recipe.make_brain(hparams, run_opts, data)
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    brain.modules.train()
    return hparams, data, brain


def loader_of(hparams, data, brain):
    """Make the loader of the training set, in this process."""
    kwargs = recipe.loader_kwargs(hparams, data.train)
    return brain.make_dataloader(data.train, sb.Stage.TRAIN, **kwargs)


def bare_step(brain, batch, loss):
    """Train on a batch with nothing but what training needs."""
    output = brain.system(*batch.noisy_wav)
    labels = brain.target.labels(batch)
    clean_wavs = batch.clean_wav.data
    terms = loss.terms(
        brain.system, output, clean_wavs, labels, brain.target.loss
    )
    loss(terms).backward()
    parameters = [
        p for group in brain.optimizer.param_groups for p in group["params"]
    ]
    torch.nn.utils.clip_grad_norm_(parameters, brain.max_grad_norm)
    brain.optimizer.step()
    brain.optimizer.zero_grad(set_to_none=True)


def through_brain(brain, batch, step):
    """Train on a batch as ``Brain.fit`` does."""
    brain.step = step
    brain.fit_batch(batch)


def audio_rates(batches, noise_rate_hz=44100):
    """Measure seconds of audio per second: resampling, and mixing."""
    wavs = [wav for batch in batches for wav in batch.clean_wav.data]
    seconds = sum(len(wav) for wav in wavs) / 16000
    convert = resampler(noise_rate_hz, 16000)
    n_samples = [round(len(wav) * noise_rate_hz / 16000) for wav in wavs]
    noises = [torch.randn(n) for n in n_samples]
    mixed = [torch.randn(len(wav)) for wav in wavs]
    found = interleave(
        {
            "resampling": lambda: [convert(noise) for noise in noises],
            "mixing": lambda: [
                mix_at_snr(wav, noise, 5.0) for wav, noise in zip(wavs, mixed)
            ],
        },
        repeats=3,
    )
    return {name: seconds / t for name, t in medians(found).items()}


def measure(options):
    """Measure all forms."""
    with tempfile.TemporaryDirectory() as folder:
        hparams, data, brain = make(options, folder)
        batches = list(loader_of(hparams, data, brain))[: options.batches]
        loss = copy.deepcopy(hparams["loss"])
        forms = {
            "bare loop": lambda: [bare_step(brain, b, loss) for b in batches],
            "Brain": lambda: [
                through_brain(brain, batch, step)
                for step, batch in enumerate(batches, start=1)
            ],
            "loading": lambda: [
                b for _, b in zip(batches, loader_of(hparams, data, brain))
            ],
        }
        found = interleave(forms, options.repeats)
        rates = audio_rates(batches)
    rows = [
        {
            "form": name,
            "seconds": medians(found)[name],
            "ratio": median_ratio(seconds, found["bare loop"]),
        }
        for name, seconds in found.items()
    ]
    audio_s = sum(
        len(wav) / 16000 for batch in batches for wav in batch.clean_wav.data
    )
    return {
        "machine": machine(),
        "n_batches": len(batches),
        "audio_s": audio_s,
        "rows": rows,
        "audio_s_per_s": rates,
    }


def main():
    """Measure and print a table; write JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--hparams", default=str(ROOT / "hparams" / "sparse_merit.yaml")
    )
    parser.add_argument("--data_folder", help="MiniEmo; made by default")
    parser.add_argument("--batches", type=int, help="of an epoch; all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument(
        "overrides", nargs="*", help="keys of the YAML, after --"
    )
    options = parser.parse_args()
    result = measure(options)
    print(f"{result['n_batches']} batches, {result['audio_s']:.0f} s of audio")
    print_table(COLUMNS, result["rows"], options.markdown)
    for name, rate in result["audio_s_per_s"].items():
        print(f"{name}: {rate:.0f} s of audio per second, one process")
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    sys.exit(main())

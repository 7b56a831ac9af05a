"""Training as train.py does it, on audio files: gpu.py's loop."""

import json
import os
import time

import common
import numpy as np
import soundfile
import speechbrain as sb
import torch
import whole_system

from merit_modules.hparams import load_hparams
from merit_modules.training import recipe

SAMPLE_RATE_HZ = 16000
EMOTIONS = ("angry", "sad", "happy", "neutral")


def make_corpus(folder, n_utterances, longest_s):
    """Write noise as speech of four emotions, and the manifests.

    Arguments
    ---------
    folder : Path
        Where to.
    n_utterances : int
        Utterances for training.
    longest_s : float
        Length of the longest; the shortest has half of it.
    """
    rng = np.random.default_rng(0)

    def write(name, n, **labels):
        entries = {}
        for i in range(n):
            path = folder / f"{name}_{i}.wav"
            duration_s = longest_s * (1 - 0.5 * i / n)
            n_samples = round(duration_s * SAMPLE_RATE_HZ)
            samples = 0.1 * rng.standard_normal(n_samples)
            soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            entry = {"wav": str(path), "duration": n_samples / SAMPLE_RATE_HZ}
            entry |= {k: v[i % len(v)] for k, v in labels.items()}
            entries[f"{name}_{i}"] = entry
        (folder / f"{name}.json").write_text(json.dumps(entries))

    for name, n in (("train", n_utterances), ("valid", 4), ("test", 4)):
        write(name, n, emo=EMOTIONS, spk_id=["a", "b"])
    for name in ("train", "valid", "test_unseen"):
        write(f"noise_{name}", 4, noise_type=["white"])


def make_brain(options, folder, audio_s):
    """Build the experiment; return Brain, loader."""
    own = options.data_folder is not None
    manifests = options.data_folder if own else folder
    if not own:
        n_utterances = max(8, round(options.loop_audio_s / 4))
        make_corpus(folder, n_utterances, min(options.seconds))
    path = folder / "sparse_merit.yaml"  # written by load_at_paper_size
    text = path.read_text()
    sizes = whole_system.PAPER.items()
    argv = [str(path), "--output_folder", str(folder / "run")]
    for key, value in {
        **{key: value for key, value in sizes if f"\n{key}:" in text},
        "device": options.device,
        "precision": options.precision,
        "data_folder": str(manifests),
        "manifest_folder": str(manifests),
        "skip_prep": True,
        "stage_1_epochs": 0,
        "batch_length_s": audio_s,
        "max_batch_size": 64,
        "num_workers": min(8, os.cpu_count() - 1),
    }.items():
        argv += [f"--{key}", str(value)]
    if options.compile and options.device != "cpu":
        argv.append("--compile")
    path, run_opts, overrides = sb.parse_arguments([*argv, "--noprogressbar"])
    hparams = load_hparams(path, overrides)
    data = recipe.dataio_prepare(hparams)
    brain = recipe.make_brain(hparams, run_opts, data)
    brain.on_fit_start()
    brain.on_stage_start(sb.Stage.TRAIN, epoch=1)
    brain.modules.train()
    kwargs = recipe.loader_kwargs(hparams, data.train, shuffle=True)
    return brain, brain.make_dataloader(data.train, sb.Stage.TRAIN, **kwargs)


def loop_row(options, folder, n_warm_up=4):
    """Take the steps of one epoch, the first of them untimed.

    Returns
    -------
    dict
        A row of gpu.py's table.
    """
    audio_s = 16 * min(options.seconds)
    brain, loader = make_brain(options, folder, audio_s)
    seconds, step, start = 0.0, 0, time.perf_counter()
    n_warm_up = min(n_warm_up, len(loader) - 1)
    for step, batch in enumerate(loader, start=1):
        brain.step = step
        brain.fit_batch(batch)
        if step > n_warm_up:
            wavs, lens = batch.noisy_wav
            seconds += lens.sum().item() * wavs.shape[1] / SAMPLE_RATE_HZ
        elif step == n_warm_up:
            common.finish(options.device)
            start = time.perf_counter()
    common.finish(options.device)
    taken_s = time.perf_counter() - start
    n_steps = step - n_warm_up
    row = {
        "what": "train.py",
        "batch": f"{audio_s:.0f} s",
        "form": "sparse",
        "n_steps": n_steps,
        "time_s": taken_s / n_steps,
        "audio_s_per_s": seconds / taken_s,
    }
    if torch.device(options.device).type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row

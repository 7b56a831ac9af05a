"""Make what README shows first: three noisy recordings, and what a model does.

``python docs/first_look.py MODEL_DIR`` writes three pairs of noisy and enhanced
speech, a picture of the first one, and prints a table for README. Each mixture
is one of MiniEmo's test in unseen noise at 0 dB. They are chosen by name and
kind, never by how well the model does.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from matplotlib import rc_context
from PIL import Image

from merit_modules import SparseMERIT
from merit_modules.data.audio import read_audio
from merit_modules.data.manifest import read_manifest
from merit_modules.data.miniemo.prepare import prepare_miniemo
from merit_modules.data.mixing import NoiseMixer
from merit_modules.evaluation.conditions import varied
from merit_modules.evaluation.metrics.enhancement import si_sdr_db
from merit_modules.evaluation.metrics.table import number as number_text
from merit_modules.report.figures.examples import (
    RANGE_DB,
    draw_experts,
    spectrum_db,
)
from merit_modules.report.figures.style import PNG_DPI, RC, new_figure

SNR_DB = 0
MIXTURE_SEED = 0  # that of all YAML files
TASKS = {"se": "enhancement", "ser": "emotion"}


def choose(data_folder, n_sentences, n=3):
    """Mix utterances of other voices and emotions with other noises.

    Arguments
    ---------
    data_folder : str or Path
        MiniEmo's audio; made if it is not there.
    n_sentences : int
        Sentences of each voice and emotion in it.
    n : int
        How many utterances.

    Returns
    -------
    list of tuple
        Speech entry, noise entry, noisy and clean samples (N,).
    """
    with TemporaryDirectory() as manifests:
        prepare_miniemo(data_folder, manifests, n_sentences=n_sentences)
        speech, noise = (
            read_manifest(Path(manifests) / f"{name}.json", data_folder)
            for name in ("test", "noise_test_unseen")
        )
    mixer = NoiseMixer(noise, SNR_DB, MIXTURE_SEED)
    found, kinds = {}, {}
    for utt_id, entry in sorted(speech.items()):
        noisy, clean, recipe = mixer(utt_id, read_audio(entry["wav"]))
        added = noise[recipe.noise_id]
        found[utt_id] = entry, added, noisy, clean
        kinds[utt_id] = (
            *(entry["emo"], entry["spk_id"]),
            *(recipe.noise_id, added["noise_type"]),
        )
    return [found[utt_id] for utt_id in varied(kinds, n)]


def write_pair(folder, number, noisy, enhanced, rate_hz):
    """Write 16-bit WAV files; one gain for both where one would clip."""
    gain = min(1.0, 0.99 / float(max(noisy.abs().max(), enhanced.abs().max())))
    for side, wav in ("noisy", noisy), ("enhanced", enhanced):
        path = folder / f"{number}_{side}.wav"
        soundfile.write(path, (gain * wav).numpy(), rate_hz, "PCM_16")


def draw(wavs, rate_hz, analysis):
    """Draw spectrograms over the choices of the routers.

    Arguments
    ---------
    wavs : dict
        Heading to samples (N,), a row each.
    rate_hz : int
        Their sample rate.
    analysis : Analysis
        What the model made of them.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    routing = analysis.routing
    spectra = {side: spectrum_db(wav, rate_hz) for side, wav in wavs.items()}
    top = max(spectrum.max() for spectrum in spectra.values())
    figure = new_figure(1000 / PNG_DPI, 3.6 + 0.55 * len(routing))
    with rc_context({**RC, "font.size": 10}):
        panels = figure.subplots(
            len(wavs) + len(routing),
            sharex=True,
            height_ratios=[3] * len(wavs) + [1] * len(routing),
        )
        for panel, (side, spectrum) in zip(panels, spectra.items()):
            image = panel.imshow(
                spectrum,
                origin="lower",
                aspect="auto",
                extent=(0, analysis.duration_s, 0, rate_hz / 2000),
                vmin=top - RANGE_DB,
                vmax=top,
                cmap="cividis",
            )
            panel.set_title(side, loc="left", fontsize=11)
            panel.set_ylabel("kHz")
        figure.colorbar(image, ax=panels[: len(wavs)], label="dB", pad=0.01)
        for panel, (task, experts) in zip(panels[len(wavs) :], routing.items()):
            experts = np.asarray(experts)
            draw_experts(panel, experts, analysis.frame_s)
            panel.tick_params("y", labelsize=8)
            panel.set_title(
                f"expert that serves each frame, {TASKS[task]}",
                loc="left",
                fontsize=10,
            )
        panels[-1].set_xlabel("time (s)")
        panels[-1].set_xlim(0, analysis.duration_s)
    return figure


def main():
    """Write files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder that merit export wrote")
    parser.add_argument("--data_folder", default="data/MiniEmo")
    parser.add_argument("--n_sentences", type=int, default=5)
    parser.add_argument("--out", type=Path, default="docs/first_look")
    args = parser.parse_args()
    model = SparseMERIT.from_hparams(source=args.model)
    rate_hz = model.sample_rate_hz
    args.out.mkdir(parents=True, exist_ok=True)
    print(
        "| listen | noise, 0 dB | SI-SDR, dB | spoken | recognised |\n"
        "|---|---|---:|---|---|"
    )
    chosen = choose(args.data_folder, args.n_sentences)
    for number, (speech, noise, noisy, clean) in enumerate(chosen, 1):
        found = model.analyze(noisy)
        write_pair(args.out, number, noisy, found.enhanced, rate_hz)
        before, after = (
            number_text(si_sdr_db(wav, clean), 1)
            for wav in (noisy, found.enhanced)
        )
        label, percent = found.emotion.label, f"{100 * found.emotion.score:.0f}"
        links = ", ".join(
            f"[{side}]({args.out.as_posix()}/{number}_{side}.wav)"
            for side in ("noisy", "enhanced")
        )
        print(
            f"| {links} | {noise['noise_type']} | {before} -> {after} "
            f"| {speech['emo']} | {label} ({percent} %) |"
        )
        if number == 1:
            headings = (
                f"noisy: {noise['noise_type']} at {SNR_DB} dB",
                f"enhanced: SI-SDR {before} to {after} dB; recognised: "
                f"{label} ({percent} %), spoken: {speech['emo']}",
            )
            wavs = dict(zip(headings, (noisy.numpy(), found.enhanced.numpy())))
            figure = draw(wavs, rate_hz, found)
            path = args.out / "first_look.png"
            figure.savefig(path, dpi=PNG_DPI)
            # A palette makes the file a third as large.
            with Image.open(path) as image:
                small = image.convert("RGB").quantize(64, dither=Image.NONE)
            small.save(path, optimize=True)


if __name__ == "__main__":
    main()

"""All figures and examples of a report."""

import hashlib
import io
import json
from typing import NamedTuple

import numpy as np
import soundfile

from merit_modules.evaluation.conditions import HEARD
from merit_modules.evaluation.routing_log import read_routing
from merit_modules.report.figures.conflict import draw_conflict
from merit_modules.report.figures.confusion import draw_confusions
from merit_modules.report.figures.curves import draw_curves
from merit_modules.report.figures.examples import draw_example
from merit_modules.report.figures.loads import draw_loads
from merit_modules.report.figures.style import finish
from merit_modules.report.writers import heading_of

MAX_SYSTEMS = 4  # of confusion matrices and examples
MAX_EXAMPLES = 2  # per system
MAX_AUDIO_S = 8.0


class Example(NamedTuple):
    """An utterance to listen to.

    Arguments
    ---------
    title : str
        System, condition and id.
    picture : Picture
        Its spectrograms.
    sounds : dict
        Side to the content of a WAV file.
    """

    title: str
    picture: object
    sounds: dict


def draw_all(study, tables, columns, routing, folder):
    """Draw all figures that the runs have data for.

    Arguments
    ---------
    study : Study
        The runs.
    tables : dict
        Score to system to column to cell.
    columns : list of Column
        All columns.
    routing : dict
        System to the analyses of its runs.
    folder : str or Path
        Where PNG and PDF files go.

    Returns
    -------
    list of Picture
        The figures.
    """
    found = []

    def add(figure, *words):
        if figure is not None:
            found.append(finish(figure, folder, *words))

    for name, table in tables.items():
        title = heading_of(name)[0]
        # The decibels of clean speech would hide all other differences.
        drawn = [
            c
            for c in columns
            if c.snr_db is not None or not name.endswith("_db")
        ]
        add(
            draw_curves(title, table, drawn, study.systems),
            f"{name}_over_snr",
            f"{title} over SNR",
            "Bands or bars: 95 % intervals, bootstrap over speakers. Clean "
            "speech stands at the right end, except for decibels.",
            f"Lines of {title} over SNR for {', '.join(table)}.",
        )
    noisy = [c for c in study.conditions if c.snr_db is not None]
    chosen = [noisy[0], noisy[-1]] if len(noisy) > 1 else study.conditions[:1]
    add(
        draw_confusions(study, study.systems[:MAX_SYSTEMS], chosen),
        "confusion",
        "Confusion matrices",
        "Shares of the true class, counts of utterances in parentheses; runs "
        "pooled.",
        "Confusion matrices of "
        + ", ".join(study.systems[:MAX_SYSTEMS])
        + " under "
        + " and ".join(c.name for c in chosen),
    )
    for system, analyses in list(routing.items())[:MAX_SYSTEMS]:
        run = analyses[0]
        which = f"seed {run['seed']}"
        if run["fold"] is not None:
            which = f"fold {run['fold']}, {which}"
        add(
            draw_loads(run),
            f"expert_load_{system}",
            f"Expert load, {system}",
            f"Share of the frames that each expert serves, in one run "
            f"({which}): experts have no order, so runs cannot be averaged.",
            f"Bars of expert load of {system} by factor, a row per task.",
        )
    measured = {}
    for run in study.runs:
        path = run.folder / "gradient_conflict.json"
        if path.is_file() and run.system not in measured:
            content = json.loads(path.read_text(encoding="utf-8"))
            measured[run.system] = content["measurements"]
    add(
        draw_conflict(measured),
        "gradient_conflict",
        "Gradient conflict",
        "Cosine between the gradients of the two tasks, mean over the layers "
        "and experts that they share, in the first run of each system; below "
        "0 the tasks pull in opposite directions.",
        "Mean cosine of the tasks' gradients over training steps.",
    )
    return found


def take_examples(study, folder):
    """Draw and read a few utterances that runs left behind.

    Arguments
    ---------
    study : Study
        The runs.
    folder : str or Path
        Where PNG and PDF files go.

    Returns
    -------
    list of Example
        At most two each of the first systems that enhance, all under the
        lowest SNR.
    """
    found, systems = [], []
    for run in study.runs:
        condition = study.conditions[0].name
        files = sorted(
            (run.folder / "examples" / condition).glob("*_noisy.wav")
        )
        if not files or run.system in systems or len(systems) == MAX_SYSTEMS:
            continue
        systems.append(run.system)
        for path in files[:MAX_EXAMPLES]:
            found.append(_example(run, condition, path, folder))
    return found


def _example(run, condition, path, folder):
    utt_id = path.name.removesuffix("_noisy.wav")
    wavs = {}
    for side in HEARD:
        file = path.with_name(f"{utt_id}_{side}.wav")
        if file.is_file():
            wavs[side], rate_hz = soundfile.read(file)
    routing = None
    archive = run.folder / "routing" / f"{condition}.npz"
    if archive.is_file():
        routing = read_routing(archive).of(utt_id)
    title = f"{run.system}, {condition}: {utt_id}"
    number = hashlib.sha256(title.encode()).hexdigest()[:8]
    picture = finish(
        draw_example(wavs, rate_hz, routing),
        folder,
        f"example_{number}",
        title,
        "Spectrograms on one scale"
        + (", and the expert that served each frame." if routing else "."),
        f"Spectrograms of {', '.join(wavs)} speech.",
    )
    return Example(title, picture, _as_pcm(wavs, rate_hz))


def _as_pcm(wavs, rate_hz):
    """Write 16-bit WAV files; one gain for all where one would clip."""
    peak = max(np.abs(wav).max() for wav in wavs.values())
    gain = min(1.0, 0.99 / peak)
    sounds = {}
    for side, wav in wavs.items():
        stream = io.BytesIO()
        soundfile.write(
            stream,
            gain * wav[: round(MAX_AUDIO_S * rate_hz)],
            rate_hz,
            format="WAV",
            subtype="PCM_16",
        )
        sounds[side] = stream.getvalue()
    return sounds

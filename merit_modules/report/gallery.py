"""All figures and examples of a report."""

import io
import json
from typing import NamedTuple

import numpy as np
import soundfile

from merit_modules.errors import InputError
from merit_modules.evaluation.conditions import varied
from merit_modules.evaluation.metrics.table import number
from merit_modules.evaluation.routing_log import read_routing
from merit_modules.report.compare import GAIN
from merit_modules.report.figures.conflict import draw_conflict
from merit_modules.report.figures.confusion import draw_confusions
from merit_modules.report.figures.curves import draw_curves
from merit_modules.report.figures.examples import draw_example
from merit_modules.report.figures.loads import draw_loads
from merit_modules.report.figures.style import finish
from merit_modules.report.runs import NOISY
from merit_modules.report.writers import heading_of

MAX_SYSTEMS = 4  # of confusion matrices and examples
MAX_EXAMPLES = 4
MAX_AUDIO_S = 8.0
_NOISY = "_noisy.wav"
_CLEAN = "clean speech"


class Example(NamedTuple):
    """An utterance to listen to.

    Arguments
    ---------
    title : str
        Condition, id, speaker and label.
    picture : Picture
        Spectrograms of all systems.
    sides : dict
        Heading (noisy, a system, clean) to what the system took it for, and
        the content of a WAV file, None from one that does not enhance.
    """

    title: str
    picture: object
    sides: dict


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

    alike = {}
    for name, table in tables.items():
        scores = frozenset(
            (system, column, round(cell["score"], 9))
            for system, cells in table.items()
            for column, cell in cells.items()
        )
        alike.setdefault(scores, []).append(name)
    for name, *others in alike.values():
        names = [name, *others]
        title = " and ".join(heading_of(n)[0] for n in names)
        # The decibels of clean speech would hide all other differences.
        drawn = [
            c
            for c in columns
            if c.snr_db is not None or not name.endswith("_db")
        ]
        caption = (
            "Bands or bars: 95 % intervals, bootstrap over speakers. Clean "
            "speech stands at the right end, except for decibels."
        )
        if name.startswith(GAIN):
            caption += " At the dotted line is the noisy input."
        if others:
            caption += " Their scores are the same here: one figure."
        add(
            draw_curves(
                *(title, tables[name], drawn, study.systems),
                is_gain=name.startswith(GAIN),
            ),
            f"{name}_over_snr",
            f"{title} over SNR",
            caption,
            f"Lines of {title} over SNR for {', '.join(tables[name])}.",
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
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                measured[run.system] = content["measurements"]
                draw_conflict({"": content["measurements"]})
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: expected the measurements of a run: {error!r}"
                ) from None
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
        Those that most systems have, of other emotions, speakers and SNRs.
    """
    found = {}
    for run in study.runs:
        if run.system not in study.systems[:MAX_SYSTEMS]:
            continue
        for condition in study.conditions:
            here = run.folder / "examples" / condition.name
            for path in sorted(here.glob(f"*{_NOISY}")):
                utt_id = path.name.removesuffix(_NOISY)
                if utt_id in run.rows[condition.name]:
                    key = condition.name, utt_id, run.fold, run.seed
                    found.setdefault(key, {})[run.system] = run
    most = max(map(len, found.values()), default=0)
    rows = {
        key: _merge(run.rows[key[0]][key[1]] for run in runs.values())
        for key, runs in sorted(found.items(), key=str)
        if len(runs) == most
    }
    about = ("label", "spk_id", "snr_db", "noise_set", "utt_id")
    kinds = {k: tuple(map(row.get, about)) for k, row in rows.items()}
    return [
        _example(key, rows[key], found[key], study, folder)
        for key in varied(kinds, MAX_EXAMPLES)
    ]


def _merge(rows):
    """Take what any system's row says: one of SE alone has no label."""
    return {k: v for row in rows for k, v in row.items() if v}


def _example(key, about, runs, study, folder):
    condition, utt_id = key[:2]
    wavs, routings, said = {}, {}, {}
    for system in filter(runs.get, study.systems):
        run = runs[system]
        row = run.rows[condition][utt_id]
        said[system] = _prediction(row, study.attributes)
        here = run.folder / "examples" / condition
        archive = run.folder / "routing" / f"{condition}.npz"
        for heading, side in (NOISY, "noisy"), (system, "enhanced"):
            file = here / f"{utt_id}_{side}.wav"
            if file.is_file():
                wavs[heading], rate_hz = _read(file)
        if archive.is_file():
            routings[system] = read_routing(archive).of(utt_id)
    file = here / f"{utt_id}_clean.wav"
    if file.is_file():
        wavs[_CLEAN], rate_hz = _read(file)
    title = f"{condition}: {utt_id}, {_label(about, study.attributes)}"
    picture = finish(
        draw_example(wavs, rate_hz, routings),
        folder,
        f"example_{condition}_{utt_id}",
        title,
        "Spectrograms on one scale"
        + (", and the expert that served each frame." if routings else "."),
        f"Spectrograms: {', '.join(wavs)}.",
    )
    sounds = _as_pcm(wavs, rate_hz)
    return Example(
        title,
        picture,
        {
            side: (said.get(side, ""), sounds.get(side))
            for side in (NOISY, *said, _CLEAN)
        },
    )


def _read(file):
    """Read an example: one channel, as it was written."""
    try:
        wav, rate_hz = soundfile.read(file)
    except (OSError, soundfile.SoundFileError) as error:
        raise InputError(f"{file}: expected an example: {error}") from None
    if wav.ndim != 1 or not len(wav) or not np.isfinite(wav).all():
        raise InputError(f"{file}: expected an example: it is damaged")
    return wav, rate_hz


def _label(about, attributes):
    labels = [
        f"{a} {about[f'label_{a}']}"
        for a in attributes
        if f"label_{a}" in about
    ]
    label = about.get("label") or ", ".join(labels) or "nothing"
    return f"speaker {about.get('spk_id', 'unknown')}, labelled {label}"


def _prediction(row, attributes):
    """Say what a system took an utterance for."""
    if row.get("prediction"):
        is_right = row["prediction"] == row["label"]
        prob = float(row[f"prob_{row['prediction']}"])
        verdict = "right" if is_right else "wrong"
        return f"{row['prediction']} ({100 * prob:.0f} %), {verdict}"
    return ", ".join(
        f"{a} {number(float(row[f'prediction_{a}']), 2)}"
        for a in attributes
        if row.get(f"prediction_{a}")
    )


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

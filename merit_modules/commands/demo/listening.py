"""From an upload to all that the page shows of it."""

import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from merit_modules.commands.demo.figures import (
    NARROW,
    WIDE,
    draw_routing,
    draw_spectrograms,
    draw_timeline,
    spectrogram_db,
)
from merit_modules.errors import InputError
from merit_modules.inference.audio import FileSource
from merit_modules.inference.emotion import ClassReader
from merit_modules.inference.interface import SEGMENT_S

#: What the longest recording may have: others count by their samples.
USUAL_RATE_HZ, USUAL_CHANNELS = 48000, 2
_TOP = 1 - 2.0**-15  # the loudest 16-bit sample


class Findings(NamedTuple):
    """What the page shows of a recording.

    Arguments
    ---------
    name : str
        The recording's name, as its owner knows it.
    analysis : Analysis
        What the model says.
    n_channels : int
        Channels of the recording.
    took_s : float
        Seconds that the model took.
    noisy : Path
        WAV file of the recording.
    enhanced : Path or None
        WAV file of the enhanced speech, at the same level.
    table : Path
        JSON file of the analysis.
    pictures : dict
        Name (spectrograms, timeline, routing) to wide and narrow PNG.
    """

    name: str
    analysis: object
    n_channels: int
    took_s: float
    noisy: Path
    enhanced: Path | None
    table: Path
    pictures: dict


def listen(
    model, path, folder, max_s, name=None, segment_s=SEGMENT_S, progress=None
):
    """Let a model listen to a file.

    Arguments
    ---------
    model : SparseMERIT
        The model.
    path : Path
        Audio file.
    folder : Path
        Where the results go.
    max_s : float
        Longest recording, in seconds.
    name : str, optional
        What to call it; the file's name by default.
    segment_s : float
        Length of a segment of the timeline.
    progress : callable, optional
        Called with the share that is done.

    Returns
    -------
    Findings
        All that there is to show.

    Raises
    ------
    InputError
        If it is no audio, too long or broken. Nothing but the name tells
        which file it was.

    Example
    -------
    >>> from merit_modules.inference import SparseMERIT
    >>> from merit_modules.pretrained import save_folder
    >>> from merit_modules.tiny import tiny_system
    >>> folder = getfixture("tmp_path")
    >>> save_folder(tiny_system(), folder / "model", list("asht"))
    >>> model = SparseMERIT.from_hparams(source=folder / "model")
    >>> soundfile.write(folder / "a.wav", 0.1 * np.random.randn(8000), 8000)
    >>> found = listen(model, folder / "a.wav", folder, max_s=60)
    >>> found.enhanced.name, found.analysis.duration_s
    ('a_enhanced.wav', 1.0)
    >>> list(found.pictures)
    ['spectrograms', 'timeline', 'routing']
    """
    path, name = Path(path), name or Path(path).name
    try:
        source = FileSource(path, round(max_s * USUAL_RATE_HZ * USUAL_CHANNELS))
        _check(source, name, max_s)
        analysis, took_s = _analyse(model, path, folder, segment_s, progress)
        noisy = folder / f"{path.stem}_noisy.wav"
        _copy(source, noisy, analysis.gain)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None
    table = folder / f"{path.stem}_analysis.json"
    table.write_text(_as_json(analysis, name), encoding="utf-8")
    return Findings(
        name,
        analysis,
        source.n_channels,
        took_s,
        noisy,
        analysis.enhanced_path,
        table,
        _draw(model, analysis, noisy),
    )


def _check(source, name, max_s):
    rate_hz = source.sample_rate_hz
    if source.n_samples > max_s * rate_hz:
        raise InputError(
            f"{name}: expected at most {max_s / 60:g} minutes, got "
            f"{source.n_samples / rate_hz / 60:.1f}"
        )
    # Results have its rate: their size is that of its samples.
    if source.n_samples > max_s * USUAL_RATE_HZ:
        raise InputError(
            f"{name}: expected at most {max_s * USUAL_RATE_HZ:.0f} samples "
            f"({max_s / 60:g} minutes at {USUAL_RATE_HZ} Hz), got "
            f"{source.n_samples}"
        )


def _analyse(model, path, folder, segment_s, progress):
    def tell(recording, window):
        if progress is not None:
            n_samples = recording.duration_s * model.sample_rate_hz
            progress(min(1.0, window.stop / n_samples))

    start_s = time.perf_counter()
    analysis = model.analyze_file(
        path,
        output_filename=folder / f"{path.stem}_enhanced.wav",
        encoding="pcm16",
        segment_s=segment_s,
        progress=tell,
    )
    return analysis, time.perf_counter() - start_s


def _copy(source, path, gain):
    """Write what the model heard, as loud as the enhanced speech."""
    peak = max(float(block.abs().max()) for block in source.blocks())
    gain = min(gain, _TOP / peak) if peak > 0 else gain
    with soundfile.SoundFile(
        path, "w", source.sample_rate_hz, 1, "PCM_16"
    ) as audio:
        for block in source.blocks():
            audio.write(block.numpy() * gain)


def _as_json(analysis, name):
    told = analysis.as_dict() | {"file": name}
    if analysis.enhanced_path is not None:
        told["enhanced"] = analysis.enhanced_path.name
    if analysis.routing:
        told["frame_s"] = analysis.frame_s
        told["routing"] = {t: e.tolist() for t, e in analysis.routing.items()}
    return json.dumps(told, ensure_ascii=False)


def _draw(model, analysis, noisy):
    """Draw what there is, each picture for wide and for narrow screens."""
    sides = {"noisy": noisy, "enhanced": analysis.enhanced_path}
    spectra = {s: spectrogram_db(path) for s, path in sides.items() if path}
    end_s = analysis.duration_s
    pictures = {
        "spectrograms": (draw_spectrograms, spectra, analysis.sample_rate_hz)
    }
    if analysis.timeline:
        reader = model.reader
        scale = None
        if not isinstance(reader, ClassReader):
            scale = reader.low, reader.high
        pictures["timeline"] = (
            lambda t, end_s, layout: draw_timeline(
                t, reader.labels, end_s, scale, layout
            ),
            analysis.timeline,
        )
    if analysis.routing:
        pictures["routing"] = (
            draw_routing,
            analysis.routing,
            _count_experts(model, analysis.routing),
            analysis.frame_s,
        )
    return {
        name: tuple(draw(*data, end_s, layout=at) for at in (WIDE, NARROW))
        for name, (draw, *data) in pictures.items()
    }


def _count_experts(model, routing):
    """Count the experts of a model's pool."""
    served = 1 + max(int(np.asarray(e).max()) for e in routing.values())
    return max(served, len(getattr(model.mods.system.mixture, "experts", ())))

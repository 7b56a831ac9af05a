"""The report's page in a real browser, wide and narrow, without a network."""

import json
import re
import warnings

import numpy as np
import pytest
import soundfile

from merit_modules.report import write_report
from merit_modules.report.compare import Settings
from merit_modules.report.figures.style import add_legend, new_figure
from tests.helpers.browser import browser, visit
from tests.helpers.runs_on_disk import write_examples, write_routing, write_run

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with figures, sounds, routing and an unfriendly name."""
    folder = tmp_path_factory.mktemp("page")
    for fold in (0, 1):
        run = write_run(folder / "runs" / f"a{fold}", "base_line", fold=fold)
        write_run(folder / "runs" / f"b{fold}", "other", fold=fold, skill=0.8)
        write_run(folder / "runs" / f"c{fold}", EVIL, fold=fold, gain_db=None)
    write_examples(run, "seen_-5dB", ["f1_u000", "f1_u001"])
    write_routing(run, lambda rng, task, row, n: rng.integers(3, size=n))
    measured = [
        {"step": k, "epoch": 1, "groups": {"ssl": {"cosine": 0.1 - 0.01 * k}}}
        for k in range(20)
    ]
    path = run / "gradient_conflict.json"
    path.write_text(json.dumps({"measurements": measured}))
    settings = Settings("base_line", n_resamples=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Matplotlib's, of a legend
        write_report([folder / "runs"], folder / "out", settings, "A & B")
    return folder / "out"


def test_the_page_in_a_browser(report, tmp_path):
    url = (report / "report.html").as_uri()
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<img src='gone.png'><img src='http://127.0.0.1:9/x.png'>"
        "<audio src='gone.wav'></audio><div style='width:5000px'>x</div>"
        "<script>throw Error('oops')</script>"
    )
    with browser() as chromium:
        for size in ((1280, 900), (360, 800)):
            found = visit(chromium, url, *size)
            assert found.errors == []
            assert found.requests == []
            assert found.broken_pictures == []
            assert found.silent_sounds == []
            assert found.overflow_px <= 0
            # No column of single letters.
            assert found.narrowest_cell_px >= 30
        # And what is wrong would have been seen.
        found = visit(chromium, broken.as_uri(), 1280, 900)
    assert any("oops" in error for error in found.errors)
    assert found.requests == ["http://127.0.0.1:9/x.png"]
    assert len(found.broken_pictures) == 2
    assert len(found.silent_sounds) == 1
    assert found.overflow_px > 0


def test_the_page_holds_all_there_is(report):
    text = (report / "report.html").read_text(encoding="utf-8")
    assert EVIL not in text and "&lt;img src=x" in text
    assert "<title>A &amp; B</title>" in text
    n_examples = 2
    assert text.count("<audio") == 3 * n_examples
    # F1, UAR, accuracy, SI-SDR, gain; confusion; load; conflict; examples.
    assert text.count("<img src=") == 5 + 1 + 1 + 1 + n_examples
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", text)
    assert "infinite" in text and "Cost" in text
    for heading in ("Emotions", "Routing", "Experts removed"):
        assert f">{heading}</h2>" in text


def test_figures_are_files_too(report):
    names = {path.name for path in (report / "figures").iterdir()}
    assert {"f1_macro_over_snr.pdf", "f1_macro_over_snr.png"} <= names
    assert {"confusion.pdf", "gradient_conflict.pdf"} <= names
    assert "expert_load_base_line.pdf" in names


@pytest.mark.parametrize(
    "name, n_columns", [("ab", 3), ("weighted_sum_experts", 2), ("a" * 35, 1)]
)
def test_a_legend_is_as_wide_as_its_figure_at_most(name, n_columns):
    figure = new_figure(5.0, 3.0)
    panel = figure.subplots()
    lines = [panel.plot([0, 1], [0, k])[0] for k in range(6)]
    add_legend(figure, lines, [name] * 6)
    (legend,) = figure.legends
    assert legend._ncols == n_columns
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert -1 < box.x0 < box.x1 < figure.bbox.width + 1


def test_sounds_do_not_clip(report):
    import base64
    import io

    text = (report / "report.html").read_text(encoding="utf-8")
    sounds = re.findall(r"data:audio/wav;base64,([^\"]+)", text)
    for sound in sounds:
        wav, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(sound)))
        assert rate_hz == 16000 and len(wav) == 16000
        assert np.abs(wav).max() <= 0.99
    peaks = [
        np.abs(soundfile.read(io.BytesIO(base64.b64decode(s)))[0]).max()
        for s in sounds
    ]
    assert max(peaks) == pytest.approx(0.99, abs=0.001)

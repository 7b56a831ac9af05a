"""The page of a model without a browser: what is drawn, kept and refused."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.commands.demo import fragments
from merit_modules.commands.demo.figures import (
    draw_timeline,
    expert_shares,
    spectrogram_db,
)
from merit_modules.commands.demo.files import SessionFiles
from merit_modules.commands.demo.listening import listen
from merit_modules.commands.demo.server import BodyLimit
from merit_modules.errors import InputError
from merit_modules.heads.se import SEHead
from merit_modules.heads.ser import AttentiveStatsPooling, SERHead
from merit_modules.heads.spectral import LogSpectrum
from merit_modules.inference import SparseMERIT
from merit_modules.inference.emotion import Attributes, Segment
from merit_modules.moe.layer_mix import WeightedLayerSum
from merit_modules.moe.task_sums import TaskLayerSums
from merit_modules.pretrained import save_folder
from merit_modules.system import JointSystem
from merit_modules.tiny import tiny_system
from tests.helpers.demo_server import LABELS, broken, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_system(), folder, LABELS)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return SparseMERIT.from_hparams(source=folder)


@pytest.fixture
def speech(tmp_path):
    return write(tmp_path / "speech & more.wav", seed=1)


def single_task(task):
    """A system for one task, without experts."""
    parts = tiny_system()
    encoder = parts.ssl_encoder
    mix = WeightedLayerSum(encoder.n_layer_reps, encoder.dim)
    heads = {
        "se": SEHead(LogSpectrum(), feature_size=mix.output_size),
        "ser": SERHead(AttentiveStatsPooling(mix.output_size), n_classes=4),
    }
    return JointSystem(
        parts.normalizer,
        encoder,
        TaskLayerSums({task: mix}),
        **{f"{task}_head": heads[task]},
    ).eval()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["se", "ser"])
def test_what_a_system_lacks_is_not_shown(tmp_path, speech, task):
    save_folder(single_task(task), tmp_path / "model", LABELS)
    single = SparseMERIT.from_hparams(source=tmp_path / "model")
    found = listen(single, speech, tmp_path, max_s=60)
    html = fragments.summary(found) + fragments.pictures(found)
    told = json.loads(found.table.read_text())
    if task == "se":
        assert list(found.pictures) == ["spectrograms"]
        assert found.enhanced.is_file() and "emotion" not in html.lower()
        assert "label" not in told
    else:
        assert list(found.pictures) == ["spectrograms", "timeline"]
        assert found.enhanced is None and "enhanced" not in told
        assert f"<strong>{single.classify(speech).label}</strong>" in html
    assert "routing" not in told


@pytest.mark.slow
def test_attributes_are_lines(tmp_path, speech):
    names = ["arousal", "valence", "dominance", "other"]
    facts = {"ser_target": "attributes", "attribute_scale": [1.0, 7.0]}
    save_folder(tiny_system(), tmp_path / "model", names, facts=facts)
    model = SparseMERIT.from_hparams(source=tmp_path / "model")
    found = listen(model, speech, tmp_path, max_s=60, segment_s=1.0)
    assert list(found.pictures) == ["spectrograms", "timeline", "routing"]
    html = fragments.summary(found, scale=(1.0, 7.0))
    value = model.classify(speech).attributes["valence"]
    assert f"<td>{value:.2f}</td>" in html
    assert '<meter min="1.0" max="7.0"' in html and "%" not in html
    high, low = (
        draw_timeline(
            [Segment(0, 1, Attributes({"arousal": value}))],
            ["arousal"],
            1.0,
            scale=(1.0, 7.0),
        )
        for value in (6.0, 2.0)
    )
    assert high != low


@pytest.mark.slow
@pytest.mark.parametrize("rate_hz, channels", [(44100, 2), (8000, 1)])
def test_all_that_comes_of_a_recording(model, tmp_path, rate_hz, channels):
    path = write(tmp_path / "a.wav", rate_hz, rate_hz, channels=channels)
    (tmp_path / "out").mkdir()
    found = listen(model, path, tmp_path / "out", max_s=60, segment_s=0.5)
    noisy, noisy_hz = soundfile.read(found.noisy)
    enhanced, enhanced_hz = soundfile.read(found.enhanced)
    assert noisy_hz == enhanced_hz == rate_hz
    assert noisy.shape == enhanced.shape == (rate_hz,)
    heard = soundfile.read(path, always_2d=True)[0].mean(axis=1)
    np.testing.assert_allclose(noisy, heard, atol=1e-4)
    whole = model.analyze_file(path, segment_s=0.5)
    np.testing.assert_allclose(enhanced, whole.enhanced, atol=1e-4)
    told = json.loads(found.table.read_text())
    assert told["file"] == "a.wav" and told["enhanced"] == "a_enhanced.wav"
    assert told["label"] == whole.emotion.label
    assert len(told["timeline"]) == 2
    assert told["routing"]["ser"] == whole.routing["ser"].tolist()
    assert str(tmp_path) not in found.table.read_text()
    assert ("2 channels averaged" in fragments.facts(found)) == (channels == 2)


@pytest.mark.slow
def test_both_sides_are_as_loud_and_do_not_clip(model, tmp_path):
    path = write(tmp_path / "loud.wav", scale=1.0)
    found = listen(model, path, tmp_path, max_s=60)
    noisy = soundfile.read(found.noisy)[0]
    heard = soundfile.read(path)[0]
    gain = np.abs(noisy).max() / np.abs(heard).max()
    assert 0.99 < np.abs(noisy).max() < 1 and gain < 0.5
    np.testing.assert_allclose(noisy, gain * heard, atol=1e-4)


def test_spectrogram_of_any_length(tmp_path):
    """Blocks and columns leave a tone's level and place where they are."""
    for seconds in (0.003, 0.5, 40.0):
        t = np.arange(round(8000 * seconds)) / 8000
        tone = 0.5 * np.sin(2 * np.pi * 1000 * t)
        tone[len(t) // 2 :] = 0
        soundfile.write(tmp_path / "tone.wav", tone, 8000)
        levels = spectrogram_db(tmp_path / "tone.wav", max_columns=200)
        assert levels.shape == (101, min(-(-len(t) // 80), 200))
        if seconds > 0.1:
            middle = levels.shape[1] // 2
            assert (levels[:, : middle - 2].argmax(axis=0) == 25).all()
            assert (levels[:, middle + 2 :] < -100).all()
            # Half the amplitude times the sum of the window, 100.
            loudest = 20 * np.log10(0.5 / 2 * 100)
            assert levels[25, middle // 2] == pytest.approx(loudest, abs=0.1)


def test_expert_shares():
    experts = np.random.default_rng(0).integers(3, size=5000)
    shares = expert_shares(experts, 4, max_columns=700)
    assert shares.shape == (4, 700) and not shares[3].any()
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    few = expert_shares(experts[:50], 4, max_columns=700)
    assert (few.argmax(axis=0) == experts[:50]).all()


def test_what_is_wrong_is_said_without_paths(model, tmp_path):
    for name, message in broken(tmp_path).items():
        with pytest.raises(InputError) as caught:
            listen(model, tmp_path / name, tmp_path, max_s=6)
        assert str(caught.value).startswith(message)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.slow
def test_names_are_no_markup(model, tmp_path, speech):
    evil = "<img src=x onerror=alert(1)>\"'&.wav"
    found = listen(model, speech, tmp_path, max_s=60, name=evil)
    html = fragments.summary(found) + fragments.pictures(found)
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;.wav" in html


def test_files_go_when_nobody_needs_them(tmp_path):
    files = SessionFiles(tmp_path)
    upload = tmp_path / "hash" / "a.wav"
    upload.parent.mkdir()
    upload.write_bytes(b"speech")
    # Two visitors have the same file: it goes with the second one.
    files.claim("bob", upload)
    with files.work("ann", upload) as (path, first):
        assert path == upload and first.is_dir()
    assert upload.is_file() and first.is_dir()
    with files.work("bob", upload):
        pass
    assert not upload.parent.exists()
    # New results replace earlier ones, errors do not.
    upload = tmp_path / "b.wav"
    upload.write_bytes(b"speech")
    with pytest.raises(InputError), files.work("ann", upload) as (_, failed):
        raise InputError("no audio")
    assert first.is_dir() and not failed.exists() and not upload.exists()
    upload.write_bytes(b"speech")
    with files.work("ann", upload) as (_, second):
        pass
    assert second.is_dir() and not first.exists()
    files.end("ann")
    files.end("bob")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_page_ends_its_work(tmp_path):
    files, upload = SessionFiles(tmp_path), tmp_path / "a.wav"
    upload.write_bytes(b"speech")
    with pytest.raises(InputError, match="closed"):
        with files.work("ann", upload):
            files.check_wanted("ann")
            files.end("ann")
            assert upload.exists()  # it is being read
            files.check_wanted("ann")
    assert list(tmp_path.iterdir()) == []


def test_only_uploads_are_read(tmp_path):
    (tmp_path / "root").mkdir()
    other = tmp_path / "other.wav"
    other.write_bytes(b"private")
    files = SessionFiles(tmp_path / "root")
    for path in (other, tmp_path / "root" / ".." / "other.wav", "gone.wav"):
        with pytest.raises(InputError, match="upload it again"):
            files.claim("ann", path)
    files.end("ann")
    assert other.exists()


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("n_bytes", [1000, 1001, 10**9])
def test_bodies_beyond_the_limit_are_not_read(n_bytes, told):
    """Said to be too large or not: 1 GB is never taken in."""
    got, sent = [0], []

    async def application(scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client is gone")
            got[0] += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        size = min(1000, n_bytes - got[0]) or 1
        more = got[0] + size < n_bytes
        return {"type": "http.request", "body": bytes(size), "more_body": more}

    async def send(message):
        sent.append(message.get("status"))

    import asyncio

    headers = [(b"content-length", b"%d" % n_bytes)] if told else []
    scope = {"type": "http", "headers": headers}
    limit = BodyLimit(application, 1000, "too large")
    asyncio.run(limit(scope, receive, send))
    assert sent[0] == (200 if n_bytes <= 1000 else 413)
    assert got[0] <= 1000 and (got[0] == 0) == (told and n_bytes > 1000)


@pytest.mark.slow
def test_options_that_cannot_be(folder, capsys):
    for options in (["--port", "70000"], ["--max-minutes", "0"]):
        assert main(["demo", "--model", str(folder), *options]) == 2
    assert "number from 0 to 65535" in capsys.readouterr().err
    pytest.importorskip("gradio")
    code = main(["demo", "--model", str(folder), "--host", "256.0.0.1"])
    assert code == 2 and "cannot listen there" in capsys.readouterr().err


def test_without_gradio(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--model", str(folder)]) == 2
    assert "pip install gradio" in capsys.readouterr().err

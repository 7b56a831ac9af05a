"""The page of a model without a browser: what is drawn, kept and refused."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import socket
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.commands.about import about_model
from merit_modules.commands.demo import fragments, gate, server
from merit_modules.commands.demo.example import example_recording
from merit_modules.commands.demo.figures import (
    draw_timeline,
    expert_shares,
    spectrogram_db,
)
from merit_modules.commands.demo.files import SessionFiles
from merit_modules.commands.demo.gate import (
    MARGIN_BYTES,
    BodyLimit,
    OwnHosts,
    impatient_protocol,
)
from merit_modules.commands.demo.listening import listen
from merit_modules.data.audio import open_audio
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
    # An upload stays for another analysis; two visitors have the same file.
    files.claim("bob", upload)
    for _ in range(2):
        with files.work("ann", upload) as (path, first):
            assert path == upload and first.is_dir()
        assert upload.is_file() and first.is_dir()
    files.end("ann")
    assert upload.is_file() and not first.exists()
    with files.work("bob", upload) as (_, first):
        files.claim("bob", None)
        assert upload.exists()  # it is being read
    assert not upload.parent.exists()
    # New results replace earlier ones, errors do not.
    upload = tmp_path / "b.wav"
    upload.write_bytes(b"speech")
    with pytest.raises(InputError), files.work("bob", upload) as (_, failed):
        raise InputError("no audio")
    assert first.is_dir() and not failed.exists() and upload.exists()
    with files.work("bob", upload) as (_, second):
        pass
    assert second.is_dir() and not first.exists()
    files.end("bob")
    assert list(tmp_path.iterdir()) == []


def stored(root, name, n_bytes=10, age_s=0.0):
    path = root / name / "a.wav"
    path.parent.mkdir()
    path.write_bytes(bytes(n_bytes))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_the_oldest_that_nobody_holds_go_first(tmp_path):
    files = SessionFiles(tmp_path, max_bytes=50)
    held, old, new, busy = (
        stored(tmp_path, name, age_s=age_s)
        for name, age_s in [("a", 9), ("b", 8), ("c", 1), ("d", 20)]
    )
    files.claim("ann", held)
    with files.work("bob", busy) as (_, result):
        (result / "out.wav").write_bytes(bytes(10))
        with files.admit(10):
            assert not old.parent.exists() and new.exists() and held.exists()
            # What comes in counts as soon as it has begun.
            with files.admit(10):
                assert not new.exists() and held.exists()
                with files.admit(10):
                    assert not held.exists()
                    with pytest.raises(InputError, match="no room"):
                        with files.admit(10):
                            pass
        assert busy.exists() and result.is_dir()
    with pytest.raises(InputError, match="not here any more"):
        files.claim("ann", held)
    # Afterwards, results count as well and go with their age.
    with files.admit(45):
        assert not busy.exists() or not result.exists()


def test_no_more_files_than_allowed(tmp_path):
    files = SessionFiles(tmp_path, max_files=3)
    for n in range(9):
        with files.admit(1):
            stored(tmp_path, str(n), age_s=100 - n)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "7", "8"]


def test_what_broken_uploads_leave_is_deleted(tmp_path):
    files = SessionFiles(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.admit(10))
        with pytest.raises(ConnectionError), files.admit(10):
            (tmp_path / "tmpbroken").write_bytes(b"half")
            os.utime(tmp_path / "tmpbroken", (time.time() - 9,) * 2)
            # File systems' clocks lag behind by some milliseconds.
            (tmp_path / "tmpother").write_bytes(b"of one that comes in")
            os.utime(tmp_path / "tmpother", (time.time() - 0.1,) * 2)
            raise ConnectionError
        assert [path.name for path in tmp_path.iterdir()] == ["tmpother"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_goes_that_an_upload_needs(tmp_path):
    files, upload = SessionFiles(tmp_path), stored(tmp_path, "hash", age_s=9)
    files.claim("ann", upload)
    with files.admit(10):
        files.end("ann")
        assert not upload.exists() and upload.parent.is_dir()
        upload.write_bytes(b"bob's: the same recording")
    # Ann's is gone, Bob's stays until Bob lets go of it.
    files.claim("ann", upload)
    os.utime(upload, (time.time() + 9,) * 2)
    files.end("ann")
    assert files.claim("bob", upload) == upload
    files.end("bob")
    assert list(tmp_path.iterdir()) == []
    # A folder that got nothing goes with the last upload.
    with files.admit(10):
        (tmp_path / "empty").mkdir()
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


def request(application, n_bytes, told=True, path="/upload", **limit):
    """Send a body in pieces of 1000 bytes; give what was read and answered."""
    read, sent = [0], []

    async def receive():
        size = min(1000, n_bytes - read[0]) or 1
        read[0] += size
        await asyncio.sleep(limit.get("wait_s", 0))
        more = read[0] < n_bytes
        return {"type": "http.request", "body": bytes(size), "more_body": more}

    async def send(message):
        sent.append(message)

    headers = [(b"transfer-encoding", b"chunked")]
    if told:
        headers = [(b"content-length", b"%d" % n_bytes)]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    gate = BodyLimit(application, 1000, "too large", limit.get("admit"))
    asyncio.run(gate(scope, receive, send))
    assert [m["type"] for m in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body", False)
    return read[0], sent[0]["status"], sent


class Reader:
    """An application that reads all, and counts it."""

    def __init__(self):
        self.n_bytes = 0

    async def __call__(self, scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client is gone")
            self.n_bytes += len(message["body"])
            if not message["more_body"]:
                break
        await send(
            {"type": "http.response.start", "status": 200, "headers": []}
        )
        await send({"type": "http.response.body", "body": b"read"})


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("n_bytes", [1000, 1001, 10**9])
def test_bodies_beyond_the_limit_are_not_used(n_bytes, told):
    """Said to be too large or not: of 1 GB, a bounded part is read on."""
    reader = Reader()
    n_read, status, _ = request(reader, n_bytes, told)
    assert status == (200 if n_bytes <= 1000 else 413)
    assert reader.n_bytes <= 1000
    assert (reader.n_bytes == 0) == (told and n_bytes > 1000)
    assert n_read == n_bytes or n_bytes == 10**9 and n_read < 20000


def test_other_requests_are_small():
    assert request(Reader(), 2000, path="/queue/join")[1] == 200
    assert request(Reader(), MARGIN_BYTES + 1, path="/queue/join")[1] == 413
    assert request(Reader(), 1, path="/gradio_api/openapi.json")[1] == 404


def test_slow_bodies_end(monkeypatch):
    monkeypatch.setattr(gate, "GRACE_S", 0.05)
    monkeypatch.setattr(gate, "DRAIN_S", 0.05)
    monkeypatch.setattr(gate, "MIN_BYTES_PER_S", 2000)
    assert request(Reader(), 800, wait_s=0.3)[1] == 408
    assert request(Reader(), 800, wait_s=0.01)[1] == 200


def test_an_answer_before_the_end_of_the_body_arrives():
    async def hasty(scope, receive, send):
        await receive()
        await send(
            {"type": "http.response.start", "status": 400, "headers": []}
        )
        await send({"type": "http.response.body", "body": b"no"})

    n_read, status, sent = request(hasty, 10**9, told=False)
    assert status == 400 and 1000 < n_read < 20000
    assert (b"connection", b"close") in sent[0]["headers"]
    assert [m.get("body") for m in sent[1:]] == [b"no", b""]


def test_uploads_are_admitted_one_by_one(tmp_path):
    files, reader = SessionFiles(tmp_path, max_bytes=1500), Reader()
    assert request(reader, 900, admit=files.admit)[1] == 200
    with files.admit(700):
        assert request(reader, 900, admit=files.admit)[1] == 503
        assert request(reader, 700, admit=files.admit)[1] == 200
        assert request(reader, 700, told=False, admit=files.admit)[1] == 503


OWN, FOREIGN = (
    ["localhost:7860", "127.0.0.1", "[::1]:80", "my.example"],
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example"),
        *("", "[::1", "0x7f000001", "evil.example#localhost", "10.0.0.8"),
        *("localhost@evil.example", "evil.example:80:localhost"),
    ],
)


@pytest.mark.parametrize("host", OWN + FOREIGN)
def test_only_its_own_names_reach_the_page(host):
    hosts = OwnHosts(None, ["my.example"])
    assert hosts.is_own(host) == (host in OWN)
    assert hosts.is_own(host, f"http://{host}") == (host in OWN)
    for origin in ("null", "http://evil.example", "file://", "http://[x"):
        assert not hosts.is_own(host, origin)
    assert hosts.is_own(host, "https://my.example") == (host in OWN)
    assert hosts.is_own("10.0.0.8:80", None, here="10.0.0.8")


def test_requests_by_other_names_are_refused():
    def ask(kind, *headers):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request"}

        scope = {"type": kind, "headers": headers, "server": ("10.0.0.8", 80)}
        asyncio.run(OwnHosts(Page(), [])(scope, receive, send))
        return sent[0].get("status", sent[0]["type"])

    class Page:
        async def __call__(self, scope, receive, send):
            await send({"type": "page"})

    own, evil = (b"host", b"localhost:1"), (b"host", b"evil.example")
    assert ask("http", own) == ask("http", (b"host", b"10.0.0.8")) == "page"
    assert ask("http", own, (b"origin", b"http://localhost:1")) == "page"
    for headers in ([evil], [], [own, evil], [evil, own]):
        assert ask("http", *headers) == 403
    assert ask("http", own, (b"origin", b"http://evil.example")) == 403
    assert ask("http", evil, (b"origin", b"http://evil.example")) == 403
    assert ask("websocket", evil) == "websocket.close"
    assert ask("lifespan") == "page"


@contextlib.contextmanager
def http_server(application, headers_s):
    """Serve an application in a thread; give its port."""
    uvicorn = pytest.importorskip("uvicorn")
    protocol = impatient_protocol(headers_s)
    config = uvicorn.Config(application, http=protocol, log_level="critical")
    server, opened = uvicorn.Server(config), socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen()
    thread = threading.Thread(target=server.run, args=([opened],))
    thread.start()
    yield opened.getsockname()[1]
    server.should_exit = True
    thread.join()


def test_requests_over_a_connection():
    """Slow headers end it, before and after a request; 413 arrives."""
    limit = BodyLimit(Reader(), 10**5, "too large")
    with http_server(limit, headers_s=0.5) as port:
        head = b"GET / HTTP/1.1\r\nHost: a\r\n"
        for before in (b"", head + b"\r\n"):
            client = socket.create_connection(("127.0.0.1", port), 10)
            client.sendall(before + head)
            start_s, got = time.monotonic(), b""
            with contextlib.suppress(OSError):  # closed while we go on
                for _ in range(50):
                    client.sendall(b"a")
                    time.sleep(0.05)
            while block := client.recv(1000):
                got += block
            assert time.monotonic() - start_s < 3
            assert (b"200 OK" in got) == bool(before)
            client.close()
        body = bytes(10**6)
        for told in (True, False):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.request("POST", "/upload", body if told else iter([body]))
            answer = client.getresponse()
            assert answer.status == 413 and b"too large" in answer.read()
            client.close()


@pytest.mark.parametrize("channels, minutes", [(8, 1), (1, 0.05)])
@pytest.mark.parametrize("told", [True, False])
def test_samples_are_limited(model, tmp_path, channels, minutes, told):
    """Of a few kB there may be more to hear than of any usual recording."""
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 655350, channels, "PCM_16") as audio:
        for _ in range(15 if channels > 1 else 3):
            audio.write(np.zeros((655350, channels), np.int16))
    if not told:  # STREAMINFO leaves the number of samples open
        data = bytearray(path.read_bytes())
        data[21] &= 0xF0
        data[22:26] = bytes(4)
        path.write_bytes(data)
    start_s = time.monotonic()
    with pytest.raises(
        InputError, match=r"^a.flac: .*expected at most \d+ sam"
    ):
        listen(model, path, tmp_path, max_s=60 * minutes)
    assert time.monotonic() - start_s < 2
    # At a usual rate, the whole length may be used.
    write(tmp_path / "b.wav", 48000 * 3, 48000, channels=min(channels, 2))
    listen(model, tmp_path / "b.wav", tmp_path, max_s=3)


def test_ffmpeg_decodes_no_more_than_wanted(tmp_path, monkeypatch):
    """Stood in for: it is not everywhere."""
    from merit_modules.data import containers

    (tmp_path / "a.webm").write_bytes(b"webm")
    monkeypatch.setattr(containers.shutil, "which", lambda name: "ffmpeg")

    def run(command, stdout, stderr):
        limit = int(command[command.index("-fs") + 1])
        assert 2 * 5000 < limit < 2 * 5000 + 2**20
        soundfile.write(stdout, np.zeros(6000), 8000, "PCM_16", format="WAV")
        return SimpleNamespace(returncode=0, stderr=b"")

    monkeypatch.setattr(containers.subprocess, "run", run)
    with pytest.raises(InputError, match="expected at most 5000 samples"):
        open_audio(tmp_path / "a.webm", max_values=5000)


def test_what_the_page_says_of_its_model(model, folder, tmp_path):
    """Its folder's own words, as text; else what follows from the model."""
    about = about_model(model, folder)
    assert about.name == "tiny" and not about.trained_on
    assert "Nobody wrote down" in fragments.about(about)
    assert "not for decisions about people" in about.limits[-1]
    assert any(
        "angry, sad, happy, neutral and nothing" in x for x in about.limits
    )
    mine = tmp_path / "<b>mine"
    shutil.copytree(folder, mine)
    told = {"trained_on": ["<script>"] * 99, "limits": ["<i>" * 999]}
    (mine / "about.json").write_text(json.dumps(told))
    html = fragments.about(about_model(model, mine))
    assert "This model: &lt;b&gt;mine" in html and len(html) < 20000
    assert not {"<script>", "<b>", "<i>"} & set(re.findall("<[^>]*>", html))
    for content in (b"{", b"[]", b"\xff", b"[" * 10**5):
        (mine / "about.json").write_bytes(content)
        with pytest.raises(InputError, match="about.json: "):
            about_model(model, mine)
    assert about_model(model, "owner/name").name == "owner/name"


def test_the_example_is_spoken_on_the_spot(monkeypatch):
    pytest.importorskip("espeakng_loader")
    wav, rate_hz = soundfile.read(io.BytesIO(example_recording()))
    assert rate_hz == 16000 and 2 < len(wav) / rate_hz < 10
    assert 0.1 < np.abs(wav).max() < 1
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert example_recording.__wrapped__() is None


@pytest.mark.slow
def test_options_that_cannot_be(folder, capsys):
    for options in (
        ["--port", "70000"],
        ["--max-minutes", "0"],
        ["--max-total-mb", "5"],
    ):
        assert main(["demo", "--model", str(folder), *options]) == 2
    said = capsys.readouterr().err
    assert (
        "number from 0 to 65535" in said and "at least --max-upload-mb" in said
    )
    pytest.importorskip("gradio")
    code = main(["demo", "--model", str(folder), "--host", "256.0.0.1"])
    assert code == 2 and "cannot listen there" in capsys.readouterr().err


def test_who_comes_before_the_server_is_ready_waits():
    with server._listen("127.0.0.1", 0) as opened:
        with socket.create_connection(opened.getsockname(), timeout=10):
            opened.accept()[0].close()


def test_without_gradio(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--model", str(folder)]) == 2
    assert "pip install gradio" in capsys.readouterr().err

"""The page of a model: figures, sessions, and a real browser on a real server.

The server is a process of its own, so that its memory, its network and its end
can be watched.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.commands.__main__ import main
from merit_modules.demo import fragments
from merit_modules.demo.figures import draw_timeline, expert_shares
from merit_modules.demo.files import SessionFiles
from merit_modules.demo.limits import BodyLimit
from merit_modules.demo.listening import listen
from merit_modules.demo.spectrogram import spectrogram_db
from merit_modules.errors import InputError
from merit_modules.inference import SparseMERIT
from merit_modules.inference.emotion import Attributes, Segment
from merit_modules.layer_mix import WeightedLayerSum
from merit_modules.pooling import AttentiveStatsPooling
from merit_modules.pretrained import save_folder
from merit_modules.se_head import SEHead
from merit_modules.ser_head import SERHead
from merit_modules.spectral import LogSpectrum
from merit_modules.system import JointSystem
from merit_modules.task_sums import TaskLayerSums
from merit_modules.tiny import tiny_system
from tests.browser import browser

LABELS = ["angry", "sad", "happy", "neutral"]
#: The server, telling whom it asks to be connected with.
SERVER = """
import sys
def tell(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(sys.argv[1], "a") as log:
            print(event, args[1:], file=log)
sys.addaudithook(tell)
from merit_modules.commands.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
MAX_MB = 0.5


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


def write(path, n=40000, rate_hz=16000, seed=0, channels=1, scale=0.1):
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    wav = scale * rng.standard_normal((n, channels)) * (1 + seed)
    soundfile.write(path, wav, rate_hz, subtype="FLOAT")
    return path


# ---- without a browser ----------------------------------------------------


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


def broken(folder):
    """Files that are no audio, and what is said of them."""
    nan = np.zeros(4000)
    nan[100] = np.nan
    soundfile.write(folder / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0), 16000)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no sound at all")
    (folder / "image.wav").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    write(folder / "odd.wav", 4000, rate_hz=44101)
    write(folder / "long.wav", 80000, rate_hz=8000)
    return {
        "nan.wav": "nan.wav: 1 of 4000 samples are NaN",
        "none.wav": "none.wav: the audio file is empty (no samples)",
        "empty.wav": "empty.wav: the audio file is empty (0 bytes)",
        "text.wav": "text.wav: cannot be read as audio",
        "image.wav": "image.wav: cannot be read as audio",
        "odd.wav": "odd.wav: expected a usual sample rate",
        "long.wav": "long.wav: expected at most 0.1 minutes, got 0.2",
    }


def test_what_is_wrong_is_said_without_paths(model, tmp_path):
    for name, message in broken(tmp_path).items():
        with pytest.raises(InputError) as caught:
            listen(model, tmp_path / name, tmp_path, max_s=6)
        assert str(caught.value).startswith(message)
        assert str(tmp_path) not in str(caught.value)


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


def test_options_that_cannot_be(folder, capsys):
    for options in (["--port", "70000"], ["--max-minutes", "0"]):
        assert main(["demo", "--model", str(folder), *options]) == 2
    assert "expected 0 to 65535" in capsys.readouterr().err
    pytest.importorskip("gradio")
    code = main(["demo", "--model", str(folder), "--host", "256.0.0.1"])
    assert code == 2 and "cannot listen there" in capsys.readouterr().err


def test_without_gradio(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--model", str(folder)]) == 2
    assert "pip install 'merit-modules[demo]'" in capsys.readouterr().err


# ---- a real server --------------------------------------------------------


class Server:
    """``merit demo`` in a process of its own."""

    def __init__(self, model_folder, folder):
        self.tmp, self.network = folder / "tmp", folder / "network.txt"
        self.tmp.mkdir()
        self.network.touch()
        self.log = folder / "log.txt"
        command = [sys.executable, "-c", SERVER, self.network, "demo"]
        command += ["--model", model_folder, "--max-upload-mb", str(MAX_MB)]
        env = os.environ | {"TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                cwd=Path(__file__).resolve().parents[1],
            )
        line = self.process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), self.log.read_text()
        self.url = line.split()[0]

    def files(self):
        """All files of visitors that are there."""
        return [path for path in self.tmp.rglob("*") if path.is_file()]

    def post(self, path, body, content_type):
        host = urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        headers = {"Content-Type": content_type}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def call(self, file):
        """Ask for an analysis as a program would; give the raw answer."""
        data = [{"path": file, "meta": {"_type": "gradio.FileData"}}, 3]
        path = "/gradio_api/call/analyse"
        body = json.dumps({"data": data})
        status, text = self.post(path, body, "application/json")
        assert status == 200, text
        event = json.loads(text)["event_id"]
        host = urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("GET", f"{path}/{event}")
        return connection.getresponse().read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    pytest.importorskip("gradio")
    server = Server(folder, tmp_path_factory.mktemp("server"))
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.fixture(scope="module")
def chromium():
    """A browser with a stand-in for a microphone, which beeps."""
    fake = ["--use-fake-device-for-media-stream"]
    with browser([*fake, "--use-fake-ui-for-media-stream"]) as chromium:
        yield chromium


class Visitor:
    """The page in a browser, and what it asks for and complains about."""

    def __init__(self, chromium, url, width=1280):
        self.errors, self.requests = [], []
        self.page = chromium.new_page(viewport={"width": width, "height": 900})
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda sent: self.requests.append(sent.url))
        self.page.goto(url, wait_until="load")
        self.page.wait_for_selector("#analyse")

    def _hear(self, message):
        # Gradio's own client says that on every page.
        expected = "Method not implemented."
        if message.type in ("error", "warning") and message.text != expected:
            self.errors.append(message.text)

    def strangers(self, url):
        """Addresses beyond the server's own that the page asked."""
        local = (url, "data:", "blob:")
        return [sent for sent in self.requests if not sent.startswith(local)]

    def load(self, path):
        self.page.set_input_files("#recording input[type=file]", path)
        self.page.wait_for_selector("#recording button[aria-label=Clear]")

    def wait(self, path):
        name = json.dumps(Path(path).name)
        self.page.wait_for_function(
            f"document.querySelector('#summary').innerText.includes({name})"
        )
        self.page.wait_for_selector("#pictures img")
        return self.page.inner_text("#summary")

    def analyse(self, path):
        self.load(path)
        self.page.click("#analyse")
        return self.wait(path)

    def refused(self, path):
        self.load(path)
        self.page.click("#analyse")
        return self.message()

    def message(self):
        """Read what popped up and close it."""
        self.page.wait_for_selector(".toast-body")
        message = self.page.inner_text(".toast-body")
        self.page.click(".toast-close")
        self.page.wait_for_selector(".toast-body", state="detached")
        return message

    def durations(self):
        return self.page.evaluate(
            """async () => {
                const found = [];
                for (const id of ['noisy', 'enhanced']) {
                    let sound;
                    for (let i = 0; i < 100; i++) {
                        sound = document.querySelector(`#${id} audio`);
                        if (sound && sound.duration > 0) break;
                        await new Promise(done => setTimeout(done, 50));
                    }
                    found.push(sound.duration);
                }
                return found;
            }"""
        )

    def pictures(self):
        return self.page.evaluate(
            "() => [...document.querySelectorAll('#pictures img')].map("
            "i => [i.className, i.complete && i.naturalWidth, i.alt])"
        )

    def overflow_px(self):
        return self.page.evaluate(
            "() => document.documentElement.scrollWidth - window.innerWidth"
        )


@pytest.fixture
def arrive(server, chromium):
    """Open pages; when they are closed, nothing of them is left."""
    before, visitors = set(server.files()), []

    def open_page(width=1280):
        visitors.append(Visitor(chromium, server.url, width))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.page.close()
    for _ in range(100):
        if set(server.files()) <= before:
            break
        time.sleep(0.1)
    assert set(server.files()) <= before


def test_the_page_in_a_browser(server, arrive, model, speech):
    emotion = model.classify(speech)
    visitor = arrive(360)
    page = visitor.page
    text = visitor.analyse(speech)
    assert f"{emotion.label} {100 * emotion.score:.0f} %" in text
    assert "speech & more.wav: 2.50 s at 16000 Hz" in text
    assert visitor.durations() == pytest.approx([2.5, 2.5], abs=0.01)
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        shown = visitor.pictures()
        names = ["spectrograms", "timeline", "routing"]
        assert [name for name, _, _ in shown] == names
        # The picture for this width, and words for who cannot see it.
        assert all(n_pixels for _, n_pixels, _ in shown)
        wide = [n_pixels > 1000 for _, n_pixels, _ in shown]
        assert wide == [width > 700] * 3
        assert emotion.label in shown[1][2] and "expert" in shown[2][2]
        assert visitor.overflow_px() <= 0
    assert page.title() == "Sparse MERIT"
    assert page.evaluate("document.documentElement.lang") == "en"
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, input')].filter("
        "e => !(e.ariaLabel || e.innerText || e.title || "
        "e.labels?.length)).map(e => e.outerHTML)"
    )
    assert unnamed == []
    check_downloads(page, emotion)
    assert visitor.errors == []
    assert visitor.strangers(server.url) == []
    assert server.files()  # the results, while the page is open


def check_downloads(page, emotion):
    saved = {}
    for kind in ("WAV", "JSON"):
        with page.expect_download() as download:
            page.click(f"text=/Download .*{kind}/")
        saved[kind] = download.value
    assert saved["WAV"].suggested_filename == "speech & more_enhanced.wav"
    wav, rate_hz = soundfile.read(saved["WAV"].path())
    assert rate_hz == 16000 and len(wav) == 40000
    told = json.loads(Path(saved["JSON"].path()).read_text())
    assert told["label"] == emotion.label


def test_refused_in_the_browser(server, arrive, tmp_path, speech):
    files = broken(tmp_path)
    write(tmp_path / "large.wav", 200000)
    visitor = arrive()
    for name in ("text.wav", "nan.wav", "empty.wav"):
        said = visitor.refused(tmp_path / name)
        assert files[name] in said
        assert str(server.tmp) not in said and "Traceback" not in said
    visitor.page.set_input_files(
        "#recording input[type=file]", tmp_path / "large.wav"
    )
    said = visitor.message()
    assert "large.wav" in said and "maximum allowed size" in said
    # And the page goes on.
    assert "speech & more.wav: 2.50 s" in visitor.analyse(speech)


def test_recording_from_a_microphone(arrive):
    visitor = arrive()
    page = visitor.page
    page.click("#recording button[aria-label='Record audio']")
    page.click("#recording .record-button")
    page.wait_for_timeout(1500)
    page.click("#recording .stop-button")
    page.wait_for_selector("#recording button[aria-label=Clear]")
    page.wait_for_selector("#recording [data-testid^=waveform]")
    page.wait_for_timeout(500)
    page.click("#analyse")
    page.wait_for_selector("#pictures img")
    seconds = visitor.durations()
    assert seconds[0] == pytest.approx(seconds[1]) and seconds[0] > 0.5
    assert visitor.errors == []


def test_clients_at_once(arrive, model, tmp_path):
    """Each page gets what belongs to its own recording, whatever its name."""
    paths = [
        write(tmp_path / f"{n}" / "a.wav", 30000 + 20000 * n, seed=n)
        for n in range(2)
    ]
    visitors = [arrive() for _ in paths]
    for visitor, path in zip(visitors, paths):
        visitor.load(path)
    for visitor in visitors:
        visitor.page.click("#analyse")
    for visitor, path in zip(visitors, paths):
        text = visitor.wait(path)
        right = model.analyze_file(path)
        assert f"{path.name}: {right.duration_s:.2f} s at" in text
        shares = visitor.page.locator("#summary td:last-child")
        assert shares.all_inner_texts() == [
            f"{100 * p:.1f} %" for p in right.emotion.probabilities.values()
        ]
        lengths = visitor.durations()
        assert lengths == pytest.approx([right.duration_s] * 2, abs=0.01)
        assert visitor.errors == []


def form(path, name="big.wav"):
    """What a browser sends for a file, piece by piece."""
    disposition = f'form-data; name="files"; filename="{name}"'
    yield f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
    with open(path, "rb") as stream:
        while block := stream.read(2**16):
            yield block
    yield b"\r\n--x--\r\n"


@pytest.mark.parametrize("told", [True, False])
def test_uploads_beyond_the_limit(server, tmp_path, speech, told):
    large = tmp_path / "large.wav"
    with large.open("wb") as stream:
        stream.truncate(20 * 2**20)  # forty times too much
    pieces = form(large)
    body = b"".join(pieces) if told else pieces
    kind, before = "multipart/form-data; boundary=x", server.files()
    try:
        status, text = server.post("/gradio_api/upload", body, kind)
        assert status == 413 and ("MB" in text or "maximum" in text)
    except (BrokenPipeError, ConnectionResetError):
        pass  # hung up on while sending, which is as good
    assert server.files() == before
    # It still takes what is not too large.
    status, text = server.post(
        "/gradio_api/upload", b"".join(form(speech, "a.wav")), kind
    )
    assert status == 200
    (upload,) = json.loads(text)
    assert "event: complete" in server.call(upload)
    assert not Path(upload).exists()


def test_only_uploads_are_served_and_read(server):
    host = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/gradio_api/file={__file__}")
    assert connection.getresponse().status == 403
    for address in (__file__, "https://example.com/a.wav"):
        answer = server.call(address)
        assert "event: error" in answer and "event: complete" not in answer


def test_nothing_is_asked_of_the_network(server):
    assert server.network.read_text() == ""


def test_termination_leaves_nothing(server):
    """Last: the server ends here, with an upload still there."""
    kind = "multipart/form-data; boundary=x"
    body = b'--x\r\nContent-Disposition: form-data; name="files"; '
    body += b'filename="a.wav"\r\n\r\nspeech\r\n--x--\r\n'
    server.post("/gradio_api/upload", body, kind)
    assert "a.wav" in [path.name for path in server.files()]
    assert server.stop() == 128 + signal.SIGTERM
    assert list(server.tmp.glob("merit-demo-*")) == []
    # Nothing was said of what visitors brought.
    assert ".wav" not in server.log.read_text()

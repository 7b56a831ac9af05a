"""The page of a model in a real browser, from a real server."""

import http.client
import json
import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import soundfile
import torch

from merit_modules.inference import SparseMERIT
from merit_modules.pretrained import save_folder
from merit_modules.tiny import tiny_system
from tests.helpers.browser import browser
from tests.helpers.demo_server import (
    LABELS,
    Server,
    Visitor,
    broken,
    form,
    write,
)

pytestmark = pytest.mark.slow


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
    visitor.choose(tmp_path / "large.wav")
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


@pytest.mark.parametrize("told", [True, False])
def test_uploads_beyond_the_limit(server, tmp_path, speech, told):
    large = tmp_path / "large.wav"
    with large.open("wb") as stream:
        stream.truncate(20 * 2**20)  # forty times too much
    pieces = form(large)
    body = b"".join(pieces) if told else pieces
    kind, before = "multipart/form-data; boundary=x", server.files()
    status, text = server.post("/gradio_api/upload", body, kind)
    assert status == 413 and ("MB" in text or "maximum" in text)
    assert server.files() == before
    # It still takes what is not too large.
    status, text = server.post(
        "/gradio_api/upload", b"".join(form(speech, "a.wav")), kind
    )
    assert status == 200
    (upload,) = json.loads(text)
    for _ in range(2):  # another analysis needs no other upload
        assert "event: complete" in server.call(upload)


def test_only_uploads_are_served_and_read(server):
    host = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request("GET", f"/gradio_api/file={__file__}")
    assert connection.getresponse().status == 403
    for address in (__file__, "https://example.com/a.wav"):
        answer = server.call(address)
        assert "event: error" in answer and "event: complete" not in answer


def test_other_names_and_pages_get_nothing(server, speech):
    """A page elsewhere whose name points here (DNS rebinding)."""
    port = urlsplit(server.url).port

    def ask(path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    evil, before = "http://evil.example", server.files()
    assert ask("/config")[0] == ask("/config", Host="localhost")[0] == 200
    mine = {"Host": "my.example", "Origin": "https://my.example"}
    assert ask("/config", **mine)[0] == 200
    for path in ("/config", "/", "/gradio_api/info"):
        status, text = ask(path, Host="evil.example", Origin=evil)
        assert status == 403 and "--allow-host" in text
        assert ask(path, Host="evil.example")[0] == 403
        assert ask(path, Origin=evil)[0] == 403
    kind = "multipart/form-data; boundary=x"
    body = b"".join(form(speech, "a.wav"))
    for name in ({"Host": "evil.example"}, {"Origin": evil}):
        status, _ = server.post("/gradio_api/upload", body, kind, **name)
        assert status == 403
    assert server.files() == before
    for path in (
        "/openapi.json",
        "/gradio_api/openapi.json",
        "/docs",
        "/redoc",
    ):
        assert ask(path)[0] == 404, path


def test_what_an_upload_that_breaks_off_leaves(server):
    before, port = server.files(), urlsplit(server.url).port
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n"
    head += "Content-Length: 99999\r\n\r\n--x\r\nContent-Disposition: "
    head += 'form-data; name="files"; filename="a.wav"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(head.encode() + bytes(50000))
        for _ in range(100):
            if server.files() != before:
                break
            time.sleep(0.05)
        assert server.files() != before
    for _ in range(100):
        if server.files() == before:
            break
        time.sleep(0.05)
    assert server.files() == before


def test_another_segment_length_needs_no_second_upload(arrive, speech):
    visitor = arrive()
    visitor.analyse(speech)
    uploads = [r for r in visitor.requests if "/upload" in r]
    for seconds, n_segments in (("1", 3), ("0.5", 5)):
        visitor.page.fill("#segment_s input[type=number]", seconds)
        visitor.page.keyboard.press("Tab")
        visitor.page.click("#analyse")
        visitor.page.wait_for_function(
            "document.querySelector('#pictures img.timeline').alt"
            f".split(';').length == {n_segments}"
        )
    assert [r for r in visitor.requests if "/upload" in r] == uploads
    assert visitor.errors == []


def test_the_example_and_what_the_model_is(arrive):
    pytest.importorskip("espeakng_loader")
    visitor = arrive(360)
    text = visitor.page.inner_text("#about")
    assert "This model: tiny" in text and "Nobody wrote down" in text
    assert "not for decisions about people" in text
    visitor.page.click("#example")
    visitor.page.wait_for_selector("#recording button[aria-label=Clear]")
    visitor.page.click("#analyse")
    assert "example.wav: 3.68 s" in visitor.wait("example.wav")
    assert visitor.overflow_px() <= 0 and visitor.errors == []


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

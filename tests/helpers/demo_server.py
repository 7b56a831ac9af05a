"""``merit demo`` in a process of its own, and visitors of its page.

A process's memory, network and end can be watched.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import soundfile

from tests.conftest import ROOT

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


def write(path, n=40000, rate_hz=16000, seed=0, channels=1, scale=0.1):
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    wav = scale * rng.standard_normal((n, channels)) * (1 + seed)
    soundfile.write(path, wav, rate_hz, subtype="FLOAT")
    return path


def broken(folder):
    """Files that are no audio, and what is said of them."""
    nan = np.zeros(4000)
    nan[100] = np.nan
    soundfile.write(folder / "nan.wav", nan, 16000, subtype="FLOAT")
    soundfile.write(folder / "none.wav", np.zeros(0), 16000)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("no sound at all")
    (folder / "image.wav").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    write(folder / "long.wav", 80000, rate_hz=8000)
    return {
        "nan.wav": "nan.wav: 1 of 4000 samples are NaN",
        "none.wav": "none.wav: the audio file is empty (no samples)",
        "empty.wav": "empty.wav: the audio file is empty (0 bytes)",
        "text.wav": "text.wav: cannot be read as audio",
        "image.wav": "image.wav: cannot be read as audio",
        "long.wav": "long.wav: expected at most 0.1 minutes, got 0.2",
    }


class Server:
    """``merit demo`` in a process of its own."""

    def __init__(self, model_folder, folder):
        self.tmp, self.network = folder / "tmp", folder / "network.txt"
        self.tmp.mkdir()
        self.network.touch()
        self.log = folder / "log.txt"
        command = [sys.executable, "-c", SERVER, self.network, "demo"]
        command += ["--model", model_folder, "--max-upload-mb", str(MAX_MB)]
        command += ["--allow-host", "my.example"]
        env = os.environ | {"TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                cwd=ROOT,
            )
        line = self.process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), self.log.read_text()
        self.url = line.split()[0]

    def files(self):
        """All files of visitors that are there."""
        return [path for path in self.tmp.rglob("*") if path.is_file()]

    def post(self, path, body, content_type, **headers):
        host = urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(host, timeout=30)
        headers["Content-Type"] = content_type
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

    def choose(self, path):
        if not self.page.locator("#recording input[type=file]").count():
            self.page.click("#recording button[aria-label=Clear]")
        self.page.set_input_files("#recording input[type=file]", path)

    def load(self, path):
        self.choose(path)
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


def form(path, name="big.wav"):
    """What a browser sends for a file, piece by piece."""
    disposition = f'form-data; name="files"; filename="{name}"'
    yield f"--x\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
    with open(path, "rb") as stream:
        while block := stream.read(2**16):
            yield block
    yield b"\r\n--x--\r\n"

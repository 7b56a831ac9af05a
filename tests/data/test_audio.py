"""Reading audio: conversions are right and said once, bad files are named."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.data import doubts
from merit_modules.data.audio import probe_audio, raise_if_broken, read_audio
from merit_modules.errors import InputError


@pytest.fixture(autouse=True)
def nothing_said_yet():
    doubts._SAID[:] = bytes(len(doubts._SAID))


def tone(rate_hz, seconds=1.0, tone_hz=440.0):
    return 0.5 * np.sin(
        2 * np.pi * tone_hz * np.arange(int(rate_hz * seconds)) / rate_hz
    )


def write(path, samples, rate_hz=16000, **options):
    soundfile.write(path, samples, rate_hz, **options)
    return path


def test_samples_come_back_exactly(tmp_path):
    samples = np.random.default_rng(0).normal(0, 0.1, 5000).astype("float32")
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    wav = read_audio(path)
    assert wav.dtype == torch.float32
    assert torch.equal(wav, torch.from_numpy(samples))


@pytest.mark.parametrize("rate_hz", [8000, 20000, 44100, 48000])
def test_other_rates_are_converted(tmp_path, rate_hz):
    path = write(tmp_path / "a.wav", tone(rate_hz), rate_hz, subtype="FLOAT")
    wav = read_audio(path)
    assert wav.shape == (16000,)
    expected = torch.from_numpy(tone(16000)).float()
    # The ends differ: the filter sees silence beyond them.
    assert (wav - expected)[200:-200].abs().max() < 5e-3


COUNT_THREADS = """
import os, sys
import numpy as np
from torch.utils.data import DataLoader
from merit_modules.data.audio import read_audio

def count(what):
    read_audio(what) if isinstance(what, str) else what @ what
    return len(os.listdir("/proc/self/task"))

things = [sys.argv[1], np.zeros(500_000)]
loader = DataLoader(things, None, num_workers=1, collate_fn=count)
print(*loader)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_reading_in_a_loaders_process_starts_no_threads(tmp_path):
    """A scan took three times as long where two cores had four threads."""
    path = write(tmp_path / "a.wav", tone(44100, 10.0), 44100)
    done = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS, path],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    reading, blas = map(int, done.stdout.split())
    assert reading == 1 < blas


def test_channels_are_averaged(tmp_path):
    left, right = tone(16000), tone(16000, tone_hz=700.0)
    path = write(
        tmp_path / "a.wav", np.stack([left, right], 1), subtype="FLOAT"
    )
    expected = torch.from_numpy((left + right) / 2).float()
    assert torch.allclose(read_audio(path), expected, atol=1e-6)


def test_each_conversion_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = write(tmp_path / "a.wav", tone(8000), 8000)
    second = write(tmp_path / "b.wav", tone(8000), 8000)
    stereo = write(tmp_path / "c.wav", np.stack([tone(48000)] * 2, 1), 48000)
    for path in (first, second, first, stereo, stereo):
        read_audio(path)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"converting 8000 Hz audio to 16000 Hz (first seen in {first})",
        f"averaging 2 channels to one (first seen in {stereo})",
        f"converting 48000 Hz audio to 16000 Hz (first seen in {stereo})",
    ]


def test_nothing_is_said_without_a_conversion(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read_audio(write(tmp_path / "a.wav", tone(16000)))
    read_audio(write(tmp_path / "b.wav", tone(8000), 8000), None)
    assert not caplog.records


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_cut_audio_is_the_beginning_of_the_whole(tmp_path, rate_hz):
    samples = np.random.default_rng(1).normal(0, 0.1, rate_hz)
    path = write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    cut = read_audio(path, max_duration_s=0.3)
    assert cut.shape == (4800,)
    assert torch.allclose(cut, read_audio(path)[:4800], atol=1e-6)
    assert len(read_audio(path, max_duration_s=5.0)) == 16000


def test_only_what_is_needed_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", tone(16000, seconds=10))
    asked = []
    read = soundfile.SoundFile.read

    def spy(self, frames=-1, *args, **kwargs):
        asked.append(frames)
        return read(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    read_audio(path, max_duration_s=1.0)
    assert asked == [16160]


def test_probe_reads_the_header(tmp_path):
    path = write(tmp_path / "a.flac", np.zeros((1102, 3)), 44100)
    assert probe_audio(path) == (1102 / 44100, 44100, 3)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def noise_file(path, **options):
    return write(path, np.random.default_rng(0).normal(0, 0.1, 32000))


BAD_FILES = {
    "gone.wav": (lambda path: path, "there is no such audio file"),
    "empty.wav": (lambda path: path.touch(), r"is empty \(0 bytes\)"),
    "no_samples.wav": (
        lambda path: write(path, np.zeros(0)),
        r"is empty \(no samples\)",
    ),
    "text.wav": (
        lambda path: path.write_text("not audio at all " * 10),
        "cannot be read as audio: Format not recognised",
    ),
    "cut.wav": (
        lambda path: cut_in_half(noise_file(path)),
        "truncated: its header promises 64000 bytes, the file holds 31978",
    ),
    "cut.aiff": (lambda path: cut_in_half(noise_file(path)), "truncated"),
    "cut.flac": (
        lambda path: cut_in_half(noise_file(path)),
        "truncated|cannot be read as audio: .*flac",
    ),
    "nan.wav": (
        lambda path: write(
            path,
            np.where(np.isin(np.arange(16000), [800, 801]), np.nan, 0.1),
            subtype="FLOAT",
        ),
        r"2 of 16000 samples are NaN or infinite, the first one at 0\.050 s",
    ),
    "inf.wav": (
        lambda path: write(path, np.full(500, np.inf), subtype="FLOAT"),
        "500 of 500 samples",
    ),
    "short.wav": (
        lambda path: write(path, np.full(399, 0.1)),
        r"expected at least 400 samples at 16000 Hz \(25 ms\), got 399",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(tmp_path, name):
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message) as error:
        read_audio(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("name", ["gone.wav", "empty.wav", "cut.wav"])
def test_headers_alone_tell_some_bad_files(tmp_path, name):
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=message):
        probe_audio(tmp_path / name)


def test_a_piped_wav_of_unknown_length_is_read(tmp_path):
    path = noise_file(tmp_path / "piped.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path)) == 32000


def test_a_frame_at_another_rate_counts_after_conversion(tmp_path):
    path = write(tmp_path / "a.wav", np.full(200, 0.1), 8000)
    assert len(read_audio(path)) == 400
    path = write(tmp_path / "b.wav", np.full(1000, 0.1), 48000)
    with pytest.raises(InputError, match="got 334"):
        read_audio(path)
    assert len(read_audio(path, min_samples=1)) == 334


def test_a_wrong_maximum_is_named(tmp_path):
    path = write(tmp_path / "a.wav", tone(16000))
    with pytest.raises(InputError, match="max_duration_s: .* got 0"):
        read_audio(path, max_duration_s=0)


def test_all_broken_files_come_in_one_error():
    problems = {f"u{i}": f"u{i}.wav: empty" for i in range(13)}
    with pytest.raises(InputError) as error:
        raise_if_broken(problems, "recordings")
    lines = str(error.value).splitlines()
    assert lines[0] == "13 of the recordings cannot be used:"
    assert lines[1:11] == [f"  u{i}.wav: empty" for i in range(10)]
    assert lines[11:] == ["  ... and 3 more"]

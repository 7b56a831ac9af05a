"""The audio door: a file is read to its end, or it is said why not."""

import os
import stat
import struct
import sys
import tempfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.data.audio import probe_audio, read_audio
from merit_modules.errors import InputError
from merit_modules.files import walk_audio
from merit_modules.inference.audio import FileSource


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples)


def wav(promised=None, chunks=b"", behind=b"", n_samples=8000, riff=None):
    """Return a WAV file of 16-bit samples whose header may be wrong."""
    data = (noise(n_samples) * 32767).astype("<i2").tobytes()
    size = len(data) if promised is None else promised
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    body = form + chunks + struct.pack("<4sI", b"data", size) + data + behind
    total = len(body) + 4 if riff is None else riff
    return struct.pack("<4sI4s", b"RIFF", total, b"WAVE") + body


def n_read(path):
    """Read a file by all ways, which have to agree; return its length."""
    whole = read_audio(path, None, min_samples=1)
    source = FileSource(path)
    blocks = [len(block) for block in source.blocks()]
    duration_s, rate_hz, _ = probe_audio(path)
    assert len(whole) == sum(blocks) == source.n_samples
    assert round(duration_s * rate_hz) == len(whole)
    return len(whole)


@pytest.mark.parametrize(
    ("name", "n_samples"),
    [
        ("size_zero.wav", 8000),
        ("size_wrapped_half.wav", 8000),
        ("unknown_length.flac", 8000),
        ("rate_11127.wav", 1112),
        ("dc_noise.wav", 8000),
        ("vbr_without_xing_4s.mp3", 65664),
    ],
)
def test_the_files_that_others_had_trouble_with(shared, name, n_samples):
    assert n_read(shared / "field" / name) == n_samples


def test_a_file_cut_behind_sixty_tags(shared):
    path = shared / "field" / "tags_and_truncated.wav"
    for read in (read_audio, probe_audio, FileSource):
        with pytest.raises(InputError, match="truncated.*16000.*8000"):
            read(path)


LIST = b"LIST" + struct.pack("<I", 16) + b"INFOICMT\4\0\0\0abc\0"
JUNK = b"\x01\x80\xff\x90" * 4000


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (wav(), 8000),
        (wav(promised=0), 8000),
        (wav(promised=2**32 - 1), 8000),
        (wav(promised=2**31 - 37), 8000),
        (wav(promised=4000), 8000),  # never brought up to date
        (wav(promised=0, chunks=LIST), 8000),
        (wav(chunks=LIST * 300), 8000),
        (wav(behind=LIST), 8000),
        (wav(behind=LIST * 400), 8000),
        (wav(behind=b"ID3" + JUNK), 8000),  # a tag
        (wav(behind=b"TAG" + JUNK), 8000),
        (wav(behind=bytes(20000)), 8000),  # padding
        (wav(behind=JUNK[:100]), 8000),  # too little to be audio
        (wav(behind=b"\n"), 8000),
        (wav(behind=JUNK), 16000),
    ],
)
def test_wav_headers(tmp_path, made, expected):
    path = tmp_path / "a.wav"
    path.write_bytes(made)
    assert n_read(path) == expected
    samples = read_audio(path, None).numpy()
    np.testing.assert_allclose(samples[:8000], noise(8000), atol=1e-4)


@settings(max_examples=60)
@given(st.integers(1, 15999), st.booleans())
def test_a_cut_file_is_never_taken_for_a_whole_one(n_bytes, with_tags):
    whole = wav(chunks=LIST * 200 if with_tags else b"")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(whole[: len(whole) - n_bytes])
        file.flush()
        with pytest.raises(InputError, match="truncated"):
            read_audio(file.name)
        with pytest.raises(InputError, match="truncated"):
            FileSource(file.name)


@pytest.mark.parametrize("kind", ["AIFF", "RF64", "WAVEX", "W64", "AU", "CAF"])
def test_other_containers_that_are_cut(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, noise(8000), 16000, format=kind, subtype="PCM_16")
    assert n_read(path) == 8000
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="truncated|malformed"):
        read_audio(path)


def test_more_than_four_gibibytes_behind_a_wrapped_size(tmp_path):
    path, n_bytes = tmp_path / "long.wav", 2**32 + 64000
    with open(path, "wb") as stream:  # sparse: takes no room
        stream.write(wav(promised=64000, n_samples=0))
        stream.write((noise(1000) * 32767).astype("<i2").tobytes())
        stream.seek(44 + 64000)
        stream.write(b"\1\2")
        stream.truncate(44 + n_bytes)
    with soundfile.SoundFile(path) as audio:
        assert audio.frames == 32000
    assert FileSource(path).n_samples == n_bytes // 2


@pytest.mark.parametrize("n_channels", [1, 2])
def test_flac_of_unknown_length(tmp_path, n_channels):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise((70000, n_channels)), 16000)
    flac = bytearray(path.read_bytes())
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    path.write_bytes(flac)
    with soundfile.SoundFile(path) as audio:
        assert audio.frames > 2**60
    assert n_read(path) == 70000


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x02\x01" + bytes(257)])
def test_mp3_of_variable_rate_without_a_count(tmp_path, loud_first, tag):
    parts = [noise(80000), np.zeros(80000)]
    whole = np.concatenate(parts if loud_first else parts[::-1])
    path = tmp_path / "a.mp3"
    with soundfile.SoundFile(
        path,
        "w",
        16000,
        1,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=0.3,
    ) as stream:
        stream.write(whole)
    assert n_read(path) == 160000
    data = path.read_bytes()
    start = max(data.find(b"Xing"), data.find(b"Info")) + 100
    while data[start] != 0xFF or data[start + 1] != data[1]:
        start += 1
    path.write_bytes(tag + data[start:])
    assert abs(n_read(path) - 160000) < 2000


def test_an_mp3_that_counts_more_than_there_is(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, noise(80000), 16000, format="MP3")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match="truncated"):
        read_audio(path)


# ---- ffmpeg ---------------------------------------------------------------

FFMPEG = """#!{python}
import sys
path = sys.argv[sys.argv.index("-i") + 1].removeprefix("file:")
data = open(path, "rb").read()
if not data.startswith(b"M4A"):
    sys.exit("moov atom not found")
sys.stdout.buffer.write(data[3:])
"""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program that stands in for ffmpeg: it writes a WAV to its output."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    program.write_text(FFMPEG.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_what_ffmpeg_reads(tmp_path, ffmpeg):
    (tmp_path / "a.m4a").write_bytes(b"M4A" + wav(promised=2**32 - 1))
    (tmp_path / "b.mp4").write_bytes(b"no audio")
    found = walk_audio(tmp_path)
    assert [path.name for path in found.files] == ["a.m4a", "b.mp4"]
    assert n_read(tmp_path / "a.m4a") == 8000
    with pytest.raises(InputError, match="b.mp4.*ffmpeg: moov atom not found"):
        read_audio(tmp_path / "b.mp4")


def test_without_ffmpeg_its_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"M4A")
    assert walk_audio(tmp_path).told == "1 .m4a"
    with pytest.raises(InputError, match="a.m4a.*ffmpeg, which is not instal"):
        read_audio(tmp_path / "a.m4a")


# ---- doubts ---------------------------------------------------------------


def speech_like(n_channels=1):
    return 0.1 * noise((16000, n_channels))


@pytest.mark.parametrize(
    ("samples", "kinds"),
    [
        (speech_like(), set()),
        (speech_like(2), set()),
        (speech_like() + 0.2, {"offset"}),
        (speech_like() * np.array([[1, -1]]), {"channels"}),
        (speech_like() * np.array([[1, -0.99]]), {"channels"}),
        (speech_like() * 100, {"range", "loud"}),
        (speech_like() * 0.001, {"soft"}),
        (speech_like() * 0, {"silence", "soft"}),
        (np.vstack([speech_like(), np.zeros((30000, 1))]), {"silence"}),
    ],
)
def test_doubts(tmp_path, samples, kinds):
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    source = FileSource(path)
    for _ in range(2):  # they are those of one reading, not of two
        list(source.blocks())
        found = source.doubts
        if "channels" in kinds:  # what is left of them may be soft
            found.pop("soft", None), found.pop("silence", None)
        assert set(found) == kinds

"""How long is an audio file really? What its header says is held against it."""

import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

import soundfile

from merit_modules.errors import InputError
from merit_modules.files import FFMPEG_SUFFIXES

# Piped WAV files promise about 2 or 4 GiB: they do not know their length.
_LENGTH_UNKNOWN = 2**31 - 2**16
#: Share of the promised bytes from which what follows them is more audio.
MORE_AUDIO = 0.01
#: What some programs write behind the samples, outside any chunk.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9_+-]{2}[A-Za-z0-9 _+-]{2}")
_BLOCK = 2**16
#: Of these alone is anything opened that ffmpeg finds: no lists, no network.
_FFMPEG_FORMATS = "mov,matroska,webm,asf,aac,amr,mp3,ogg,flac,wav,3gp"


def open_container(path, max_values=None):
    """Open an audio file that knows how many samples it holds.

    Arguments
    ---------
    path : str or Path
        An audio file.
    max_values : int, optional
        Of a file that has to be decoded to be counted, how many samples of
        all channels, and hardly more.

    Returns
    -------
    audio : soundfile.SoundFile
        At its first sample. Read it from start to end.
    doubt : str or None
        What its header says wrongly, where all samples could be found.

    Raises
    ------
    InputError
        If it is cut off, or ffmpeg is needed and absent or fails.
    soundfile.SoundFileError
        If libsndfile cannot read it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, [0.0] * 4000, 8000)
    >>> audio, doubt = open_container(path)
    >>> audio.frames, doubt
    (4000, None)
    """
    path = Path(path)
    if path.suffix.lower() in FFMPEG_SUFFIXES:
        return soundfile.SoundFile(_decode_by_ffmpeg(path, max_values)), None
    with open(path, "rb") as stream:
        head = stream.read(12)
        if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
            return _open_wav(path, stream, head[:4])
        if head[:4] in (b"FORM", b"RIFX"):
            _check_big_endian(path, stream)
        elif head[:4] == b"fLaC":
            if _flac_length(stream) == 0:
                return _counted(
                    path, soundfile.SoundFile.__init__, max_values
                ), None
        elif head[:3] == b"ID3" or _is_mp3_frame(head):
            if not _states_its_length(path, stream):
                return _counted(path, _open_pipe, max_values), None
    return soundfile.SoundFile(path), None


class _Forward(soundfile.SoundFile):
    """A file of counted length: libsndfile cannot tell where it is in it."""

    n_counted = 0

    def seekable(self):
        return False

    @property
    def frames(self):
        return self.n_counted


def _counted(path, opener, max_values):
    """Open a file twice: to count its samples, and to read them."""
    n_samples = 0
    for counting in (True, False):
        audio = _Forward.__new__(_Forward)
        opener(audio, str(path))
        audio.n_counted = n_samples
        if not counting:
            return audio
        with audio:
            while n_read := len(audio.read(_BLOCK, "float32", always_2d=True)):
                n_samples += n_read
                if max_values and n_samples * audio.channels > max_values:
                    break


def _open_pipe(audio, path):
    """Open a file as if it came through a pipe.

    Of a file that it can seek in, libsndfile reads as much as it guessed from
    the first frame's bit rate; of a pipe, all.
    """
    reader, writer = os.pipe()

    def feed():
        with (
            open(path, "rb") as source,
            os.fdopen(writer, "wb", buffering=0) as sink,
        ):
            try:
                shutil.copyfileobj(source, sink, _BLOCK)
            except BrokenPipeError:  # no more is wanted
                return

    threading.Thread(target=feed, daemon=True).start()
    soundfile.SoundFile.__init__(audio, reader, closefd=True)


def _is_mp3_frame(head):
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def _states_its_length(path, stream):
    """Tell of an MP3 whether its first frame counts the others."""
    stream.seek(0)
    head = stream.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + sum(
            (b & 127) << 7 * (3 - i) for i, b in enumerate(head[6:])
        )
    stream.seek(start)
    frame = stream.read(256)
    if b"VBRI" in frame:
        return True
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return False
    flags, n_frames, n_bytes = struct.unpack_from(">3I", frame[at + 4 :])
    rest = os.path.getsize(path) - start
    if flags & 3 == 3 and n_bytes > rest:
        raise _truncated(path, n_bytes, rest)
    return bool(flags & 1 and n_frames)


def _flac_length(stream):
    """Read the number of samples in STREAMINFO; 0 where it is unknown."""
    stream.seek(8)
    info = stream.read(18)
    return int.from_bytes(info[13:18]) & (2**36 - 1) if len(info) == 18 else -1


def _open_wav(path, stream, kind):
    """Walk a WAV file's chunks; read what the header leaves out, too."""
    size = os.path.getsize(path)
    start, promised, form, sizes = 12, None, b"", b""
    while len(head := _at(stream, start, 8)) == 8:
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        start += 8
        if name == b"data":
            promised = length
            break
        if name == b"fmt ":
            form = head + stream.read(length)
        elif name == b"ds64":
            sizes = stream.read(16)
        start += length + length % 2
    if promised is None or len(form) < 24:
        return soundfile.SoundFile(path), None
    if kind != b"RIFF" and len(sizes) == 16 and promised == 2**32 - 1:
        promised = struct.unpack("<Q", sizes[8:])[0]
        unknown = promised >= 2**63
    else:
        unknown = size - start < promised >= _LENGTH_UNKNOWN
    present = size - start
    if promised > present and not unknown:
        raise _truncated(path, promised, present)
    if not unknown and not _is_more_audio(stream, start, size, promised):
        return soundfile.SoundFile(path), None
    audio = soundfile.SoundFile(_Mended(path, form, start, present))
    if unknown or not promised:
        return audio, None
    return audio, (
        f"the header promises {promised} bytes of samples, {present} are there "
        "and were read"
    )


def _is_more_audio(stream, start, size, promised):
    """Tell whether what follows the samples is neither chunks nor tags."""
    behind = start + promised
    if size - behind <= max(8, MORE_AUDIO * promised):
        return False
    head = _at(stream, behind, 4096)
    if head.startswith(_TAGS) or not any(head):
        return False
    place = behind + promised % 2
    while place < size:
        head = _at(stream, place, 8)
        if len(head) < 8 or not _CHUNK_NAME.fullmatch(head[:4]):
            return True
        length = struct.unpack("<I", head[4:])[0]
        place += 8 + length + length % 2
    return place > size + 1


def _at(stream, start, n_bytes):
    stream.seek(start)
    return stream.read(n_bytes)


class _Mended:
    """A WAV file behind a header with the right length, as a file object."""

    def __init__(self, path, form, start, n_bytes):
        align = max(1, struct.unpack_from("<H", form, 20)[0])
        n_bytes -= n_bytes % align
        head = struct.pack(
            "<4sI4s4sI3QI", b"RF64", 2**32 - 1, b"WAVE", b"ds64", 28,
            n_bytes + 72 + len(form), n_bytes, n_bytes // align, 0,
        )  # fmt: skip
        self._head = head + form + struct.pack("<4sI", b"data", 2**32 - 1)
        self._stream = open(path, "rb")
        self._shift = start - len(self._head)
        self._size = len(self._head) + n_bytes
        self._place = 0

    def seek(self, offset, whence=os.SEEK_SET):
        base = {os.SEEK_CUR: self._place, os.SEEK_END: self._size}
        self._place = base.get(whence, 0) + offset
        return self._place

    def tell(self):
        return self._place

    def readinto(self, buffer):
        n_wanted = max(0, min(len(buffer), self._size - self._place))
        data = self._head[self._place : self._place + n_wanted]
        if len(data) < n_wanted:
            self._stream.seek(self._place + len(data) + self._shift)
            data += self._stream.read(n_wanted - len(data))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def read(self, n_bytes):
        buffer = bytearray(n_bytes)
        return bytes(buffer[: self.readinto(buffer)])

    def write(self, data):
        raise OSError("opened for reading")


def _check_big_endian(path, stream):
    """Raise if an AIFF or a big-endian WAV file is cut off."""
    size, start = os.path.getsize(path), 12
    while len(head := _at(stream, start, 8)) == 8:
        name, length = head[:4], struct.unpack(">I", head[4:])[0]
        start += 8
        if name in (b"SSND", b"data"):
            if size - start < length < _LENGTH_UNKNOWN:
                raise _truncated(path, length, size - start)
            return
        start += length + length % 2


def _decode_by_ffmpeg(path, max_values):
    """Return a temporary WAV file of what ffmpeg hears in a file."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise InputError(
            f"{path}: {path.suffix} files are read by ffmpeg, which is not "
            "installed; install it, or convert the file to WAV or FLAC"
        )
    # Two bytes each, a header, and enough to see that there is more.
    limit = ["-fs", str(2 * max_values + _BLOCK)] if max_values else []
    decoded = tempfile.TemporaryFile()
    done = subprocess.run(
        [
            *(ffmpeg, "-v", "error", "-nostdin"),
            *("-protocol_whitelist", "file,pipe"),
            *("-format_whitelist", _FFMPEG_FORMATS),
            *("-i", f"file:{path}", "-map", "0:a:0"),
            *("-c:a", "pcm_s16le", *limit, "-f", "wav", "pipe:1"),
        ],
        stdout=decoded,
        stderr=subprocess.PIPE,
    )
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        reason = told[-1] if told else f"exit code {done.returncode}"
        raise InputError(f"{path}: cannot be read as audio: ffmpeg: {reason}")
    decoded.seek(0)
    return decoded


def _truncated(path, promised, present):
    return InputError(
        f"{path}: the audio file is truncated: its header promises "
        f"{promised} bytes, the file holds {present}"
    )

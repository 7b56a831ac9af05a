"""Speech synthesis with eSpeak NG, repeatable to the sample.

eSpeak NG keeps state from one utterance to the next (where it is in its pitch
flutter, gain control and noise generator), which none of its functions resets.
The library is therefore loaded anew for every utterance, which takes a few
milliseconds: what is said depends on the arguments alone, whatever was said
before. Voices with a ``breath`` setting are refused, as eSpeak NG 1.52 reads
uninitialised memory for them and they never sound the same twice.
"""

import _ctypes
import ctypes
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from merit_modules.errors import InputError

INSTALL_HINT = "pip install espeakng-loader"

# Limits of eSpeak NG's parameters: name -> (number in speak_lib.h, low, high).
PARAMETERS = {
    "rate_wpm": (1, 80, 450),
    "volume": (2, 0, 200),
    "pitch": (3, 0, 99),
    "pitch_range": (4, 0, 99),
}
# Waits until the utterance is done, and plays nothing.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_POSITION_CHARACTER = 1
_PHONEME_EVENTS = 1
_PHONEME = 7  # type of an event


class _Event(ctypes.Structure):
    """What eSpeak NG tells of a stretch of samples: its ``espeak_EVENT``."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_short),
    ctypes.c_int,
    ctypes.POINTER(_Event),
)
_SIGNATURES = {
    "espeak_Initialize": [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
    ],
    "espeak_SetVoiceByName": [ctypes.c_char_p],
    "espeak_SetParameter": [ctypes.c_int, ctypes.c_int, ctypes.c_int],
    "espeak_Synth": [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.c_void_p,
    ],
    "espeak_Terminate": [],
}
# One eSpeak NG for the whole process: its state is global.
_LOCK = threading.Lock()


class Espeak:
    """Speak sentences with the eSpeak NG that ``espeakng-loader`` brings.

    Arguments
    ---------
    library_path : str, optional
        Shared library; the one of ``espeakng-loader`` if not given.
    data_path : str, optional
        Folder ``espeak-ng-data``; the one of ``espeakng-loader`` if not given.

    Raises
    ------
    InputError
        If ``espeakng-loader`` or one of its files is missing.

    Example
    -------
    >>> waveform, sample_rate_hz = Espeak().speak("Good morning.", "en-us+m1")
    >>> waveform.dtype, sample_rate_hz, 0.5 < len(waveform) / 22050 < 2
    (dtype('float32'), 22050, True)
    """

    def __init__(self, library_path=None, data_path=None):
        if library_path is None or data_path is None:
            found_library, found_data = _find_espeak()
            library_path = library_path or found_library
            data_path = data_path or found_data
        self.library_path = Path(library_path)
        self.data_path = Path(data_path)
        # eSpeak NG falls back to other folders without a word if it is wrong.
        for path in (self.library_path, self.data_path / "phontab"):
            if not path.is_file():
                raise InputError(
                    f"eSpeak NG: there is no file {path}; {INSTALL_HINT}"
                )

    def speak(
        self, text, voice, pitch=50, pitch_range=50, rate_wpm=175, volume=100
    ):
        """Speak one text; the same arguments give the same samples.

        Arguments
        ---------
        text : str
            What to say.
        voice : str
            ``language+variant``, e.g. ``"en-us+f1"``.
        pitch : int
            0 to 99; 50 is the voice's own pitch, and 50 steps an octave.
        pitch_range : int
            0 to 99; 50 is the voice's own intonation, 0 a monotone.
        rate_wpm : int
            Words a minute, 80 to 450.
        volume : int
            0 to 200; 100 is usual.

        Returns
        -------
        waveform : numpy.ndarray
            Samples in -1 to 1, shape (T,), float32.
        sample_rate_hz : int
            22050.

        Raises
        ------
        InputError
            If an argument is out of range, the voice does not exist or
            differs from run to run, or eSpeak NG fails.

        Example
        -------
        >>> slow, _ = Espeak().speak("Good morning.", "en-us+m1", rate_wpm=90)
        >>> fast, _ = Espeak().speak("Good morning.", "en-us+m1", rate_wpm=250)
        >>> len(slow) > 1.5 * len(fast)
        True
        """
        settings = {
            "rate_wpm": rate_wpm,
            "volume": volume,
            "pitch": pitch,
            "pitch_range": pitch_range,
        }
        waveform, sample_rate_hz, _ = self._speak(text, voice, settings)
        return waveform, sample_rate_hz

    def speak_phonemes(self, text, voice, **settings):
        """Speak one text, and tell where its phonemes begin.

        Arguments
        ---------
        text : str
            What to say.
        voice : str
            As for :meth:`speak`.
        **settings : int
            As for :meth:`speak`; eSpeak NG's own by default.

        Returns
        -------
        waveform : numpy.ndarray
            Samples in -1 to 1, shape (T,), float32.
        sample_rate_hz : int
            22050.
        phonemes : list of tuple
            Start in samples and eSpeak NG's name, without stress; pauses
            begin with an underscore.

        Example
        -------
        >>> _, _, phonemes = Espeak().speak_phonemes("Good.", "en-us+m1")
        >>> [name for _, name in phonemes][:3]
        ['g', 'U', 'd']
        """
        return self._speak(text, voice, settings, _PHONEME_EVENTS)

    def _speak(self, text, voice, settings, options=0):
        _check_settings(settings)
        self._check_variant(voice)
        chunks, phonemes = [], []

        # The name keeps the callback alive while the library may call it.
        @_CALLBACK
        def collect(samples, n_samples, events):
            if samples and n_samples > 0:
                chunks.append(ctypes.string_at(samples, 2 * n_samples))
            number = 0
            while events and events[number].type:
                if events[number].type == _PHONEME:
                    name = events[number].name.decode(errors="replace")
                    start = max(0, events[number].sample)
                    phonemes.append((start, name.lstrip("',%=\"")))
                number += 1
            return 0

        with _LOCK, _fresh_library(self.library_path) as library:
            sample_rate_hz = library.espeak_Initialize(
                _SYNCHRONOUS,
                0,
                str(self.data_path).encode(),
                _DO_NOT_EXIT | options,
            )
            if sample_rate_hz <= 0:
                raise InputError(
                    f"eSpeak NG: espeak_Initialize failed with "
                    f"{sample_rate_hz} on {self.data_path}; {INSTALL_HINT}"
                )
            try:
                library.espeak_SetSynthCallback(collect)
                if library.espeak_SetVoiceByName(voice.encode()):
                    raise InputError(
                        f"voice: eSpeak NG has no language for {voice!r}"
                    )
                for name, value in settings.items():
                    library.espeak_SetParameter(PARAMETERS[name][0], value, 0)
                _synthesise(library, text)
            finally:
                library.espeak_Terminate()
        samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
        if not samples.any():
            raise InputError(
                f"eSpeak NG: no sound for {text!r} with voice {voice!r}"
            )
        return samples.astype(np.float32) / 32768, sample_rate_hz, phonemes

    def _check_variant(self, voice):
        """Raise if the part after ``+`` is missing or not repeatable."""
        _, plus, variant = voice.partition("+")
        if not plus:
            return
        # eSpeak NG ignores unknown variants.
        path = self.data_path / "voices" / "!v" / variant
        if not variant or not path.is_file():
            raise InputError(
                f"voice: expected language+variant with a variant of "
                f"{path.parent}, got {voice!r}"
            )
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if any(line.split()[:1] == ["breath"] for line in lines):
            raise InputError(
                f"voice: {voice!r} has a breath setting, which eSpeak NG does "
                f"not say the same way twice"
            )


def _find_espeak():
    """Return the paths of the packaged library and of its data."""
    try:
        import espeakng_loader

        return (
            espeakng_loader.get_library_path(),
            espeakng_loader.get_data_path(),
        )
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"eSpeak NG speaks MiniEmo and is not here ({error}); "
            f"{INSTALL_HINT}"
        ) from error


@contextmanager
def _fresh_library(path):
    """Load the shared library in its initial state, and unload it after."""
    try:
        library = ctypes.CDLL(str(path))
        for name, argument_types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = argument_types
            function.restype = ctypes.c_int
        library.espeak_SetSynthCallback.argtypes = [_CALLBACK]
        library.espeak_SetSynthCallback.restype = None
    except (OSError, AttributeError) as error:
        raise InputError(
            f"eSpeak NG: cannot load {path}: {error}; {INSTALL_HINT}"
        ) from error
    try:
        yield library
    finally:
        # Python never unloads a library by itself.
        unload = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary
        unload(library._handle)


def _synthesise(library, text):
    """Say the text; returns when all samples went to the callback."""
    encoded = text.encode()
    status = library.espeak_Synth(
        encoded,
        len(encoded) + 1,
        0,
        _POSITION_CHARACTER,
        0,
        _UTF8,
        None,
        None,
    )
    if status:
        raise InputError(
            f"eSpeak NG: espeak_Synth failed with {status} on {text!r}; "
            f"{INSTALL_HINT}"
        )


def _check_settings(settings):
    """Raise if a parameter is no integer within eSpeak NG's limits."""
    for name, value in settings.items():
        _, low, high = PARAMETERS[name]
        if not isinstance(value, int) or not low <= value <= high:
            raise InputError(
                f"{name}: expected an integer from {low} to {high}, "
                f"got {value!r}"
            )

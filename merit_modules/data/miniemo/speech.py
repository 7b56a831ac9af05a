"""What MiniEmo's voices say, and how they say it in four emotions.

The same sentences are spoken in every emotion, so words do not give the label
away; pitch, pitch range, rate and loudness do. Every voice has habits of its
own and every utterance some chance, so emotions overlap a little.
"""

from dataclasses import astuple, dataclass

import numpy as np

from merit_modules.data.miniemo.waveform import (
    SAMPLE_RATE_HZ,
    set_level,
    speak_trimmed,
    tilt_spectrum,
)
from merit_modules.data.seeding import keyed_seed

EMOTIONS = ("angry", "sad", "happy", "neutral")

# language+variant of eSpeak NG; no variant is used twice.
VOICES = {
    "train": (
        "en-us+f1",
        "en+Annie",
        "en-us+belinda",
        "en-gb-scotland+steph",
        "en-us+m1",
        "en+m3",
        "en-us-nyc+m4",
        "en-029+m7",
        "en-us+linda",
        "en+Andrea",
        "en-us+Michael",
        "en-us-nyc+Denis",
        "en-gb-x-rp+anika",
        "en-us+zac",
        "en+quincy",
        "en-us-nyc+steph2",
        "en-029+Alex",
        "en-gb-scotland+pablo",
        "en-us+klatt2",
        "en+ed",
        "en-gb-x-rp+marcelo",
        "en-us-nyc+boris",
        "en-us+Gene2",
        "en-gb-scotland+grandpa",
    ),
    "valid": ("en-us+f4", "en+m6"),
    "test": ("en+grandma", "en-us+m2", "en-gb-x-rp+m5"),
}
BABBLE_VOICES = (
    "en-us+aunty",
    "en+shelby",
    "en-us+Nguyen",
    "en+m8",
    "en-us-nyc+Andy",
    "en-gb-scotland+michel",
    "en-us+robert",
)

SENTENCES = (
    "The bus to the station leaves at a quarter past nine.",
    "I left the keys on the kitchen table.",
    "She is going to paint the door next week.",
    "We have to be there before they close.",
    "There are seven letters in the blue box.",
    "He put the bread and the milk in the bag.",
    "They are moving to another house in the spring.",
    "The meeting is on Thursday afternoon.",
    "My brother will bring the car tomorrow morning.",
    "You can see the river from this window.",
    "It has been raining since we came home.",
    "The children are waiting in front of the school.",
    "I have read the last page of your report.",
    "Someone called while you were in the garden.",
    "The new lamp is standing next to the sofa.",
    "We always take the second street on the left.",
    "Her coat is hanging behind the door.",
    "In ten minutes the soup will be ready.",
    "They said that the train is on time.",
    "He wants to talk to you about the holidays.",
    "The shop on the corner is open on Sunday.",
    "I will write it down and send it to you.",
    "Everyone is sitting around the long table.",
    "The cat is sleeping on the warm stones.",
)
BABBLE_SENTENCES = (
    "Could you pass me the salt and another spoon, please.",
    "We went up the hill, then along the old wall and down again.",
    "It costs a little more, but it lasts for years.",
    "My neighbour grows tomatoes, beans and very large pumpkins.",
    "The second half was better than the first, if you ask me.",
    "Nobody had told him that the office was on the fourth floor.",
    "First you peel them, then you cut them into thin slices.",
    "That must have been the year when the bridge was finished.",
)


@dataclass(frozen=True)
class Prosody:
    """How an utterance is spoken.

    Arguments
    ---------
    pitch : float
        eSpeak NG's scale, 0 to 99; 50 is the voice's own pitch, 50 steps are
        an octave.
    pitch_range : float
        eSpeak NG's scale, 0 to 99; 50 is the voice's own intonation.
    rate_wpm : float
        Words a minute.
    level_db : float
        RMS level in dB relative to full scale.
    tilt_db : float
        Gain of high over low frequencies: the raised voice is brighter.

    Example
    -------
    >>> PROSODY["sad"].rate_wpm < PROSODY["neutral"].rate_wpm
    True
    """

    pitch: float
    pitch_range: float
    rate_wpm: float
    level_db: float
    tilt_db: float

    def as_array(self):
        """Return the numbers as one float array.

        Returns
        -------
        values : numpy.ndarray
            Shape (5,), in the order of the arguments.

        Example
        -------
        >>> Prosody(50, 40, 170, -27, 1).as_array().tolist()
        [50.0, 40.0, 170.0, -27.0, 1.0]
        """
        return np.array(astuple(self), dtype=float)


PROSODY = {
    "angry": Prosody(53, 66, 210, -21.5, 6.0),
    "sad": Prosody(37, 12, 130, -34.0, -6.0),
    "happy": Prosody(82, 92, 180, -25.5, 2.5),
    "neutral": Prosody(45, 30, 158, -29.5, -1.0),
}
# Standard deviations of what differs between voices and between utterances.
VOICE_SPREAD = Prosody(4, 5, 7, 0.8, 1.0)
UTTERANCE_SPREAD = Prosody(5, 8, 8, 1.4, 1.2)
# Farther from the mean than this would be another emotion.
MAX_DEVIATIONS = 2.0
# Vocal tracts of training's voices, relative to their own length: the voices
# differ by more than eSpeak NG's variants do.
TRAIN_TRACTS = (0.88, 1.14)
LOWEST = Prosody(0, 0, 100, -40, -10)
HIGHEST = Prosody(99, 99, 250, -18, 10)


@dataclass(frozen=True)
class Utterance:
    """One planned utterance.

    Arguments
    ---------
    utt_id : str
        Unique name, e.g. ``"en-us+m1_sad_07"``.
    voice : str
        Voice of eSpeak NG, which is also the speaker's name.
    emotion : str
        One of ``EMOTIONS``.
    text : str
        The sentence.
    prosody : Prosody
        How it is spoken.
    tract : float, optional
        Length of the vocal tract, relative to the voice's own.

    Example
    -------
    >>> plan_utterances("valid", n_sentences=1)[1].utt_id[:12]
    'en-us+f4_sad'
    """

    utt_id: str
    voice: str
    emotion: str
    text: str
    prosody: Prosody
    tract: float = 1.0


def keyed_rng(seed, *key):
    """Return a random generator that depends on nothing but seed and key.

    Arguments
    ---------
    seed : int
        Seed of the corpus, at least 0.
    *key : str
        What the numbers are for.

    Returns
    -------
    rng : numpy.random.Generator

    Example
    -------
    >>> a, b = keyed_rng(0, "m1", "sad"), keyed_rng(0, "m1", "sad")
    >>> bool(a.normal() == b.normal() != keyed_rng(1, "m1", "sad").normal())
    True
    """
    return np.random.default_rng(keyed_seed(seed, *key))


def plan_utterances(split, n_sentences, seed=0):
    """List the utterances of a split: every voice in every emotion.

    Arguments
    ---------
    split : str
        ``"train"``, ``"valid"`` or ``"test"``.
    n_sentences : int
        Sentences that each voice says, in each of the four emotions.
    seed : int
        Seed of sentence choice and prosody.

    Returns
    -------
    utterances : list of Utterance
        ``n_voices * 4 * n_sentences`` of them.

    Example
    -------
    >>> utterances = plan_utterances("train", n_sentences=2)
    >>> len(utterances), len({u.voice for u in utterances})
    (192, 24)
    """
    utterances = []
    for voice in VOICES[split]:
        tracts = TRAIN_TRACTS if split == "train" else (1.0, 1.0)
        tract = float(keyed_rng(seed, "tract", voice).uniform(*tracts))
        rng = keyed_rng(seed, "sentences", voice)
        chosen = rng.permutation(len(SENTENCES))[:n_sentences]
        for emotion in EMOTIONS:
            utterances += [
                Utterance(
                    f"{voice}_{emotion}_{index:02d}",
                    voice,
                    emotion,
                    SENTENCES[index],
                    draw_prosody(voice, emotion, f"{index:02d}", seed),
                    tract,
                )
                for index in chosen
            ]
    return utterances


def draw_prosody(voice, emotion, sentence, seed=0):
    """Draw how a voice says a sentence in an emotion.

    Arguments
    ---------
    voice : str
        Its habits move all its utterances alike.
    emotion : str
        One of ``EMOTIONS``.
    sentence : str
        Name of the sentence, which adds the chance of this utterance.
    seed : int
        Seed of the corpus.

    Returns
    -------
    prosody : Prosody
        Within ``LOWEST`` and ``HIGHEST``; eSpeak NG's own scales as integers.

    Example
    -------
    >>> slow = draw_prosody("en-us+m1", "sad", "00")
    >>> slow.rate_wpm < draw_prosody("en-us+m1", "angry", "00").rate_wpm
    True
    """
    values = PROSODY[emotion].as_array()
    for spread, key in (
        (VOICE_SPREAD, (voice,)),
        (UTTERANCE_SPREAD, (voice, emotion, sentence)),
    ):
        deviations = keyed_rng(seed, "prosody", *key).standard_normal(5)
        values += spread.as_array() * np.clip(
            deviations, -MAX_DEVIATIONS, MAX_DEVIATIONS
        )
    values = np.clip(values, LOWEST.as_array(), HIGHEST.as_array())
    pitch, pitch_range, rate_wpm = (round(v) for v in values[:3].tolist())
    return Prosody(pitch, pitch_range, rate_wpm, *values[3:].tolist())


def speak_utterance(espeak, utterance):
    """Speak a planned utterance.

    Arguments
    ---------
    espeak : merit_modules.data.miniemo.espeak.Espeak
        The synthesiser.
    utterance : Utterance
        What to say and how.

    Returns
    -------
    waveform : numpy.ndarray
        Shape (T,), float32, at 16 kHz and at the utterance's own level.

    Example
    -------
    >>> from merit_modules.data.miniemo.espeak import Espeak
    >>> loud = plan_utterances("valid", n_sentences=1)[0]
    >>> waveform = speak_utterance(Espeak(), loud)
    >>> rms_db = 10 * np.log10(np.mean(waveform**2))
    >>> bool(abs(rms_db - loud.prosody.level_db) < 0.1)
    True
    """
    waveform = speak_trimmed(
        espeak,
        utterance.text,
        utterance.voice,
        utterance.prosody.pitch,
        utterance.prosody.pitch_range,
        utterance.prosody.rate_wpm,
        # Played at 16 kHz, it is as if the vocal tract were longer or shorter.
        sample_rate_hz=50 * round(utterance.tract * SAMPLE_RATE_HZ / 50),
    )
    waveform = tilt_spectrum(
        waveform, SAMPLE_RATE_HZ, utterance.prosody.tilt_db
    )
    return set_level(waveform, utterance.prosody.level_db)

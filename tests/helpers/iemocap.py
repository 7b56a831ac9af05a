"""A tree of IEMOCAP's form, and noise."""

import numpy as np
import soundfile

SPEAKERS = [f"Ses0{session}{sex}" for session in range(1, 6) for sex in "FM"]


# Turns of a dialogue and their codes: per session, two of each usual code and
# a third neutral one, and one of each other code.
IMPRO = [
    (f"{speaker}00{number}", code)
    for speaker in "FM"
    for number, code in enumerate("ang hap sad neu exc".split())
]


SCRIPT = list(zip("F000 M000 M001 M002".split(), "neu xxx oth fru".split()))


HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"


def dialogues(session):
    """Both kinds of names; the F or M is who wore the markers."""
    return {
        f"Ses0{session}F_impro05a": IMPRO,
        f"Ses0{session}M_script01_1": SCRIPT,
    }


def evaluation(dialogue, turns):
    lines = [
        TURN_LINES.format(
            start=i, end=i + 0.9, name=f"{dialogue}_{turn}", code=code
        )
        for i, (turn, code) in enumerate(turns)
    ]
    return HEADER + "".join(lines)


def build_release(release, n_samples=1600):
    """Write a small IEMOCAP_full_release with macOS's leavings in it."""
    rng = np.random.default_rng(0)
    for session in range(1, 6):
        folder = release / f"Session{session}" / "dialog" / "EmoEvaluation"
        for name in ("Attribute", "Categorical", "Self-evaluation"):
            (folder / name).mkdir(parents=True)
            # The raters' own files are of another form.
            (folder / name / f"Ses0{session}F_impro05a_e2.txt").write_text("x")
        wav = release / f"Session{session}" / "sentences" / "wav"
        for dialogue, turns in dialogues(session).items():
            path = folder / f"{dialogue}.txt"
            path.write_text(evaluation(dialogue, turns))
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\xb0")
            (wav / dialogue).mkdir(parents=True)
            for turn, _ in turns:
                tone = np.sin(np.arange(n_samples) * rng.uniform(0.05, 0.2))
                path = wav / dialogue / f"{dialogue}_{turn}.wav"
                soundfile.write(path, 0.1 * tone, 16000)
                path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\xb0")
    return release


def build_noise(folder):
    rng = np.random.default_rng(1)
    folder.mkdir()
    for number in range(6):
        noise = 0.1 * rng.normal(size=4000)
        soundfile.write(folder / f"n{number}.wav", noise, 20000)


TURN_LINES = (
    "[{start:.4f} - {end:.4f}]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\n"
    "C-E2:\tNeutral;\t()\n"
    "A-E3:\tval 3; act 2; dom  2;\t()\n\n"
)

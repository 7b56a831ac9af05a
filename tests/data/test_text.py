"""What is the same name, and what is no value at all."""

import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from merit_modules.data.labels import emotion_labels
from merit_modules.data.text import (
    MISSING,
    clean,
    is_missing,
    key,
    look_alikes,
    speaker_of,
    spellings,
    trim,
)
from merit_modules.errors import InputError
from merit_modules.export.card_text import count_speakers

FORMS = st.sampled_from(["NFC", "NFD"])
UNSEEN = st.sampled_from(["", "\u200b", "\ufeff", "\u00ad", "\u200e", "\ufe0f"])
SPACE = st.text(st.sampled_from(" \t\u00a0\u2003\u3000\u200b\ufeff"), max_size=3)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@given(TEXT)
def test_a_key_is_its_own_key(text):
    assert key(key(text)) == key(text)
    assert key(clean(text)) == key(text)
    assert clean(clean(text)) == clean(text)
    assert trim(trim(text)) == trim(text)


@given(TEXT, FORMS, SPACE, SPACE, UNSEEN, st.integers(0, 12))
def test_spellings_of_a_name_are_one(text, form, before, after, unseen, at):
    other = unicodedata.normalize(form, text[:at] + unseen + text[at:])
    assert key(before + other + after) == key(text)
    assert clean(before + text + after) == clean(text)


@given(st.text(st.characters(categories=["Ll", "Lu"]), max_size=8))
def test_case_does_not_count(text):
    assert key(text.casefold()) == key(text)
    # Some letters have no way back: their upper case is another's.
    if text.upper().casefold() == text.casefold():
        assert key(text.upper()) == key(text)


@given(st.text("abcdefgh01 _-", max_size=6), st.text("abcdefgh01 _-"))
def test_other_names_stay_apart(one, other):
    assume(one.strip() != other.strip())
    assert key(one) != key(other)


@pytest.mark.parametrize("word", sorted(MISSING))
@pytest.mark.parametrize("form", [str, str.upper, str.title, " {}\u200b".format])
def test_what_is_missing(word, form):
    assert is_missing(form(word))
    assert speaker_of(form(word)) is None
    assert not is_missing(f"x{word}")


@pytest.mark.parametrize("value", [0, "0", "no", "unknown", "nanni", "Nina"])
def test_what_is_a_value(value):
    assert not is_missing(value)


def test_numbers_and_none():
    assert is_missing(None) and is_missing(float("nan"))
    assert speaker_of("Unknown ") is None and speaker_of(7) == "7"


def test_spellings_and_look_alikes():
    names = ["b", "SPK1", "spk1", "b", "Spk1\u200b", "01", "1", "001", "1.0"]
    assert spellings(names)["spk1"] == ["SPK1", "Spk1\u200b", "spk1"]
    assert look_alikes(names) == [["001", "01", "1", "1.0"]]
    assert look_alikes(["s01", "s10", "s1", "s0", "s00", "1.05", "1.5"]) == [
        ["s0", "s00"],
        ["s01", "s1"],
    ]


@given(st.integers(0, 999), st.integers(1, 4))
def test_leading_zeros_are_told(number, n_zeros):
    names = [f"spk_{number}", f"spk_{'0' * n_zeros}{number}"]
    assert look_alikes([*names, "spk_1234"]) == [sorted(names)]


def test_classes_and_speakers_by_their_key():
    with pytest.raises(InputError, match="two or more different names"):
        emotion_labels(["calm", "Calm"])
    entries = [{"spk_id": s} for s in ("a", "A ", "nan", None, "Unknown")]
    assert count_speakers(entries) == (1, False)
    assert count_speakers(entries[:2]) == (1, True)

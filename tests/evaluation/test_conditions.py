"""Which utterances of a test condition are kept to be heard."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from merit_modules.evaluation.conditions import (
    ConditionScores,
    TestCondition,
    varied,
)

EMOTIONS, SPEAKERS = ("angry", "calm", "sad"), ("a", "b", "c", "d")
DATA = {
    f"u{i:02}": {"emo": EMOTIONS[i // 4 % 3], "spk_id": SPEAKERS[i % 4]}
    for i in range(48)
}


def chosen(snr_db, n, data=None, ids=None):
    data = DATA if data is None else data
    dataset = SimpleNamespace(data=data, data_ids=ids or list(data))
    condition = TestCondition("test_unseen", snr_db, dataset, None)
    scorer = SimpleNamespace(sample_rate_hz=16000)
    return ConditionScores(condition, scorer, n_examples=n).examples


def test_examples_differ_in_emotion_and_speaker():
    for snr_db in (-5, 0, 5):
        found = chosen(snr_db, 3)
        assert {DATA[u]["emo"] for u in found} == set(EMOTIONS)
        assert len({DATA[u]["spk_id"] for u in found}) == 3
    # Other ones per condition, so that a report has more to choose from.
    assert len(chosen(-5, 3) | chosen(0, 3) | chosen(5, 3)) > 5


def test_all_systems_keep_the_same_whatever_the_order():
    backwards = list(DATA)[::-1]
    assert chosen(0, 4) == chosen(0, 4, ids=backwards)
    assert chosen(0, 0) == set()
    assert chosen(0, 99) == set(DATA)
    # Of attributes, or of speakers that nobody knows.
    assert len(chosen(0, 3, data=dict.fromkeys(DATA, {"wav": "a.wav"}))) == 3


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 20))
def test_no_kind_comes_twice_before_all_came_once(kinds, n):
    found = varied({i: (kind,) for i, kind in enumerate(kinds)}, n)
    assert len(found) == len(set(found)) == min(n, len(kinds))
    first = [kinds[i] for i in found[: len(set(kinds))]]
    assert len(set(first)) == len(first)

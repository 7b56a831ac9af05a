"""Every class in every split, whatever the seed, or a reason why not."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.data.preparation import check_disjoint
from merit_modules.data.speaker_splits import speaker_disjoint_splits
from merit_modules.errors import InputError

#: Utterances of each speaker, class by class: 4 x 100 of 28 speakers.
SMALL = {
    "a": [48, 28, 22, 2],
    "b": [40, 25, 14, 8, 6, 4, 2, 1],
    "c": [60, 14, 10, 8, 4, 2, 1, 1],
    "d": [40, 38, 8, 6, 4, 2, 1, 1],
}
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def corpus(classes_of):
    """One utterance of each class of each speaker."""
    return {
        f"{speaker}_{emo}": {"emo": emo, "spk_id": speaker}
        for speaker, emotions in classes_of.items()
        for emo in emotions
    }


def small_corpus():
    return {
        f"{emo}{i}_{n}": {"emo": emo, "spk_id": f"{emo}{i}"}
        for emo, sizes in SMALL.items()
        for i, size in enumerate(sizes)
        for n in range(size)
    }


def classes_in(splits):
    return [{e["emo"] for e in split.values()} for split in splits.values()]


def test_sixty_seeds_of_a_small_corpus():
    entries = small_corpus()
    for seed in range(1200, 1260):
        splits = speaker_disjoint_splits(entries, SHARES, seed)
        assert classes_in(splits) == [set(SMALL)] * 3
        check_disjoint(splits)
        assert sum(map(len, splits.values())) == 400
        # Balance comes second, not last: speakers of 48 and 60 of 100
        # utterances are for training.
        assert len(splits["train"]) > 200


def can_be_split(classes_of, names):
    """Try every way to part the speakers."""
    speakers = list(classes_of)
    wanted = set().union(*classes_of.values())
    for way in product(names, repeat=len(speakers)):
        found = {name: set() for name in names}
        for speaker, name in zip(speakers, way):
            found[name] |= classes_of[speaker]
        if all(classes == wanted for classes in found.values()):
            return True
    return False


@settings(max_examples=150)
@given(
    st.lists(st.sets(st.sampled_from("ASHN"), min_size=1), max_size=7),
    st.integers(2, 3),
    st.integers(0, 3),
)
def test_a_split_is_found_if_and_only_if_there_is_one(sets, n_splits, seed):
    classes_of = {f"s{i}": classes for i, classes in enumerate(sets)}
    names = list(SHARES)[:n_splits]
    shares = dict.fromkeys(names, 1 / n_splits)
    if not sets or not can_be_split(classes_of, names):
        with pytest.raises(InputError, match="expected (every|at least)"):
            speaker_disjoint_splits(corpus(classes_of), shares, seed)
        return
    splits = speaker_disjoint_splits(corpus(classes_of), shares, seed)
    assert classes_in(splits) == [set().union(*sets)] * n_splits


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from("ASHN"),
        st.lists(st.integers(1, 30), min_size=3, max_size=9),
        min_size=2,
    ),
    st.integers(0, 99),
)
def test_three_speakers_of_one_class_each_are_enough(sizes, seed):
    entries = {
        f"{emo}{i}_{n}": {"emo": emo, "spk_id": f"{emo}{i}"}
        for emo, counts in sizes.items()
        for i, count in enumerate(counts)
        for n in range(count)
    }
    splits = speaker_disjoint_splits(entries, SHARES, seed)
    assert classes_in(splits) == [set(sizes)] * 3


@settings(max_examples=40)
@given(st.integers(3, 6), st.integers(0, 50), st.integers(0, 99))
def test_rare_classes_of_nobody_known(n_rare, n_other, seed):
    entries = {f"r{i}": {"emo": "rare"} for i in range(n_rare)}
    entries |= {f"o{i}": {"emo": "other"} for i in range(3 + n_other)}
    splits = speaker_disjoint_splits(entries, SHARES, seed)
    assert classes_in(splits) == [{"rare", "other"}] * 3


def test_reasons_are_told():
    three = dict.fromkeys("xyz", {"calm"})
    with pytest.raises(InputError) as error:
        speaker_disjoint_splits(corpus(three | {"x": {"calm", "tense"}}))
    assert (
        "takes 3 speakers of each class, whatever the seed; of 'tense' there "
        "are 1 (x)"
    ) in str(error.value)
    entries = corpus({"x": {"a", "b"}, "y": {"a", "b"}})
    entries |= {"u": {"emo": "a"}, "v": {"emo": "a"}, "w": {"emo": "b"}}
    assert classes_in(speaker_disjoint_splits(entries)) == [{"a", "b"}] * 3
    del entries["w"]
    with pytest.raises(InputError, match=r"of 'b' there are 2 \(x, y\)$"):
        speaker_disjoint_splits(entries)
    # Two of each class, and yet no halves: a, b and c in pairs.
    pairs = {"x": {"a", "b"}, "y": {"b", "c"}, "z": {"a", "c"}}
    with pytest.raises(InputError, match="no such way to part"):
        speaker_disjoint_splits(corpus(pairs), {"one": 0.5, "two": 0.5})


def test_one_speaker_in_two_spellings_is_in_one_split():
    spellings = ["spk1", "SPK1", " Spk1\u200b"]
    entries = {
        f"u{i}": {"emo": "ab"[i % 2], "spk_id": spelling}
        for i, spelling in enumerate(spellings * 4)
    }
    entries |= {
        f"{s}{emo}": {"emo": emo, "spk_id": s}
        for s in ("J\u00f6rg", "Jo\u0308rg", "b", "c")
        for emo in "ab"
    }
    for seed in range(20):
        splits = speaker_disjoint_splits(entries, SHARES, seed)
        check_disjoint(splits)
        where = Counter(
            name
            for name, split in splits.items()
            for entry in split.values()
            if entry["spk_id"] in spellings
        )
        assert list(where.values()) == [12]
    with pytest.raises(InputError) as error:
        check_disjoint(
            {"train": {"a": {"spk_id": "spk1"}}, "test": {"b": {"spk_id": "SPK1"}}}
        )
    assert "got 'spk1' (also 'SPK1') in train and test" in str(error.value)
    # Zeros may tell two speakers apart.
    check_disjoint({"a": {"x": {"spk_id": "01"}}, "b": {"y": {"spk_id": "1"}}})

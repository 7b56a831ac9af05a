"""Datasets: the same through any number of workers, errors collected."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader

from merit_modules.data.labels import emotion_labels
from merit_modules.data.mixing import MixRecipe, NoiseMixer
from merit_modules.data.pipelines import (
    check_labels,
    class_weights,
    make_dataset,
    scan,
)
from merit_modules.errors import InputError

CLASSES = ["angry", "sad", "happy", "neutral"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Speech and noise manifests of six and three small files."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    speech, noise = {}, {}
    for i in range(6):
        path = folder / f"u{i}.wav"
        soundfile.write(path, generator.normal(0, 0.05, 1600 + 160 * i), 16000)
        speech[f"u{i}"] = {
            "wav": str(path),
            "duration": 0.1 + 0.01 * i,
            "emo": CLASSES[i % 4],
            "spk_id": "s",
        }
    for i in range(3):
        path = folder / f"n{i}.wav"
        soundfile.write(path, generator.normal(0, 0.05, 2500), 20000)
        noise[f"n{i}"] = {
            "wav": str(path),
            "duration": 0.125,
            "noise_type": "hiss",
        }
    return speech, noise


def dataset_of(speech, mixer, **options):
    reader = emotion_labels(CLASSES)
    return make_dataset(speech, mixer, reader, 16000, **options)


def batches_of(dataset, **options):
    return list(make_dataloader(dataset, batch_size=2, **options))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.id == other.id
        assert batch.recipe == other.recipe
        for key in ("noisy_wav", "clean_wav", "ser_label"):
            assert torch.equal(getattr(batch, key)[0], getattr(other, key)[0])
            assert torch.equal(getattr(batch, key)[1], getattr(other, key)[1])


def test_a_batch_holds_what_was_asked_for(corpus):
    speech, noise = corpus
    dataset = dataset_of(speech, NoiseMixer(noise, 5, seed=1))
    batch = batches_of(dataset)[0]
    assert isinstance(batch, PaddedBatch)
    assert batch.id == ["u0", "u1"]
    assert batch.noisy_wav.data.shape == (2, 1760)
    assert batch.clean_wav.data.dtype == torch.float32
    assert batch.noisy_wav.lengths.tolist() == pytest.approx([1600 / 1760, 1])
    assert batch.ser_label.data.tolist() == [[0], [1]]
    assert batch.ser_label.data.dtype == torch.int64
    assert all(isinstance(recipe, MixRecipe) for recipe in batch.recipe)
    assert [recipe.snr_db for recipe in batch.recipe] == [5.0, 5.0]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(corpus, num_workers):
    speech, noise = corpus
    dataset = dataset_of(speech, NoiseMixer(noise, (-5, 5), seed=1))
    alone = batches_of(dataset)
    assert_same(alone, batches_of(dataset, num_workers=num_workers))


def test_recipes_of_clean_speech_survive_workers(corpus):
    dataset = dataset_of(corpus[0], NoiseMixer(None, None, seed=1))
    for batch in batches_of(dataset, num_workers=1):
        assert [recipe.noise_id for recipe in batch.recipe] == [None, None]
        assert [recipe.snr_db for recipe in batch.recipe] == [None, None]
        assert torch.equal(batch.noisy_wav.data, batch.clean_wav.data)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_live_on_see_the_epoch(corpus, context):
    speech, noise = corpus
    mixer = NoiseMixer(noise, (-5, 5), seed=1)
    # Sorting deep-copies the pipeline: the copy must see the epoch too.
    dataset = dataset_of(speech, mixer).filtered_sorted(sort_key="duration")
    loader = make_dataloader(
        dataset,
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=context,
    )
    seen = []
    for epoch in (1, 2):
        mixer.set_epoch(epoch)
        through_workers = list(loader)
        assert_same(batches_of(dataset), through_workers)
        seen += [batch.recipe for batch in through_workers]
    assert all(a != b for a, b in zip(seen[:3], seen[3:], strict=True))


def test_long_utterances_are_cut(corpus):
    speech, noise = corpus
    mixer = NoiseMixer(noise, 0, seed=1)
    cut = dataset_of(speech, mixer, max_duration_s=0.105)
    assert {len(example["clean_wav"]) for example in cut} == {1600, 1680}
    assert {len(example["noisy_wav"]) for example in cut} == {1600, 1680}


def test_labels_are_numbered_in_the_order_given():
    encode = emotion_labels(CLASSES).encode
    assert [encode(name).item() for name in CLASSES] == [0, 1, 2, 3]
    for classes in (["a"], ["a", "b", "a"]):
        with pytest.raises(InputError, match="classes: expected two or more"):
            emotion_labels(classes)


def test_class_weights_by_hand():
    labels = ["angry"] * 4 + ["sad"] * 2 + ["happy"] + ["neutral"]
    manifest = {str(i): {"emo": label} for i, label in enumerate(labels)}
    # 8 / (4 * n_c)
    expected = torch.tensor([0.5, 1.0, 2.0, 2.0])
    assert torch.equal(class_weights(manifest, CLASSES), expected)


def test_unknown_labels_and_unseen_classes_are_named():
    whole = {name: {"emo": name} for name in CLASSES}
    check_labels({"train": whole, "valid": {"v": {"emo": "sad"}}}, CLASSES)
    for entry in ({"emo": "fear"}, {}):
        with pytest.raises(InputError) as error:
            check_labels({"train": whole, "test": {"t7": entry}}, CLASSES)
        assert str(error.value) == (
            "test: utterance 't7': expected a label out of angry, sad, "
            f"happy, neutral, got {entry.get('emo')!r}"
        )
    del whole["happy"]
    with pytest.raises(InputError, match="class 'happy' has no training utt"):
        check_labels({"train": whole}, CLASSES)
    with pytest.raises(InputError, match="class 'happy' has no training utt"):
        class_weights(whole, CLASSES)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_scan_gives_the_statistics_of_the_noisy_set(corpus, num_workers):
    speech, noise = corpus
    dataset = dataset_of(speech, NoiseMixer(noise, 0, seed=1))
    state = torch.get_rng_state()
    stats, _, problems, clean_stats, _ = scan(dataset, num_workers)
    assert torch.equal(torch.get_rng_state(), state)
    samples = torch.cat([example["noisy_wav"] for example in dataset]).double()
    assert problems == {}
    assert stats.count == len(samples)
    assert stats.mean == pytest.approx(samples.mean().item(), abs=1e-12)
    std = samples.std(correction=0).item()
    assert stats.std == pytest.approx(std, abs=1e-12)
    clean = torch.cat([example["clean_wav"] for example in dataset]).double()
    mean = clean.mean().item()
    assert clean_stats.mean == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_scan_goes_on_after_a_bad_file(corpus, tmp_path, num_workers):
    speech, noise = corpus
    silent, empty = tmp_path / "silent.wav", tmp_path / "empty.wav"
    soundfile.write(silent, np.zeros(1600), 16000)
    empty.touch()
    bad = {
        "u1": {**speech["u1"], "wav": str(silent)},
        "u4": {**speech["u4"], "wav": str(empty)},
    }
    mixer = NoiseMixer(noise, 0, seed=1)
    dataset = dataset_of({**speech, **bad}, mixer)
    stats, _, problems, _, _ = scan(dataset, num_workers)
    assert list(problems) == ["u1", "u4"]
    assert "'u1': the speech is silent" in problems["u1"]
    assert str(empty) in problems["u4"]
    good = {key: speech[key] for key in speech if key not in bad}
    expected, *_ = scan(dataset_of(good, mixer))
    assert (stats.mean, stats.std) == (expected.mean, expected.std)
    nothing = scan(dataset_of(bad, mixer), num_workers)
    assert nothing.doubts.keys() == {str(silent)}
    assert nothing.doubts[str(silent)].keys() == {"silence", "soft"}
    assert nothing == (None, [], problems, None, nothing.doubts)


def test_errors_that_are_no_input_errors_are_not_hidden(corpus):
    class Broken:
        def __call__(self, utt_id, wav):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        scan(dataset_of(corpus[0], Broken()))

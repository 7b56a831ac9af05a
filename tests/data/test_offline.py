"""Mixtures on disk: those of training, whole or gone on with, read back."""

import copy
import csv
import json
import logging
import pickle

import numpy as np
import pytest
import soundfile
import torch

from merit_modules.data.labels import emotion_labels
from merit_modules.data.manifest import read_manifest
from merit_modules.data.mixing import NoiseMixer
from merit_modules.commands.__main__ import main as merit
from merit_modules.data.manifest import write_manifest
from merit_modules.data.offline.mix import (
    KEYS,
    load_data_settings,
    speech_of,
)
from merit_modules.data.offline.read import PairedFolders
from merit_modules.data.offline.write import write_mixtures
from merit_modules.data.pipelines import make_dataset, scan
from merit_modules.errors import InputError

pytestmark = pytest.mark.slow

CLASSES = ["angry", "sad"]
LSB = 2.0**-15


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six utterances, one of them at 44.1 kHz in stereo, and three noises."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    speech, noise = {}, {}
    for i in range(6):
        rate_hz, shape = 16000, (1600 + 160 * i, 1)
        if i == 5:
            rate_hz, shape = 44100, (6615, 2)
        path = folder / f"u{i}.wav"
        level = 0.5 if i == 4 else 0.05  # loud: mixtures that are scaled
        soundfile.write(path, generator.normal(0, level, shape), rate_hz)
        speech[f"u{i}"] = {
            "wav": str(path),
            "duration": round(shape[0] / rate_hz, 4),
            "emo": CLASSES[i % 2],
            "spk_id": f"s{i}",
        }
    for i in range(3):
        path = folder / f"n{i}.wav"
        soundfile.write(path, generator.normal(0, 0.1, 4000), 20000)
        noise[f"n{i}"] = {
            "wav": str(path),
            "duration": 0.2,
            "noise_type": "hiss",
        }
    return speech, noise


def mixer_of(noise, snr_db=(-5, 5), seed=7, epoch=3):
    mixer = NoiseMixer(noise, snr_db, seed)
    mixer.set_epoch(epoch)
    return mixer


def dataset_of(speech, mixer, max_duration_s=None):
    reader = emotion_labels(CLASSES)
    return make_dataset(speech, mixer, reader, 16000, max_duration_s)


def read_back(folder, max_duration_s=None):
    paired = PairedFolders(folder)
    return dataset_of(paired.manifest, paired, max_duration_s)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("snr_db", [(-5, 5), -5.0, None])
def test_float_files_are_the_mixtures_bit_for_bit(
    corpus, tmp_path, num_workers, snr_db
):
    speech, noise = corpus
    mixer = mixer_of(noise, snr_db)
    write_mixtures(tmp_path, speech, mixer, 0.105, num_workers=num_workers)
    on_the_fly = dataset_of(speech, mixer_of(noise, snr_db), 0.105)
    from_disk = read_back(tmp_path, 0.105)
    assert len(from_disk) == 6
    for ours, theirs in zip(from_disk, on_the_fly, strict=True):
        assert ours["id"] == theirs["id"]
        assert torch.equal(ours["noisy_wav"], theirs["noisy_wav"])
        assert torch.equal(ours["clean_wav"], theirs["clean_wav"])
        assert torch.equal(ours["ser_label"], theirs["ser_label"])
        assert ours["recipe"] == theirs["recipe"]
    gains = {example["recipe"].mixture_gain for example in from_disk}
    if snr_db is not None:
        assert len(gains) > 1  # some mixtures were scaled, their targets, too


def test_pcm16_files_are_within_one_step(corpus, tmp_path):
    speech, noise = corpus
    write_mixtures(tmp_path, speech, mixer_of(noise), audio_format="pcm16")
    on_the_fly = dataset_of(speech, mixer_of(noise))
    for ours, theirs in zip(read_back(tmp_path), on_the_fly, strict=True):
        assert ours["recipe"] == theirs["recipe"]
        assert ours["noisy_wav"].abs().max() <= 1
        for key in ("noisy_wav", "clean_wav"):
            error = (ours[key] - theirs[key]).abs().max().item()
            assert error <= LSB / 2
        assert not torch.equal(ours["noisy_wav"], theirs["noisy_wav"])
    info = soundfile.info(tmp_path / "NoisyAudios" / "u0.wav")
    assert (info.subtype, info.samplerate, info.channels) == (
        "PCM_16",
        16000,
        1,
    )


class Fixed:
    """A mixer whose output is set."""

    seed, epoch, snr_range_db, sample_rate_hz = 0, 0, None, 16000
    about_mean = False
    noise = {}

    def __init__(self, noisy, clean):
        self.noisy, self.clean = noisy, clean

    def __call__(self, utt_id, wav):
        recipe = NoiseMixer(None, None, 0)(utt_id, wav)[2]
        return self.noisy, self.clean, recipe._replace(mixture_gain=0.5)


@pytest.mark.parametrize("peak", [1.0, -1.0, 1.5])
def test_pcm16_does_not_clip(corpus, tmp_path, peak):
    speech = {"u0": corpus[0]["u0"]}
    noisy, clean = 0.9 * torch.ones(1600), 0.1 * torch.ones(1600)
    clean[7] = peak
    mixer = Fixed(noisy, clean)
    write_mixtures(tmp_path, speech, mixer, audio_format="pcm16")
    example = read_back(tmp_path)[0]
    gain = 1.0 if abs(peak) <= 1 else 0.99 / peak
    assert torch.allclose(example["noisy_wav"], gain * noisy, atol=LSB)
    assert torch.allclose(example["clean_wav"], gain * clean, atol=LSB)
    assert example["recipe"].mixture_gain == pytest.approx(0.5 * gain)


def test_the_folder_tells_all(corpus, tmp_path):
    speech, noise = corpus
    write_mixtures(tmp_path, speech, mixer_of(noise), max_duration_s=0.11)
    assert {path.name for path in tmp_path.iterdir()} == {
        "Audios",
        "NoisyAudios",
        "mixtures.csv",
        "manifest.json",
        "made_from.json",
    }
    names = {f"{utt_id}.wav" for utt_id in speech}
    for kind in ("Audios", "NoisyAudios"):
        assert {p.name for p in (tmp_path / kind).iterdir()} == names
    moved = tmp_path / "moved"
    entries = read_manifest(tmp_path / "manifest.json", moved)
    assert entries["u3"] == {
        "wav": f"{moved}/Audios/u3.wav",
        "duration": 0.11,
        "emo": "sad",
        "spk_id": "s3",
    }
    with open(tmp_path / "mixtures.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["utt_id"] for row in rows] == sorted(speech)
    assert {row["noise_wav"] for row in rows} <= {
        entry["wav"] for entry in noise.values()
    }
    paired = PairedFolders(tmp_path)
    assert (paired.seed, paired.epoch) == (7, 3)
    assert paired.snr_range_db == [-5.0, 5.0]
    json.dumps([paired.manifest, paired.noise])


class Stop(Exception):
    """What ends a run in a test."""


class StopsAfter:
    """A mixer that fails after some utterances."""

    def __init__(self, mixer, n_utterances):
        self.mixer, self.n_left, self.mixed = mixer, n_utterances, []

    def __getattr__(self, name):
        return getattr(self.mixer, name)

    def __call__(self, utt_id, wav):
        if not self.n_left:
            raise Stop
        self.n_left -= 1
        self.mixed.append(utt_id)
        return self.mixer(utt_id, wav)


def test_a_stopped_run_goes_on(corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    speech, noise = corpus
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    write_mixtures(whole, speech, mixer_of(noise))
    with pytest.raises(Stop):
        write_mixtures(folder, speech, StopsAfter(mixer_of(noise), 4))
    with pytest.raises(InputError, match="expected a whole folder of mixt"):
        PairedFolders(folder)
    # One line was cut off, one file was lost.
    progress = folder / "progress.jsonl"
    progress.write_text(progress.read_text()[:-9])
    (folder / "NoisyAudios" / "u1.wav").unlink()
    rest = StopsAfter(mixer_of(noise), 10)
    write_mixtures(folder, speech, rest)
    assert rest.mixed == ["u1", "u3", "u4", "u5"]
    assert "2 mixtures are there already" in caplog.text
    files = sorted(p.relative_to(whole) for p in whole.rglob("*.*"))
    assert files == sorted(p.relative_to(folder) for p in folder.rglob("*.*"))
    for name in files:
        assert (whole / name).read_bytes() == (folder / name).read_bytes()
    never = StopsAfter(mixer_of(noise), 0)
    write_mixtures(folder, speech, never)
    assert "all mixtures are there already" in caplog.text


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"seed": 8}, "seed 7, expected 8"),
        ({"epoch": 0}, "epoch 3, expected 0"),
        ({"snr_db": 0}, "snr_range_db"),
        ({"audio_format": "pcm16"}, "audio_format 'float', expected 'pcm16'"),
        ({"max_duration_s": 0.1}, "max_duration_s None, expected 0.1"),
        ({"without": "u0"}, "speech"),
        ({"without_noise": "n0"}, "noise"),
    ],
)
def test_a_folder_holds_one_kind_of_mixtures(corpus, tmp_path, options, key):
    speech, noise = corpus
    write_mixtures(tmp_path, speech, mixer_of(noise))
    before = (tmp_path / "made_from.json").read_text()
    options = dict(options)
    speech = {k: v for k, v in speech.items() if k != options.pop("without", 0)}
    gone = options.pop("without_noise", None)
    noise = {k: v for k, v in noise.items() if k != gone}
    how = {
        name: options.pop(name)
        for name in ("audio_format", "max_duration_s")
        if name in options
    }
    with pytest.raises(InputError, match=f"made with {key}"):
        write_mixtures(tmp_path, speech, mixer_of(noise, **options), **how)
    assert (tmp_path / "made_from.json").read_text() == before


def test_the_corpora_may_have_moved(corpus, tmp_path):
    speech, noise = corpus
    write_mixtures(tmp_path, speech, mixer_of(noise))
    moved = {k: {**v, "wav": f"/moved/{k}.wav"} for k, v in speech.items()}
    write_mixtures(tmp_path, moved, mixer_of(noise))  # nothing to do


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_utterances_are_listed_after_the_rest(
    corpus, tmp_path, num_workers, caplog
):
    speech, noise = corpus
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(1600), 16000)
    bad = {
        **speech,
        "u1": {**speech["u1"], "wav": str(silent)},
        "u2": {**speech["u2"], "wav": "gone.wav"},
        "../u9": speech["u0"],
    }
    folder = tmp_path / "out"
    options = {"num_workers": num_workers}
    with pytest.raises(InputError, match="3 of the utterances") as error:
        write_mixtures(folder, bad, mixer_of(noise), **options)
    for text in ("'u1': the speech is silent", "gone.wav", "'../u9'"):
        assert text in str(error.value)
    assert not (folder / "manifest.json").exists()
    assert len(list((folder / "NoisyAudios").iterdir())) == 4
    write_mixtures(
        folder, bad, mixer_of(noise), skip_broken_audio=True, **options
    )
    assert list(PairedFolders(folder).manifest) == ["u0", "u3", "u4", "u5"]
    assert "left out: gone.wav" in caplog.text
    assert not list(tmp_path.glob("u9*"))


def test_nothing_usable_is_an_error_even_if_skipped(corpus, tmp_path):
    speech, noise = corpus
    gone = {"u0": {**speech["u0"], "wav": "gone.wav"}}
    with pytest.raises(InputError, match="1 of the utterances"):
        write_mixtures(tmp_path, gone, mixer_of(noise), skip_broken_audio=True)


def test_a_disk_that_cannot_be_written_ends_the_run(corpus, tmp_path):
    speech, noise = corpus
    (tmp_path / "Audios").write_text("in the way")
    for num_workers in (0, 1):
        with pytest.raises(OSError, match="Audios"):
            write_mixtures(
                tmp_path, speech, mixer_of(noise), num_workers=num_workers
            )


def test_ids_with_folders_and_odd_letters(corpus, tmp_path):
    speech, noise = corpus
    ids = ['a/b, "c"', "ü\u2028x", "x.wav"]
    speech = dict(zip(ids, speech.values()))
    write_mixtures(tmp_path, speech, mixer_of(noise))
    assert (tmp_path / "Audios" / 'a/b, "c".wav').is_file()
    dataset = read_back(tmp_path)
    assert {example["recipe"].utt_id for example in dataset} == set(ids)


def test_bad_formats_and_rates_are_named(corpus, tmp_path):
    speech, noise = corpus
    with pytest.raises(InputError, match="audio_format: expected one of flo"):
        write_mixtures(tmp_path, speech, mixer_of(noise), audio_format="mp3")
    write_mixtures(tmp_path, speech, mixer_of(noise))
    with pytest.raises(InputError, match="at 8000 Hz, got 16000 Hz"):
        PairedFolders(tmp_path, sample_rate_hz=8000)
    (tmp_path / "made_from.json").write_text("{")
    with pytest.raises(InputError, match="made_from.json: damaged"):
        PairedFolders(tmp_path)


def test_what_does_not_fit_is_named(corpus, tmp_path):
    speech, noise = corpus
    write_mixtures(tmp_path, speech, mixer_of(noise))
    problems = scan(read_back(tmp_path, max_duration_s=0.103)).problems
    assert list(problems) == list(speech)[1:]  # u0 is short enough
    assert "expected 1648 samples" in problems["u1"]
    assert "max_duration_s" in problems["u1"]
    paired = PairedFolders(tmp_path)
    with pytest.raises(InputError, match="there is no utterance 'u77'"):
        paired("u77", torch.zeros(10))
    (tmp_path / "NoisyAudios" / "u0.wav").unlink()
    assert (
        "u0.wav: there is no such" in scan(read_back(tmp_path)).problems["u0"]
    )


def test_it_stands_in_for_a_mixer(corpus, tmp_path):
    """Statistics, workers, sorting and epochs: as with a NoiseMixer."""
    speech, noise = corpus
    mixer = mixer_of(noise)
    write_mixtures(tmp_path, speech, mixer)
    expected = scan(dataset_of(speech, mixer))
    paired = PairedFolders(tmp_path)
    dataset = dataset_of(paired.manifest, paired)
    for num_workers in (0, 2):
        found = scan(dataset, num_workers)
        assert found.recipes == expected.recipes
        assert found.stats.mean == expected.stats.mean
        assert found.stats.std == expected.stats.std
        assert found.clean_stats.mean == expected.clean_stats.mean
    paired.set_epoch(9)
    assert scan(dataset).recipes == expected.recipes
    by_length = dataset.filtered_sorted(sort_key="duration")
    assert len(by_length) == 6
    assert copy.deepcopy(paired) is paired
    copied = pickle.loads(pickle.dumps(paired))
    clean = dataset[0]["clean_wav"]
    assert torch.equal(copied("u0", clean)[0], dataset[0]["noisy_wav"])


def test_the_command(tiny_experiment, tmp_path, capsys):
    out = tmp_path / "mixtures"
    common = [str(tiny_experiment), "--out", str(out)]
    options = ["--output_folder", str(tmp_path / "run"), "--seed", "5"]
    options += ["--train_snr_db", "3", "--test_snrs_db", "[-5, 2.5]"]
    for split in ("train", "valid", "test"):
        assert merit(["mix", *common, "--split", split, *options]) == 0
        assert f"written: {out}/{split}" in capsys.readouterr().out
    assert {p.parent.relative_to(out).as_posix() for p in out.rglob("m*.json")
            if p.name == "manifest.json"} == {
        "train", "valid", "test/unseen_-5dB", "test/unseen_2.5dB",
    }  # fmt: skip
    settings = load_data_settings(
        tiny_experiment, {"output_folder": str(tmp_path / "run")}
    )
    folder = tmp_path / "run" / "save" / "manifests"
    assert settings["train_annotation"] == f"{folder}/train.json"
    for split, noise_set, snr_db, seed in (
        ("train", "train", 3, 5),
        ("valid", "valid", settings["valid_snr_db"], settings["mixture_seed"]),
        ("test/unseen_2.5dB", "test_unseen", 2.5, settings["mixture_seed"]),
    ):
        root = settings["speech_root"]
        name = split.split("/")[0]
        speech = read_manifest(folder / f"{name}.json", root)
        noise = read_manifest(folder / f"noise_{noise_set}.json", root)
        mixer = NoiseMixer(noise, snr_db, seed)
        paired = PairedFolders(out / split)
        utt_id = sorted(speech)[0]
        entry = {utt_id: {**speech[utt_id], "emo": "sad"}}
        theirs = dataset_of(entry, mixer, settings["max_duration_s"])[0]
        entry = {utt_id: {**paired.manifest[utt_id], "emo": "sad"}}
        ours = dataset_of(entry, paired)[0]
        assert len(paired.manifest) == len(speech)
        assert torch.equal(ours["noisy_wav"], theirs["noisy_wav"])
        assert torch.equal(ours["clean_wav"], theirs["clean_wav"])
        assert ours["recipe"] == theirs["recipe"]
    capsys.readouterr()
    assert merit(["mix", *common, "--split", "train", "--seed", "6", *options[:2]]) == 2
    assert "holds mixtures made with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "dev"], "split: expected one of train, valid, test"),
        (["--split", "valid", "--epoch", "1"], "epoch: expected 0 for valid"),
        (["--split", "train", "--sead", "1"], "no key 'sead' to override"),
    ],
)
def test_wrong_commands_are_explained(
    tiny_experiment, tmp_path, capsys, options, message
):
    command = [str(tiny_experiment), "--out", str(tmp_path / "out"), *options]
    command += ["--output_folder", str(tmp_path / "run")]
    assert merit(["mix", *command]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_model_is_built_to_mix(tmp_path):
    lines = [f"{key}: 1\n" for key in KEYS if key != "prepare"]
    path = tmp_path / "run.yaml"
    path.write_text(
        "".join(lines)
        + "folder: !PLACEHOLDER\n"
        + "ssl_encoder: !new:no_such_module.Encoder\n"
        + "prepare: !name:shutil.copy\n    src: !ref <folder>/a\n"
    )
    settings = load_data_settings(path, {"folder": "x"})
    assert set(settings) == set(KEYS)
    assert settings["prepare"].keywords == {"src": "x/a"}
    with pytest.raises(InputError, match="folder needs a value"):
        load_data_settings(path)
    path.write_text(path.read_text().replace("shutil.copy", "gone_prepare.f"))
    with pytest.raises(InputError, match="gone_prepare"):
        load_data_settings(path, {"folder": "x"})


def test_manifests_of_one_s_own_are_mixed(tmp_path):
    entry = {"wav": "{data_root}/a.wav", "duration": 1.0, "emo": "sad"}
    for name in ("mine", "test1"):
        write_manifest(tmp_path / f"{name}.json", {name: entry})
    settings = {
        "train_annotation": str(tmp_path / "mine.json"),
        "test_annotation": str(tmp_path / "{test_set}.json"),
        "test_sets": ["test1"],
        "speech_root": "/there",
    }
    assert list(speech_of(settings, "train")) == ["mine"]
    assert list(speech_of(settings, "test1")) == ["test1"]

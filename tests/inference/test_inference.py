"""A trained model in use: every way of input, any length, rate and level."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.inference.interfaces import Pretrained

from merit_modules.errors import InputError
from merit_modules.heads.se import SEHead
from merit_modules.heads.ser import SERHead
from merit_modules.inference import SparseMERIT
from merit_modules.inference.batches import run_recordings
from merit_modules.inference.windows import Chunking, Sizes
from merit_modules.pretrained import save_folder
from merit_modules.system import CascadeSystem
from merit_modules.tiny import tiny_system

LABELS = ["angry", "sad", "happy", "neutral"]
SHORT = Chunking(Sizes(0.8, 0.4, 0.4), Sizes(0.8, 0.4, 0.2), fade_s=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(tiny_system(), folder, LABELS)
    return folder


@pytest.fixture
def model(folder):
    return SparseMERIT.from_hparams(source=folder)


@pytest.fixture(scope="module")
def speech():
    """Three seconds of something that changes."""
    generator = torch.Generator().manual_seed(1)
    wav = torch.randn(48123, generator=generator)
    return 0.1 * wav * torch.sin(torch.arange(48123) / 5000)


def write(path, wav, rate_hz=16000, **options):
    options.setdefault("subtype", "FLOAT" if path.suffix == ".wav" else None)
    soundfile.write(path, np.asarray(wav), rate_hz, **options)
    return path


# ---- batches --------------------------------------------------------------


def test_batches_follow_speechbrain(model):
    wavs, wav_lens = torch.randn(2, 8000), torch.tensor([1.0, 0.6])
    out_prob, score, index, text_lab = model.classify_batch(wavs, wav_lens)
    assert out_prob.shape == (2, 4)
    torch.testing.assert_close(out_prob.sum(dim=1), torch.ones(2))
    assert torch.equal(score, out_prob.max(dim=1).values)
    assert text_lab == [LABELS[i] for i in index]
    enhanced = model.enhance_batch(wavs, wav_lens)
    assert enhanced.shape == wavs.shape and not enhanced[1, 4800:].any()
    found = model.analyze_batch(wavs, wav_lens)
    torch.testing.assert_close(found.enhanced, enhanced)
    torch.testing.assert_close(found.out_prob, out_prob)
    assert (found.routing["se"] >= 0).sum(dim=1).tolist() == [24, 14]
    assert found.n_frames.tolist() == [24, 14]


def test_alone_and_padded_are_the_same(model):
    wavs = torch.randn(3, 9000)
    lens = torch.tensor([1.0, 0.5, 0.03])
    batch = model.analyze_batch(wavs, lens)
    for i, n in enumerate((9000, 4500, 270)):
        alone = model.analyze_batch(wavs[i : i + 1, :n])
        torch.testing.assert_close(
            batch.enhanced[i, :n], alone.enhanced[0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(batch.out_prob[i], alone.out_prob[0])


def test_only_what_is_asked_for_is_computed(model, monkeypatch):
    system, asked = model.mods.system, []
    encode = type(system).encode

    def spy(self, wavs, wav_lens, tasks):
        asked.append(list(tasks))
        return encode(self, wavs, wav_lens, tasks)

    monkeypatch.setattr(type(system), "encode", spy)
    for head in (system.se_head, system.ser_head):
        head.register_forward_hook(lambda head, *_: asked.append(type(head)))
    wav = torch.randn(8000)
    model.classify(wav)
    model.enhance(wav)
    model.analyze(wav)
    model.classify_batch(wav[None])
    ser, se = [["ser"], SERHead], [["se"], SEHead]
    assert asked == [*ser, *se, ["se", "ser"], SERHead, SEHead, *ser]


@pytest.mark.parametrize(
    "wavs, message",
    [
        (torch.randn(800), r"wavs: expected waveforms \(batch, samples\)"),
        (torch.zeros(2, 0), r"wavs: expected waveforms \(batch, samples\)"),
        (torch.tensor([[0.0] * 800, [0.0, np.nan] * 400]), "waveform 1 of"),
    ],
)
def test_batches_that_cannot_be(model, wavs, message):
    with pytest.raises(InputError, match=message):
        model.analyze_batch(wavs)


# ---- ways of input --------------------------------------------------------


def test_every_way_of_input_gives_the_same(model, speech, tmp_path):
    path = write(tmp_path / "a.wav", speech)
    whole = model.analyze_batch(speech[None])
    ways = {
        "path": model.analyze(path),
        "text": model.analyze(str(path)),
        "file": model.analyze_file(path),
        "tensor": model.analyze(speech),
        "array": model.analyze(speech.numpy()),
        "rows": model.analyze(speech[None]),
        "list": model.analyze([speech, path])[1],
        "folder": model.analyze(tmp_path)[0],
    }
    for way, found in ways.items():
        probabilities = torch.tensor(list(found.emotion.probabilities.values()))
        torch.testing.assert_close(probabilities, whole.out_prob[0], msg=way)
        torch.testing.assert_close(found.enhanced, whole.enhanced[0], msg=way)
        assert torch.equal(found.routing["se"].long(), whole.routing["se"][0])
    out_prob, score, index, text_lab = model.classify_file(path)
    torch.testing.assert_close(out_prob, whole.out_prob)
    assert text_lab == whole.text_lab and torch.equal(index, whole.index)
    assert model.classify(path).label == whole.text_lab[0]
    torch.testing.assert_close(model.enhance_file(path), whole.enhanced[0])


def test_integers_have_their_own_full_scale(model, speech):
    wav = speech.clamp(-1, 1)
    as_int16 = (wav * 32767).round().to(torch.int16)
    expected = model.enhance(as_int16.float() / 32768)
    torch.testing.assert_close(model.enhance(as_int16), expected)
    as_int32 = as_int16.to(torch.int32) * 65536
    torch.testing.assert_close(model.enhance(as_int32.numpy()), expected)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_rates_and_channels(model, tmp_path, rate_hz, n_channels):
    n = rate_hz // 2 + 1
    wav = 0.1 * torch.randn(n, n_channels).numpy()
    path = write(tmp_path / "a.wav", wav, rate_hz)
    found = model.analyze_file(path)
    assert found.sample_rate_hz == rate_hz
    assert found.enhanced.shape == (n,)
    same = model.analyze(wav.T, rate_hz)
    torch.testing.assert_close(same.enhanced, found.enhanced)
    out = tmp_path / "out" / "enhanced.wav"
    assert model.enhance_file(path, out) == out
    written, out_rate_hz = soundfile.read(out, dtype="float32")
    assert (len(written), out_rate_hz) == (n, rate_hz)
    np.testing.assert_allclose(written, found.enhanced, atol=1e-6)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_formats(model, speech, tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", speech)
    n_samples = soundfile.info(path).frames
    found = model.analyze_file(path)
    assert found.enhanced.shape == (n_samples,)
    expected, _ = soundfile.read(path, dtype="float32")
    again = model.analyze(torch.from_numpy(expected))
    torch.testing.assert_close(found.enhanced, again.enhanced)


@pytest.mark.parametrize("n", [1, 7, 199, 200, 201, 399, 400, 719, 800, 16001])
def test_lengths(model, n):
    wav = torch.randn(n)
    found = model.analyze(wav)
    assert found.enhanced.shape == (n,) and found.enhanced.isfinite().all()
    assert len(found.timeline) == 1
    assert found.timeline[0].end_s == pytest.approx(n / 16000)
    batch = model.analyze_batch(wav[None])
    torch.testing.assert_close(found.enhanced, batch.enhanced[0])


def test_levels(model, speech):
    silent = model.analyze(torch.zeros(8000))
    assert silent.enhanced.abs().max() < 1e-4
    assert sum(silent.emotion.probabilities.values()) == pytest.approx(1)
    clipped = (20 * speech).clamp(-1, 1)
    assert model.analyze(clipped).enhanced.isfinite().all()


def test_the_mask_keeps_the_level(folder, speech):
    """A head that masks nothing gives the input back, loud or soft."""
    model = SparseMERIT.from_hparams(source=folder)
    torch.nn.init.constant_(model.mods.system.se_head.output_layer.bias, 50.0)
    torch.nn.init.zeros_(model.mods.system.se_head.output_layer.weight)
    for level in (0.01, 1.0, 3.0):
        enhanced = model.enhance(level * speech)
        torch.testing.assert_close(
            enhanced, level * speech, atol=1e-4 * level, rtol=1e-3
        )


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: p, "there is no such audio file"),
        (lambda p: p.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda p: p.write_text("hello"), "cannot be read as audio"),
        (lambda p: write(p, np.zeros(0)), r"is empty \(no samples\)"),
        (lambda p: write(p, [0.0] * 9000 + [np.nan]), "0.562 s"),
        (lambda p: truncate(write(p, np.zeros(9000))), "truncated"),
    ],
)
def test_broken_files_are_named(model, tmp_path, make, message):
    path = tmp_path / "a.wav"
    make(path)
    out = tmp_path / "out.wav"
    with pytest.raises(InputError, match=message) as caught:
        model.enhance_file(path, out)
    assert str(path) in str(caught.value) and not out.exists()
    assert [p.name for p in tmp_path.iterdir()] in ([], ["a.wav"])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    "audio, message",
    [
        (np.zeros((2, 3, 4)), "got an array of shape"),
        (np.zeros((4000, 2)), r"\(channels, n\), got an array of shape \(4000"),
        (np.zeros(8, dtype=np.uint8), "signed integers, got uint8"),
        (np.zeros(0), r"the audio is empty"),
        ({"a": 1}, "expected a path, a tensor or an array, got dict"),
    ],
)
def test_audio_that_is_none(model, audio, message):
    with pytest.raises(InputError, match=message):
        model.analyze(audio)


def test_a_folder_without_audio(model, tmp_path):
    with pytest.raises(InputError, match="no audio file in this folder"):
        model.classify(tmp_path)


def test_16_bits_do_not_clip(model, speech, tmp_path):
    path = write(tmp_path / "a.wav", 40 * speech)
    exact = model.enhance_file(path)
    assert exact.abs().max() > 1.5
    out = tmp_path / "out.wav"
    found = model.analyze_file(path, out, encoding="pcm16")
    written, _ = soundfile.read(out, dtype="float32")
    assert soundfile.info(out).subtype == "PCM_16"
    assert np.abs(written).max() == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(written, found.gain * exact, atol=1e-4)
    model.enhance_file(path, out)  # float keeps the level
    written, _ = soundfile.read(out, dtype="float32")
    np.testing.assert_allclose(written, exact, atol=1e-6)


@pytest.mark.parametrize(
    "name, encoding, message",
    [
        ("a.xyz", "float", "expected a name that ends in .wav"),
        ("a.flac", "float", "expected a name that ends in .wav"),
        ("a.wav", "int7", "encoding: expected one of float, pcm16"),
    ],
)
def test_files_that_cannot_be_written(
    model, speech, tmp_path, name, encoding, message
):
    path = write(tmp_path / "in.wav", speech)
    with pytest.raises(InputError, match=message):
        model.enhance_file(path, tmp_path / name, encoding)


# ---- any length -----------------------------------------------------------


def test_windows_of_a_long_recording(model, speech):
    """The same windows, one at a time or batched, from a file or live."""
    model.chunking = SHORT
    found = model.analyze(speech)
    assert found.enhanced.shape == speech.shape
    assert len(found.routing["se"]) == (len(speech) - 400) // 320 + 1
    assert [s.start_s for s in found.timeline] == [0.0]
    items = [(0, model.opener(speech, ["se", "ser"]))]
    (batched,) = model.run(items, ["se", "ser"], batch_s=8.0)
    torch.testing.assert_close(
        batched.analysis.enhanced, found.enhanced, atol=1e-5, rtol=0
    )
    assert batched.analysis.emotion.label == found.emotion.label


@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_live_gives_what_the_file_gives(model, speech, rate_hz):
    model.chunking = SHORT
    found = model.analyze(speech, rate_hz, segment_s=0.5)
    session = model.live(rate_hz, chunking=SHORT, segment_s=0.5)
    updates, n_in, n_out = [], 0, 0
    for block in [*speech.split(1234), torch.zeros(0)]:
        updates.append(session.push(block))
        n_in, n_out = n_in + len(block), n_out + len(updates[-1].enhanced)
        late = n_in - n_out - len(block)
        assert late <= session.latency_s * rate_hz + 1
    assert 2.05 <= session.latency_s < 2.1
    updates.append(session.finish())
    enhanced = torch.cat([update.enhanced for update in updates])
    torch.testing.assert_close(enhanced, found.enhanced)
    segments = [segment for u in updates for segment in u.segments]
    for ours, theirs in zip(segments, found.timeline, strict=True):
        assert ours[:2] == theirs[:2]
        assert_same_emotion(ours.emotion, theirs.emotion)
    assert_same_emotion(updates[-1].emotion, found.emotion)
    for task, experts in found.routing.items():
        parts = [u.routing[task] for u in updates if u.routing]
        assert torch.equal(torch.cat(parts), experts)
    with pytest.raises(InputError, match="over"):
        session.push(speech)


def assert_same_emotion(ours, theirs):
    assert ours.label == theirs.label
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)


def test_live_needs_audio(model):
    with pytest.raises(InputError, match="no audio to finish"):
        model.live().finish()
    with pytest.raises(InputError, match="block: 1 of 1 samples are NaN"):
        model.live().push(torch.tensor([float("nan")]))


def test_the_timeline(model, speech):
    """Each segment is what its frames give, the last one a whole length."""
    model.chunking = SHORT
    found = model.timeline(speech, segment_s=0.4)
    assert [round(s.start_s, 3) for s in found] == pytest.approx(
        [0.4 * k for k in range(8)]
    )
    assert found[-1].end_s == pytest.approx(len(speech) / 16000)
    for segment in found:
        assert sum(segment.emotion.probabilities.values()) == pytest.approx(1)
    with pytest.raises(InputError, match="segment_s: expected at least"):
        model.timeline(speech, segment_s=0.0)


def test_one_segment_is_the_recording(model, speech):
    (segment,) = model.timeline(speech, segment_s=100.0)
    whole = model.classify(speech)
    assert segment.emotion.label == whole.label
    assert segment.emotion.score == pytest.approx(whole.score, abs=1e-5)


# ---- many recordings ------------------------------------------------------


@pytest.mark.parametrize("n_readers", [0, 3])
def test_an_error_ends_only_its_own(model, speech, tmp_path, n_readers):
    good = [write(tmp_path / f"{i}.wav", speech[: 9000 + i]) for i in range(5)]
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    nan = write(tmp_path / "nan.wav", [*speech.tolist(), float("nan")])
    paths = [*good[:2], bad, nan, *good[2:], tmp_path / "gone.wav"]
    items = [
        (p, model.opener(p, ["se"], output_filename=tmp_path / "o" / p.name))
        for p in paths
    ]
    outcomes = model.run(items, ["se"], batch_s=2.0, n_readers=n_readers)
    found = {outcome.key: outcome for outcome in outcomes}
    assert set(found) == set(paths)
    failed = {path for path in paths if found[path].error is not None}
    assert failed == {bad, nan, tmp_path / "gone.wav"}
    for path in failed:
        assert str(path) in str(found[path].error)
    written = {path.name for path in (tmp_path / "o").iterdir()}
    assert written == {path.name for path in good}


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), MemoryError("2 TiB"), KeyError("x")]
)
def test_no_error_of_a_recording_ends_the_others(model, speech, error):
    def broken():
        raise error

    for n_readers in (0, 2):
        items = [(k, broken) for k in range(3)]
        items.append((3, model.opener(speech, ["se"])))
        outcomes = list(
            run_recordings(items, model.engine, ["se"], 0, n_readers)
        )
        told = {o.key: o.error for o in outcomes}
        assert told.pop(3) is None
        for found in told.values():
            assert type(found) is InputError and found.__cause__ is error
            assert type(error).__name__ in str(found)
    assert not [t for t in threading.enumerate() if t.name == "merit-reader"]


def test_two_clients_at_once(model, speech):
    wavs = [speech[: 8000 + 3000 * k] for k in range(4)]
    expected = [model.analyze(wav) for wav in wavs]
    found = [None] * len(wavs)

    def client(k):
        for _ in range(3):
            found[k] = model.analyze(wavs[k])

    clients = [threading.Thread(target=client, args=(k,)) for k in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    for ours, wanted in zip(found, expected):
        torch.testing.assert_close(ours.enhanced, wanted.enhanced)
        assert ours.emotion == wanted.emotion


# ---- loading --------------------------------------------------------------


@pytest.mark.slow
def test_loading_needs_no_network_and_makes_no_link(folder, tmp_path):
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from merit_modules.inference import SparseMERIT\n"
        f"model = SparseMERIT.from_hparams(source={str(folder)!r})\n"
        "print(model.labels, model.sample_rate_hz)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(LABELS))
    assert not list(tmp_path.iterdir())
    assert not [path for path in folder.iterdir() if path.is_symlink()]


def test_a_copy_of_the_files(folder, tmp_path):
    savedir = tmp_path / "copy"
    model = SparseMERIT.from_hparams(source=folder, savedir=savedir)
    sizes = [path.stat().st_size for path in savedir.iterdir()]
    assert max(sizes) == (folder / "model.safetensors").stat().st_size
    assert not any(path.is_symlink() for path in savedir.iterdir())
    assert model.labels == LABELS


def test_loading_costs_no_random_numbers(folder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    SparseMERIT.from_hparams(source=folder)
    assert torch.equal(torch.rand(1), expected)


def test_speechbrain_loads_it_too(folder, speech):
    theirs = Pretrained.from_hparams(source=str(folder))
    ours = SparseMERIT.from_hparams(source=folder)
    with torch.no_grad():
        output = theirs.mods.system(speech[None])
    out_prob, *_ = ours.classify_batch(speech[None])
    torch.testing.assert_close(output.logits.softmax(dim=-1), out_prob)


def test_no_model_there(tmp_path):
    with pytest.raises(InputError, match="hyperparams.yaml: no such file"):
        SparseMERIT.from_hparams(source=tmp_path)
    (tmp_path / "hyperparams.yaml").write_text("a: [")
    with pytest.raises(InputError, match="expected the folder of a model"):
        SparseMERIT.from_hparams(source=tmp_path)


# ---- systems that lack something ------------------------------------------


def interface(system, **hparams):
    hparams = {"labels": LABELS, "sample_rate_hz": 16000, **hparams}
    return SparseMERIT(
        modules={"system": system}, hparams=hparams, run_opts={"device": "cpu"}
    )


def test_one_task_alone(speech):
    system = tiny_system()
    system.se_head = None
    model = interface(system)
    found = model.analyze(speech)
    assert found.enhanced is None and found.emotion.label in LABELS
    assert model.analyze_batch(speech[None]).enhanced is None
    with pytest.raises(InputError, match="cannot enhance speech; it can rec"):
        model.enhance(speech)
    system = tiny_system()
    system.ser_head = None
    model = interface(system, labels=[])
    found = model.analyze(speech)
    assert found.emotion is None and found.timeline == []
    assert found.enhanced.shape == speech.shape
    with pytest.raises(InputError, match="cannot recognise emotions; it can"):
        model.classify_batch(speech[None])


def test_a_cascade(speech):
    torch.manual_seed(3)
    cascade = CascadeSystem(tiny_system(), "noisy", tiny_system()).eval()
    model = interface(cascade)
    found = model.analyze(speech)
    with torch.no_grad():
        output = cascade(speech[None])
        enhanced = cascade.enhanced_wavs(output, len(speech))
    torch.testing.assert_close(found.enhanced, enhanced[0])
    probabilities = torch.tensor([list(found.emotion.probabilities.values())])
    torch.testing.assert_close(probabilities, output.logits.softmax(dim=-1))
    torch.testing.assert_close(model.enhance(speech), enhanced[0])
    assert model.classify(speech).label == found.emotion.label


def test_a_cascade_in_windows(speech):
    """Emotion is heard in what was enhanced, window by window."""
    torch.manual_seed(3)
    cascade = CascadeSystem(tiny_system(), "noisy", tiny_system()).eval()
    model = interface(cascade)
    model.chunking = SHORT
    found = model.analyze(speech)
    assert found.enhanced.shape == speech.shape
    torch.testing.assert_close(model.enhance(speech), found.enhanced)
    behind = interface(cascade.ser_system)
    behind.chunking = SHORT
    heard = behind.analyze(found.enhanced)
    assert_same_emotion(heard.emotion, found.emotion)
    assert torch.equal(heard.routing["ser"], found.routing["ser"])
    # Whether it is computed whole or in windows, routing is the listener's.
    batch = model.analyze_batch(speech[None])
    assert set(found.routing) == set(batch.routing) == {"ser"}
    assert_same_emotion(model.classify(speech), found.emotion)


def test_attributes(speech):
    model = interface(
        tiny_system(),
        labels=["act", "val", "dom", "x"],
        ser_target="attributes",
        attribute_scale=[1.0, 7.0],
    )
    found = model.analyze(speech)
    with torch.no_grad():
        (outputs,) = model.mods.system(speech[None]).logits
    values = torch.tensor(list(found.emotion.attributes.values()))
    torch.testing.assert_close(values, 4.0 + 3.0 * outputs)
    assert set(found.timeline[0].as_dict()) == {
        "start_s",
        "end_s",
        "attributes",
    }
    batch = model.analyze_batch(speech[None])
    assert batch.text_lab is None and batch.out_prob.shape == (1, 4)
    with pytest.raises(InputError, match="estimates attributes, not classes"):
        model.classify_batch(speech[None])

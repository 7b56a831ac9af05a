"""Released files that are broken or hostile: told by name, never run."""

import builtins
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from hypothesis import given, settings
from hypothesis import strategies as st

from merit_modules.errors import InputError
from merit_modules.released import convert, load_release, read_release
from merit_modules.released import files as source
from merit_modules.released.files import read_part, read_torch_file
from merit_modules.released.parts import PARTS
from merit_modules.released.pickles import read_statistics
from tests.helpers.releases import (
    edit,
    head_tensors,
    mmoe_tensors,
    wavlm_tensors,
    write_model,
    write_pretrained,
)


@pytest.fixture
def model(tmp_path):
    rest = mmoe_tensors(), head_tensors()
    return write_model(tmp_path / "model", wavlm_tensors(), *rest)


def pickled(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark, how="system"):
        self.mark, self.how = str(mark), how

    def __reduce__(self):
        if self.how == "system":
            return os.system, (f"touch {self.mark}",)
        if self.how == "eval":
            return builtins.eval, (f"open({self.mark!r}, 'w').close()",)
        return builtins.__import__, ("antigravity",)


HOSTILE = [
    lambda mark: Runs(mark),
    lambda mark: Runs(mark, "eval"),
    lambda mark: Runs(mark, "import"),
    lambda mark: (0.0, Runs(mark)),
    lambda mark: ((0.0, 1.0), [Runs(mark)]),
    lambda mark: {"mean": 0.0, "std": Runs(mark)},
]


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize("protocol", range(6))
def test_hostile_statistics_do_not_run(model, tmp_path, make, protocol):
    mark = tmp_path / "it_ran"
    path = model / "train_norm_stat.pkl"
    pickled(path, make(mark), protocol)
    with pytest.raises(InputError, match="train_norm_stat.pkl: .*only numb"):
        read_statistics(path)
    with pytest.raises(InputError, match=r"(system|eval|__import__|DICT)"):
        read_release(model)
    assert not mark.exists()


def test_the_hostile_files_would_have_run(tmp_path):
    mark = tmp_path / "it_ran"
    pickle.loads(pickle.dumps(HOSTILE[0](mark)))
    assert mark.exists()


@pytest.mark.parametrize("file", ["final_ssl.pt", "final_se.pt"])
@pytest.mark.parametrize("make", HOSTILE)
def test_hostile_tensors_do_not_run(model, tmp_path, file, make):
    mark = tmp_path / "it_ran"
    torch.save({"model": make(mark)}, model / file)
    with pytest.raises(InputError, match=file):
        load_release(model)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_hostile_file_with_tensors_in_it(tmp_path, legacy):
    mark, path = tmp_path / "it_ran", tmp_path / "pretrained_se.pth.tar"
    torch.save(
        {"model": {"w": torch.ones(2)}, "more": Runs(mark)},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(InputError, match="pretrained_se.pth.tar: refused"):
        read_torch_file(path)
    assert not mark.exists()


def test_hostile_bare_pickle_named_as_torch_file(tmp_path):
    mark = tmp_path / "it_ran"
    path = pickled(tmp_path / "final_ser.pt", Runs(mark))
    with pytest.raises(InputError, match="final_ser.pt"):
        read_part("ser", path)
    assert not mark.exists()


def test_statistics_that_change_the_reader(tmp_path):
    """A pickle cannot leave anything behind for the next one."""
    path = tmp_path / "a.pkl"
    # scalar's stand-in, then BUILD with a state of attributes
    attack = b"\x80\x02cnumpy.core.multiarray\nscalar\n"
    attack += b"NX\x09\x00\x00\x00_functionK\x01\x86b."
    path.write_bytes(attack)
    with pytest.raises(InputError):
        read_statistics(path)
    pickled(path, (np.float32(0.5), np.float32(2.0)))
    assert read_statistics(path) == (0.5, 2.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"not a pickle",
        b"\x80\x04.",
        b"\x80\x04K\x01r\xff\xff\xff\x7f.",  # room for 2**31 memo entries
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02(K\x01K\x02iposix\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pid\n.",
    ],
)
def test_broken_statistics(tmp_path, content):
    path = tmp_path / "train_norm_stat.pkl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="train_norm_stat.pkl"):
        read_statistics(path)


@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused_or_two_numbers(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any_bytes.pkl"
    path.write_bytes(content)
    try:
        mean, std = read_statistics(path)
    except InputError:
        return
    assert isinstance(mean, float) and std > 0


@given(number=st.integers(0, 130), byte=st.binary(min_size=1, max_size=4))
def test_a_changed_byte_is_refused_or_two_numbers(
    tmp_path_factory, number, byte
):
    content = pickle.dumps((np.float32(0.5), np.float32(2.0)), protocol=4)
    content = content[:number] + byte + content[number + len(byte) :]
    path = tmp_path_factory.getbasetemp() / "changed.pkl"
    path.write_bytes(content)
    try:
        mean, std = read_statistics(path)
    except InputError:
        return
    assert isinstance(mean, float) and std > 0


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "kind",
    [
        float,
        np.float16,
        np.float32,
        np.float64,
        np.dtype(">f8").type,
        np.array,
        lambda number: np.array([number], dtype=">f4"),
        lambda number: np.array([[number]], dtype=np.float64),
    ],
)
@pytest.mark.parametrize("pair", [tuple, list])
def test_all_ways_to_write_two_numbers(tmp_path, protocol, kind, pair):
    path = tmp_path / "train_norm_stat.pkl"
    pickled(path, pair([kind(-0.25), kind(0.5)]), protocol)
    assert read_statistics(path) == (-0.25, 0.5)
    pickled(path, pair([kind(0), np.int16(3)]), protocol)
    assert read_statistics(path) == (0.0, 3.0)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_both_generations_of_numpy(tmp_path, core):
    name = f"c{core}.multiarray\nscalar\n".encode()
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8I00\nI01\ntR"
    dtype += b"(I3\nX\x01\x00\x00\x00>NNNI-1\nI-1\nI0\ntb"

    def number(value):
        return name + b"(" + dtype + b"C\x08" + struct.pack(">d", value) + b"tR"

    path = tmp_path / "train_norm_stat.pkl"
    path.write_bytes(b"\x80\x03" + number(0.125) + number(1.5) + b"\x86.")
    assert read_statistics(path) == (0.125, 1.5)


@pytest.mark.parametrize(
    "value",
    [
        (0.0, 0.0),
        (0.0, -1.0),
        (0.0, float("nan")),
        (float("inf"), 1.0),
        (0.0, True),
        (0.0, "1.0"),
        (0.0,),
        (0.0, 1.0, 2.0),
        1.0,
        None,
        (0.0, (1.0,)),
        (0.0, np.array([1.0, 2.0])),
        (0.0, np.array(["a"])),
        (0.0, np.array([None])),
        (0.0, np.complex64(1.0)),
        (0.0, np.longdouble(1.0)),
        (0.0, torch.tensor(1.0)),
        b"x" * 5000,
    ],
)
def test_statistics_that_are_not_two_numbers(tmp_path, value):
    path = pickled(tmp_path / "train_norm_stat.pkl", value)
    with pytest.raises(InputError, match="train_norm_stat.pkl"):
        read_statistics(path)


# Tensors that do not fit


def test_everything_that_does_not_fit_is_listed(model):
    def ssl(state):
        del state["encoder.layers.1.fc2.bias"]
        state["encoder.layers.0.fc1.bias"] = torch.ones(21)
        state["label_embs_concat"] = torch.ones(2)

    def mmoe(state):
        del state["layer_norms.0.weight"]
        state["experts.2.fc1.weight"] = torch.ones(9, 5)
        state["gates.2.fc.bias"] = torch.ones(4)

    def ser(state):
        state["out.0.bias"] = torch.ones(3)

    def se(state):
        del state["lstm_enc.1.blstm.bias_ih_l1"]
        state["lstm_enc.3.weight"] = torch.ones(1)

    edit(model / "final_ssl.pt", ssl)
    edit(model / "final_mmoe.pt", mmoe)
    edit(model / "final_ser.pt", ser)
    edit(model / "final_se.pt", se)
    with pytest.raises(InputError) as caught:
        load_release(model)
    found = str(caught.value).replace(f"{model}{os.sep}", "").split("; ")
    assert sorted(found) == [
        "final_mmoe.pt: experts.2.fc1.weight: expected (9, 36), got (9, 5)",
        "final_mmoe.pt: gates.2.fc.bias: not expected",
        "final_mmoe.pt: layer_norms.0.weight: missing",
        "final_se.pt: lstm_enc.1.blstm.bias_ih_l1: missing",
        "final_se.pt: lstm_enc.3.weight: not expected",
        "final_ser.pt: out.0.bias: expected (2,), got (3,)",
        "final_ssl.pt: encoder.layers.0.fc1.bias: expected (20,), got (21,)",
        "final_ssl.pt: encoder.layers.1.fc2.bias: missing",
        "final_ssl.pt: label_embs_concat: not expected",
    ]


@pytest.mark.slow
@settings(max_examples=25)
@given(data=st.data())
def test_any_missing_tensor_is_named(tmp_path_factory, data):
    heads = head_tensors()
    states = [wavlm_tensors(), mmoe_tensors(), *heads]
    which = data.draw(st.integers(0, 4))
    names = [n for n in states[which] if which != 4 or n != "weights"]
    name = data.draw(st.sampled_from(names))
    del states[which][name]
    folder = tmp_path_factory.mktemp("release")
    write_model(folder, states[0], states[1], states[2:])
    with pytest.raises(InputError, match=f"{name}: missing"):
        load_release(folder)


def test_files_of_different_models(model):
    pool, ser, se = head_tensors(size=8)
    torch.save({"model": pool}, model / "final_pool.pt")
    mmoe = mmoe_tensors(layers=3)
    torch.save({"model": mmoe}, model / "final_mmoe.pt")
    with pytest.raises(InputError) as caught:
        load_release(model)
    message = str(caught.value)
    assert "final_pool.pt: attention: expected (7, 1), got (8, 1)" in message
    assert "final_mmoe.pt: layer_norms.3.bias: not expected" in message


def test_second_hidden_layer_is_not_supported(model):
    extra = {"fc.1.0.weight": torch.ones(5, 5)}
    edit(model / "final_ser.pt", lambda state: state.update(extra))
    with pytest.raises(InputError, match="final_ser.pt: fc: .*got 2"):
        load_release(model)


def test_prefix_is_part_of_the_name(tmp_path):
    heads = head_tensors()
    del heads[2]["lstm_enc.2.bias"]
    write_pretrained(tmp_path, wavlm_tensors(), heads)
    with pytest.raises(InputError, match="model_SE.lstm_enc.2.bias: missing"):
        load_release(tmp_path)


@pytest.mark.parametrize(
    "name, tensor, reason",
    [
        ("out.0.bias", 3.0, "expected a tensor, got a float"),
        ("out.0.bias", torch.ones(2).long(), "expected real numbers"),
        ("out.0.bias", torch.ones(1).expand(10**9), "fewer numbers"),
        ("out.0.bias", torch.ones(2).to_sparse(), "expected real numbers"),
        ("fc.0.0.weight", torch.ones(0, 14), r"expected \(5, 14\)"),
    ],
)
def test_what_is_no_weight(model, name, tensor, reason):
    edit(model / "final_ser.pt", lambda state: state.update({name: tensor}))
    with pytest.raises(InputError, match=f"final_ser.pt: {name}: .*{reason}"):
        load_release(model)


def test_a_name_alone_does_not_make_a_model_huge(model):
    name = "encoder.layers.999999999.fc1.bias"
    extra = {name: torch.ones(20)}
    edit(model / "final_ssl.pt", lambda state: state.update(extra))
    with pytest.raises(InputError, match=f"{name}: not expected"):
        load_release(model)


# Files that are not there


def test_missing_files_are_listed(model):
    (model / "final_pool.pt").unlink()
    (model / "train_norm_stat.pkl").unlink()
    with pytest.raises(InputError) as caught:
        read_release(model)
    assert "final_pool.pt: missing" in str(caught.value)
    assert "train_norm_stat.pkl: missing" in str(caught.value)


def test_final_files_are_not_filled_up_with_pretrained_ones(model):
    write_pretrained(
        model / "pretrained_models", wavlm_tensors(), head_tensors()
    )
    (model / "final_se.pt").unlink()
    with pytest.raises(InputError, match="final_se.pt: missing"):
        read_release(model)


def test_several_models(model):
    other = model.parent / "other"
    write_model(other, wavlm_tensors(), mmoe_tensors(), head_tensors())
    with pytest.raises(InputError, match="several models.*model, other"):
        read_release(model.parent)


def test_pooling_without_classifier(tmp_path):
    write_pretrained(tmp_path, wavlm_tensors(), head_tensors())
    (tmp_path / "pretrained_ser.pt").unlink()
    with pytest.raises(InputError, match="pretrained_ser.pt: missing"):
        read_release(tmp_path)


def test_nothing_is_there(tmp_path):
    with pytest.raises(InputError, match="expected the folder"):
        load_release(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found neither"):
        load_release(tmp_path)


def test_a_name_on_the_hub_is_fetched(model, tmp_path, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        return str(model)

    monkeypatch.setattr(source, "snapshot_download", fetch)
    release = read_release("owner/some-model.v1")
    assert release.folder == model and asked == ["owner/some-model.v1"]
    # A folder of that name goes first.
    (tmp_path / "owner" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="owner/here: .*found neither"):
        read_release("owner/here")
    for wrong in ("nobody", "a/b/c", "nobody/", "../x y"):
        with pytest.raises(InputError, match="expected the folder.*owner"):
            read_release(wrong)
    assert asked == ["owner/some-model.v1"]


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    def fail(name):
        raise OfflineModeIsEnabled("Cannot reach it: offline.\nMore of that")

    monkeypatch.setattr(source, "snapshot_download", fail)
    with pytest.raises(InputError, match="owner/name: .*: offline.$"):
        load_release("owner/name")


def test_cut_file(model):
    path = model / "final_mmoe.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="final_mmoe.pt"):
        load_release(model)


def test_nothing_is_written_of_a_release_that_does_not_fit(model, tmp_path):
    edit(model / "final_ser.pt", lambda state: state.pop("out.0.bias"))
    with pytest.raises(InputError, match="out.0.bias: missing"):
        convert(model, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_cfg_that_is_no_dictionary(tmp_path):
    heads = head_tensors()
    write_pretrained(tmp_path, wavlm_tensors(), heads, cfg=["encoder_layers"])
    with pytest.raises(InputError, match="WavLM-Large.pt: cfg: .*got a list"):
        read_release(tmp_path)


def repack(path, method=zipfile.ZIP_DEFLATED):
    """Pack a torch file again, as some tools do."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_file_that_was_packed_again_reads_the_same(model, method):
    expected = {}
    for part in PARTS:  # copied, since they are mapped
        state = read_part(part, model / f"final_{part}.pt").state
        expected[part] = {name: t.clone() for name, t in state.items()}
    for part, state in expected.items():
        path = model / f"final_{part}.pt"
        repack(path, method)
        found = read_part(part, path).state
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


@given(st.data())
@settings(max_examples=40)
def test_a_changed_byte_of_a_tensor_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("zip") / "final_ser.pt"
    state = {"out.0.bias": torch.arange(64.0)}
    torch.save({"model": state}, path)
    if data.draw(st.booleans(), "packed again"):
        repack(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 999), "place") * len(content) // 1000
    content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(content)
    try:
        found = read_part("ser", path).state
    except InputError as error:
        assert "final_ser.pt" in str(error)
    else:  # of the padding, or of a date
        assert torch.equal(found["out.0.bias"], state["out.0.bias"])


def test_a_file_that_unpacks_to_gigabytes(tmp_path):
    path = tmp_path / "final_ser.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data/0", "w") as stream:
            for _ in range(64):
                stream.write(bytes(2**20))
    with pytest.raises(InputError, match=r"final_ser.pt: refused: it would"):
        read_part("ser", path)

"""One reader of tables: separators, encodings, names of columns, places."""

import csv
import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merit_modules.data.manifest import read_manifest
from merit_modules.data.noise.forms import find_noise
from merit_modules.data.table import read_table, read_text
from merit_modules.data.text import clean, trim
from merit_modules.errors import InputError

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
#: Text of cells: all but what belongs to no encoding or ends a line.
CELL = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8
)


def written(rows, delimiter=",", end="\n"):
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows(rows)
    return stream.getvalue()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL), max_size=4),
    delimiter=st.sampled_from(",;\t"),
    encoding=st.sampled_from(ENCODINGS),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    order=st.permutations(["wav", "Emo", "\ufeff note "]),
    says_so=st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path, rows, delimiter, encoding, end, order, says_so
):
    text = written([order, *rows], delimiter, end)
    if says_so:
        text = f"sep={delimiter}{end}{text}"
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(encoding))
    table = read_table(path, ["wav", "emo"])
    assert set(table.columns) == {"wav", "emo", "note"} and not table.problems
    expected = [[trim(cell) for cell in row] for row in rows]
    found = [list(row.cells.values()) for row in table.rows]
    assert found == [row for row in expected if any(row)]
    lines = [i + 2 + says_so for i, row in enumerate(expected) if any(row)]
    assert [row.line for row in table.rows] == lines


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_older_encodings_are_read_and_told(tmp_path, caplog, encoding, end):
    path = tmp_path / "list.csv"
    text = "wav;emo\na.wav;calm\nb.wav;gelöst\n".replace("\n", end)
    path.write_bytes(text.encode(encoding))
    rows = read_table(path, ["wav", "emo"]).rows
    assert rows[1] == (3, {"wav": "b.wav", "emo": "gelöst"})
    assert f"{path}, line 3: the byte 0xf6 is not UTF-8: read as cp1252" in (
        caplog.text
    )
    assert "b.wav;gelöst" in caplog.text


def test_bytes_that_cp1252_does_not_know(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(b"\x81\xe4")
    assert read_text(tmp_path / "a.txt") == "\x81ä"
    assert "read as latin-1" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("ä\nü\n".encode() + b"\xfc", "line 3: expected UTF-8 text as in other"),
        ("wav,emo".encode("utf-16-le"), "line 1: expected a CSV file, got byt"),
        (b"PK\3\4\0\0\xff\xe9", "line 1: cannot be read as utf-8"),
        (b"\xff\xfea", "line 1: cannot be read as utf-16"),
        (b"", "line 1, column wav: there is no such column.*got nothing"),
        (b"\n\n\nwave,emo\n", "line 4, column wav: .* got wave, emo"),
        (b"wav,emo,\xef\xbb\xbfEMO \n", "line 1, column emo: expected one such"),
        (b'wav,emo\na,b\n"c,d\n', "line 3: cannot be read as CSV: unexpected"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path, data, message):
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_table(path, ["wav", "emo"])
    assert str(error.value).startswith(str(path))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.binary(max_size=60), header=st.booleans())
def test_no_bytes_are_a_traceback(tmp_path, data, header):
    path = tmp_path / "list.csv"
    path.write_bytes(b"wav,emo\n" * header + data)
    try:
        read_table(path, ["wav", "emo"])
    except InputError as error:
        assert str(error).startswith(f"{path}, line ")


def test_rows_that_do_not_fit(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("wav,emo,note\na,b\nc\nd,e,f,g\nh,i,,,,\n\n,,\nj,\n")
    table = read_table(path, ["wav", "emo"])
    assert [row.line for row in table.rows] == [2, 5, 8]
    assert table.rows[0].cells == {"wav": "a", "emo": "b", "note": ""}
    assert [*table.problems.values()] == [
        f"{path}, line 3: expected 3 cells, as in the first line, got 1",
        f"{path}, line 4: expected 3 cells, as in the first line, got 4",
    ]


def test_decimal_commas(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("wav;s\na,b;1,5\n")
    (row,) = read_table(path, ["wav"], ["s"], numbers=["s"]).rows
    assert row.cells == {"wav": "a,b", "s": "1.5"}


@pytest.mark.parametrize("encoding", [*ENCODINGS, "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lists_of_noise_alike(tmp_path, encoding, delimiter):
    rows = [[" id", "Length ", "WAV"], ["n1", "2.5", "$root/Türknall.wav"]]
    path = tmp_path / "noise.CSV"
    path.write_bytes(written(rows, delimiter).encode(encoding))
    assert read_manifest(path, "/noise", "noise")["n1"] == {
        "length": "2.5",
        "wav": "/noise/Türknall.wav",
        "duration": 2.5,
        "noise_type": "noise",
    }
    for name in ("audio/1-100032-A-17.wav", "meta/esc50.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    rows = [["Category", "filename", "target "], ["Straßenlärm", "x", " 17"]]
    text = written(rows, delimiter)
    (tmp_path / "meta" / "esc50.csv").write_bytes(text.encode(encoding))
    ((_, origin),) = find_noise(tmp_path, "esc50").values()
    assert origin.noise_type == "Straßenlärm"


def test_ids_that_come_twice_and_speakers_that_are_none(tmp_path):
    path = tmp_path / "a.csv"
    head = "ID,duration,wav,emo,spk_id\n"
    path.write_text(f"{head}a,1,a.wav,sad,nan\nb,1,b.wav,sad,b\n")
    entries = read_manifest(path, "/x")
    assert [entry["spk_id"] for entry in entries.values()] == [None, "b"]
    path.write_text(f"{head}a,1,a.wav,sad,\na,1,b.wav,sad,b\n")
    with pytest.raises(InputError, match="line 3, column ID: 'a' came before"):
        read_manifest(path, "/x")


def test_names_of_columns_are_shown_as_they_are(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("wav, Ünote \n")
    assert read_table(path, ["WAV"]).columns == ["WAV", clean("Ünote")]

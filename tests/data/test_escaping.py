"""Names from outside, whatever they are, where they are printed."""

import csv
import io
import json
import logging
import re
import unicodedata
from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from merit_modules.data.escaping import (
    _Record,
    escape_logs,
    html,
    latex,
    markdown,
    spreadsheet,
    terminal,
)

EVERYWHERE = [terminal, html, markdown, latex, spreadsheet]
#: Text of what matters, and of all else.
NAMES = st.text() | st.text(
    "aZ09ä -+=@.,;:'\"`<>&#|\\/*_~^$%[](){}!\t\r\n\x1b\x7f\x9b\u202e\uff1d"
)
ORDINARY = [
    *("speech.wav", "03-01-06_Grün.wav", "snr_0dB", "R&D", "Ärger", "Ola Å."),
    *(
        "WavLM-base+",
        "unseen_-5dB",
        "a_b_",
        "می‌خواهم",
        "happy 😀",
        "EMO-DB",
        "2026-11",
    ),
]
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
NUMBERS = ["-5", "-0.25", "+3", "1e-5", "-1.5E+3", ".5", -5, 2.5, None]


def unseen(text, besides=""):
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return [
        c
        for c in text
        if unicodedata.category(c) in kinds
        and c not in "\u200c\u200d" + besides
    ]


@pytest.mark.parametrize("escape", EVERYWHERE)
@given(name=NAMES)
def test_no_control_character_survives(escape, name):
    shown = escape(name)
    assert not unseen(shown, "\n" if escape in (html, spreadsheet) else "")
    shown.encode()  # no half of a surrogate pair, either


@pytest.mark.parametrize("escape", [terminal, spreadsheet])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_are_left(escape, name):
    assert escape(name) == name


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_are_shown(name):
    assert unescape(html(name)) == name
    assert markdown(name) == name
    assert latex(name).replace("\\", "") == name


@given(NAMES)
def test_html_is_text(name):
    shown = html(name)
    assert not set(shown) & set("<>\"'")
    assert unescape(shown) == terminal(name, keep="\n")


@given(NAMES, NAMES)
@example("a|b", "\\|")
@example("<javascript:alert(1)>", "[x](javascript:alert(1))")
@example("![x](y)", "`|`")
@example("&lt;b&gt;", "__init__ ~~a~~ **b**")
def test_markdown_is_text_and_cells_stay_cells(left, right):
    reader = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    reader.enable("table")
    text = f"| a | b |\n|---|---|\n| x{markdown(left)} | x{markdown(right)} |\n"
    kinds, cells = [], []
    for token in reader.parse(text):
        kinds.append(token.type)
        if token.type == "inline":
            assert {child.type for child in token.children} <= {
                *("text", "text_special", "softbreak"),
            }
            cells.append("".join(c.content for c in token.children))
    assert kinds.count("td_open") == 2 and "html_block" not in kinds
    expected = ["x" + terminal(" ".join(n.split())) for n in (left, right)]
    assert cells[2:] == expected


@given(NAMES)
def test_latex_is_text(name):
    shown = latex(name)
    # What is left without known escapes has no special character.
    known = r"\\[{}$&#_%]|\\text\w+\{\}|\\symbol\{34\}|\{[\[\]*]\}"
    assert not set(re.sub(known, "", shown)) & set('\\{}$&#_%~^<>|"[]*\n')


@given(NAMES)
@example("=cmd|'/C calc'!A0.wav")
@example("a;=cmd|'/C calc'!A0.wav")
@example("\t=1+1")
@example("'=1")
def test_no_cell_is_a_formula(name):
    if NUMBER.fullmatch(name):
        return
    stream = io.StringIO()
    csv.writer(stream).writerow([spreadsheet(name), "a"])
    for separator in ",;":
        stream.seek(0)
        for cell in next(csv.reader(stream, delimiter=separator)):
            assert (cell.strip() or " ")[0] not in "=+-@\t\r＝＋－＠"


@given(NAMES, NAMES)
def test_what_begins_a_formula_stays_different(one, other):
    one, other = terminal(one, '\n'), terminal(other, '\n')
    same = spreadsheet(one) == spreadsheet(other)
    assert same == (one == other)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_stay_numbers(number):
    assert spreadsheet(number) == number


@given(st.dictionaries(NAMES, NAMES))
def test_json_stays_what_it_is(told):
    """Half surrogate pairs, too, which no UTF-8 file could hold."""
    text = terminal(json.dumps(told, ensure_ascii=False))
    assert json.loads(text) == told
    text.encode()


def test_logs_are_shown_as_they_are(caplog):
    before = logging.getLogRecordFactory()
    try:
        escape_logs()
        with caplog.at_level(logging.INFO):
            logging.getLogger("any").info("%s:\n\x1b[2J%d", "a\u202eb", 3)
    finally:
        logging.setLogRecordFactory(before)
    (record,) = caplog.records
    assert isinstance(record, _Record)
    assert caplog.messages == ["a\\u202eb:\n\\u001b[2J3"]

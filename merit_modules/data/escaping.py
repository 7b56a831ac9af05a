"""Names from outside, made harmless for the place where they are printed.

A file, a class or a corpus may be called anything: ``<script>``, ``=cmd|...``,
or what clears a terminal. There is a function for each place; of ordinary
names none changes a letter.
"""

import html as _html
import json
import logging
import re
import unicodedata

# Control, format (bidirectional overrides among them) and surrogate characters
# and separators of lines: what moves, hides or breaks the text around it.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji

# Code, emphasis, links and cells; after a letter, "_" opens no emphasis.
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_LATEX = {c: f"\\{c}" for c in "{}$&#_%"} | {
    **{c: f"{{{c}}}" for c in "[]*"},  # options of the command before
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
# Where a cell begins: also after what some countries have for the comma. A
# full-width sign is taken for the other one.
_FORMULA = re.compile(r"(^|;)(\s*)(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])")


def terminal(text, keep=""):
    r"""Spell out what a terminal would obey instead of showing it.

    Arguments
    ---------
    text : str
        Any text.
    keep : str
        Of those characters, the ones to leave: ``"\n"`` in messages of
        several lines.

    Returns
    -------
    str
        The text, with escapes as in JSON: JSON stays what it was.

    Example
    -------
    >>> print(terminal("Glück\x1b[2J\u202evaw.exe"))
    Glück\u001b[2J\u202evaw.exe
    """
    keep += _JOINERS
    return "".join(
        _spelt(c) if unicodedata.category(c) in _UNSEEN and c not in keep else c
        for c in str(text)
    )


def _spelt(character):
    # JSON leaves the delete character, the last of ASCII, as it is.
    return json.dumps(character)[1:-1].replace("\x7f", r"\u007f")


def html(text):
    r"""Escape text for HTML, between tags or in a quoted attribute.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    str
        HTML; lines stay lines.

    Example
    -------
    >>> html('<b>"')
    '&lt;b&gt;&quot;'
    """
    return _html.escape(terminal(text, keep="\n"))


def markdown(text):
    r"""Escape text for a cell of a Markdown table, or within a line.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    str
        Markdown in one line that shows the text: no markup, no HTML, no link
        but to a web address.

    Example
    -------
    >>> print(markdown("a|b <script> [x](javascript:1) snr_5 *"))
    a\|b &lt;script> \[x\](javascript:1) snr_5 \*
    """
    line = terminal(" ".join(str(text).split()))
    line = _ENTITY.sub("&amp;", _MARKDOWN.sub(r"\\\g<0>", line))
    return line.replace("<", "&lt;")


def markdown_code(text):
    r"""Escape text for Markdown and set it as code.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    str
        Markdown in one line.

    Example
    -------
    >>> print(markdown_code("a`b*"))
    `a'b*`
    """
    line = terminal(" ".join(str(text).split()))
    return "`" + line.replace("`", "'") + "`"


def latex(text):
    r"""Escape text for LaTeX, outside of mathematics.

    Arguments
    ---------
    text : str
        Any text.

    Returns
    -------
    str
        LaTeX in one line.

    Example
    -------
    >>> print(latex("50 % of snr_5"))
    50 \% of snr\_5
    """
    line = terminal(" ".join(str(text).split()))
    return "".join(_LATEX.get(c, c) for c in line)


def spreadsheet(value):
    r"""Escape a cell of a CSV table that people open in a spreadsheet.

    Text that would be taken for a formula gets an apostrophe before it.

    Arguments
    ---------
    value : object
        Text, or a number, which stays one. Lines stay lines.

    Returns
    -------
    object
        The cell.

    Example
    -------
    >>> print(spreadsheet("=cmd|'/C calc'!A0"), spreadsheet("-5.5"))
    '=cmd|'/C calc'!A0 -5.5
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1\2'", terminal(value, keep="\n"))


class _Record(logging.LogRecord):
    """A log record whose message is shown as it is."""

    def getMessage(self):
        """Give the message; lines stay lines."""
        return terminal(super().getMessage(), keep="\n\t")


def escape_logs():
    """Have all that this process logs from now on spelt out.

    Example
    -------
    >>> escape_logs()
    """
    logging.setLogRecordFactory(_Record)

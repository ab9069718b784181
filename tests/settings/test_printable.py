"""Text of others as terminals and logs may show it."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import unicodedata

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from settings import logs
from settings.printable import printable, printable_json, printable_lines
from settings.sink import Sink

BIDIRECTIONAL = {"AL", "R", "RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"} - {"AL", "R"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;T\x07", "\\x1b]0;T\\x07"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
        ("\x7f\x80\x9b2J\x9f", "\\x7f\\x80\\x9b2J\\x9f"),
        ("\u202eexe.\u2066\u200f\u061c", "\\u202eexe.\\u2066\\u200f\\u061c"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud83d", "\\ud83d"),
        # On the other side of each limit:
        (" ~\xa0\u2010\u202f\u2065\u206a", " ~\xa0\u2010\u202f\u2065\u206a"),
        ("日本語 naïve 👩\u200d🎨 عربي", "日本語 naïve 👩\u200d🎨 عربي"),
    ],
)
def test_active_characters_are_spelled_out_and_no_others(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_keep_their_ends_and_tabs() -> None:
    assert printable_lines("a\n\tb\x1b\r\n") == "a\n\tb\\x1b\\x0d\n"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for char in printable(text):
        assert unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}
        assert unicodedata.bidirectional(char) not in BIDIRECTIONAL


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_json_document_keeps_its_value(value: object) -> None:
    document = json.dumps(value, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass")
    shown = printable_json(document)
    assert json.loads(shown) == value
    assert all(unicodedata.category(char) != "Cc" or char == "\n" for char in shown.decode())


def test_the_log_on_a_terminal_spells_out_and_shows_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    main, side = pty.openpty()
    with os.fdopen(side, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        logger = logs.Logger()
        held = "a-secret-value"
        try:
            raise ValueError("bad \x1b[2J text")
        except ValueError:
            logger.exception(
                "look\n2026 [error] forged", path="n\x1b]0;NAME\x07", more={"k": "\x1b[2J"}, length=len(held)
            )
        logger.warning("more", title="\u202egpj.exe")
        terminal.flush()
        shown = ""
        while "gpj.exe" not in shown:
            shown += os.read(main, 1 << 16).decode()
    structlog.reset_defaults()
    os.close(main)
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown.replace("\r\n", "\n"))
    assert "\x1b" not in plain and "\u202e" not in plain and "\x07" not in plain
    assert "n\\x1b]0;NAME\\x07" in plain and "bad \\x1b[2J text" in plain and "\\u202egpj.exe" in plain
    assert "look\\x0a2026" in plain and held not in plain


def test_what_a_library_prints_is_spelled_out_and_a_line_of_ours_is_not() -> None:
    reader, writer = os.pipe()
    sink = Sink(writer)
    print("\rloading \x1b[2J", file=sink)
    sink.put("\x1b[1mours\x1b[0m\n")
    sink.finish(10)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "\\x0dloading \\x1b[2J\n\x1b[1mours\x1b[0m\n"

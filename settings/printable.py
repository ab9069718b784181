"""Text of others as a terminal and a log may show it: what would move, colour, reorder or end a line is spelled out.

Decides which characters are shown as their escapes. Files, peers and libraries are where such text comes from.
"""

from __future__ import annotations

import re

_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROLS = "\x00-\x1f\x7f-\x9f"
_SEPARATORS = "\u2028\u2029"
_HIDDEN = "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
_HALVES = "\ud800-\udfff"
_ACTIVE = re.compile(f"[{_CONTROLS}{_BIDIRECTIONAL}{_SEPARATORS}{_HIDDEN}{_HALVES}]")
_ACTIVE_IN_LINES = re.compile(f"(?![\n\t])[{_CONTROLS}{_BIDIRECTIONAL}{_SEPARATORS}{_HIDDEN}{_HALVES}]")


def printable(text: str) -> str:
    """One line of text: control characters, C1 and line ends too, and bidirectional marks as `\\x1b`, `\\u202e`."""
    return _ACTIVE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines: its line ends and tabs stay."""
    return _ACTIVE_IN_LINES.sub(_escaped, text)


def printable_json(document: bytes) -> bytes:
    """A JSON document of the same value in which such characters within strings are `\\uNNNN`; indentation stays."""
    if not (document.isascii() and b"\x7f" not in document):
        return _ACTIVE_IN_LINES.sub(_json_escaped, document.decode()).encode()
    return document


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))

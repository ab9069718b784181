"""Text from disk that is no Unicode: file names in another encoding, JSON with halves of surrogate pairs.

Neither JSON nor SQLite can say such text again, so it never gets past where it is read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

_HALF = re.compile("[\ud800-\udfff]")


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    return _HALF.search(text) is None


def cleaned(text: str) -> str:
    """The text with whole pairs joined and U+FFFD for every half of one."""
    return text if is_text(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown(path: Path | str) -> str:
    """A path, or a text about one, as text that can be written: `\\xNN` and `\\udNNN` for what is none."""
    text = str(path)
    if is_text(text):
        return text
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def holds_text(value: object) -> bool:
    """Whether all text within JSON content, keys too, can be written as UTF-8. Content is not nested without end."""
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, dict):
        return all(is_text(key) and holds_text(item) for key, item in value.items())
    return not isinstance(value, list) or all(map(holds_text, value))

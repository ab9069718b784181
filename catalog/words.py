"""Words of text as a search sees them: without case, marks and punctuation.

Decides when a query matches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

WORD = re.compile(r"[^\W_]+")


def fold(text: str) -> str:
    """Text without case and marks: `Élan` becomes `elan`."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()


def words(text: str) -> list[str]:
    """The folded words of a text: runs of letters and digits."""
    return WORD.findall(fold(text))


def matches(query: str, texts: Iterable[str]) -> bool:
    """Whether every word of the query begins a word of the texts; an empty query matches all."""
    there = [word for text in texts for word in words(text)]
    return all(any(word.startswith(wanted) for word in there) for wanted in words(query))

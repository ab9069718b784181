"""Words of text as a search sees them: without case, marks and punctuation.

Decides which words have one stem, and which are one typo apart.
"""

from __future__ import annotations

import re
import unicodedata

WORD = re.compile(r"[^\W_]+")


def fold(text: str) -> str:
    """Text without case and marks: `Élan` becomes `elan`."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()


def words(text: str) -> list[str]:
    """The folded words of a text: runs of letters and digits."""
    return WORD.findall(fold(text))


_ENDINGS = (
    ("ies", "y"),
    ("sses", "ss"),
    ("ings", ""),
    ("ing", ""),
    ("ers", ""),
    ("er", ""),
    ("ed", ""),
    ("es", ""),
    ("ly", ""),
    ("s", ""),
    ("e", ""),
)
SHORTEST_STEM = 3
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def stem(word: str) -> str:
    """A folded word without a plural's or another common ending: `skies` and `sky` have one."""
    for ending, rest in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) + len(rest) >= SHORTEST_STEM and not word.endswith("ss"):
            return word[: -len(ending)] + rest
    return word


def typos(word: str) -> set[str]:
    """Every word that one typo makes of this one: a letter wrong, missing or added, or two neighbours swapped."""
    splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    missing = {left + right[1:] for left, right in splits if right}
    swapped = {left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1}
    wrong = {left + letter + right[1:] for left, right in splits if right for letter in _LETTERS}
    added = {left + letter + right for left, right in splits for letter in _LETTERS}
    return (missing | swapped | wrong | added) - {word}

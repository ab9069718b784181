"""The names of a file's tensors, asked often: whether one begins so, whether any could match a pattern."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable

END = 32
"""Letters at the end of a name in which its words are looked for: layers share them, whatever their numbers."""


class Names:
    """Sorted once: a beginning is found by bisection, and a pattern is tried only where one of its words occurs."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sorted = sorted(names)
        self._ends = "".join(f"{end}\n" for end in {name[-END:] for name in self._sorted})

    def begins(self, beginnings: Iterable[str]) -> bool:
        """Whether any name has one of these beginnings; an exact name begins itself."""
        for beginning in beginnings:
            place = bisect_left(self._sorted, beginning)
            if place < len(self._sorted) and self._sorted[place].startswith(beginning):
                return True
        return False

    def matching(self, pattern: re.Pattern[str], words: Iterable[str], beginnings: Iterable[str] = ()) -> list[str]:
        """The names that a pattern is found in, where any name begins so, or holds one of the words near its end.

        A name ends with a line's end.
        """
        if not any(word in self._ends for word in words) and not self.begins(beginnings):
            return []
        return [name for name in self._sorted if pattern.search(name)]

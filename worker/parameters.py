"""Free parameters of a command, each asked for by its name and bounds. Raises Fault INVALID_ARGUMENT naming the field.

What nobody asked for is unknown: whoever answers the command says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from protocol.errors import invalid

T = TypeVar("T", float, float | None)


class Parameters:
    """`field` is what errors put before a name; texts have at most `text_bytes`."""

    def __init__(self, given: Mapping[str, Any], field: str, text_bytes: int) -> None:
        self._given = given
        self._field = field
        self._text_bytes = text_bytes
        self._asked: set[str] = set()

    def text(self, name: str, otherwise: str) -> str:
        value = self._value(name)
        if value is None:
            return otherwise
        if not self._is_text(value):
            raise invalid(self._field + name, value, f"a text of at most {self._text_bytes} bytes")
        return str(value)

    def texts(self, name: str, otherwise: tuple[str, ...], most: int) -> tuple[str, ...]:
        """A list of texts, or one."""
        value = self._value(name)
        if value is None:
            return otherwise
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not 0 < len(found) <= most or not all(map(self._is_text, found)):
            raise invalid(self._field + name, value, f"1 to {most} texts of at most {self._text_bytes} bytes")
        return tuple(found)

    def number(self, name: str, otherwise: T, low: float, high: float) -> T:
        value = self._value(name)
        if value is None:
            return otherwise
        if not _is_number(value) or not low <= value <= high:
            raise invalid(self._field + name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def whole(self, name: str, otherwise: int | None, low: int, high: int, multiple: int = 1) -> int | None:
        """A whole number, 1.0 too."""
        value = self._value(name)
        if value is None:
            return otherwise
        if not _is_number(value) or not low <= value <= high or value != int(value) or int(value) % multiple:
            more = f", a multiple of {multiple}" if multiple > 1 else ""
            raise invalid(self._field + name, value, f"a whole number from {low} to {high}{more}")
        return int(value)

    def unknown(self) -> tuple[str, ...]:
        return tuple(sorted(self._given.keys() - self._asked))

    def _value(self, name: str) -> Any:
        self._asked.add(name)
        return self._given.get(name)

    def _is_text(self, value: object) -> bool:
        return isinstance(value, str) and len(value.encode("utf-8", "surrogatepass")) <= self._text_bytes


def _is_number(value: object) -> bool:
    """NaN is one that lies between no bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool)

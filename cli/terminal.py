"""What reaches the terminal: no markup and no control character of anybody's text, on any screen.

`readable` spells such characters out where a reply comes in, so that every width is right; `Terminal` is the last look.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from msgspec import Struct, structs
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from settings.printable import printable, printable_lines

T = TypeVar("T")

UNBOUND_COLUMNS = 200
"""The width of what goes into a pipe or a file, where nothing says another."""


class Terminal(Console):
    """A console that prints strings as they are; what slipped through with control characters loses them here."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        if not self.is_terminal and "width" not in options and not os.environ.get("COLUMNS"):
            self.width = UNBOUND_COLUMNS

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Every piece of a screen passes here on its way out."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable_lines(text), style)


def readable(value: T) -> T:
    """The value with all text within it as it may be shown; structs are copied, nothing is changed in place."""
    return cast(T, _readable(value))


def _readable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case Struct():
            changed = {name: _readable(getattr(value, name)) for name in value.__struct_fields__}
            return structs.replace(value, **changed)
        case dict():
            return {_readable(key): _readable(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return type(value)(_readable(item) for item in value)
        case _:
            return value

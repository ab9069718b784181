"""Tables that stay readable on any terminal: names are never broken while there is another way.

Where a row does not fit, columns that can be spared are left out; where that does not help, each row becomes lines of
its own, the first cell above the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

GAP = 2
LOOSE = 24
"""Characters that a column of sentences must have to stay beside the others."""

Cell = RenderableType


class Grid:
    """Rows under headings.

    `right`: columns of numbers; `spare`: columns left out first, in this order; `loose`: columns of sentences, which
    may be broken between words.
    """

    def __init__(
        self,
        *columns: str,
        right: Collection[str] = (),
        spare: Sequence[str] = (),
        loose: Collection[str] = (),
    ) -> None:
        self._columns = columns
        self._right, self._spare, self._loose = frozenset(right), tuple(spare), frozenset(loose)
        self._rows: list[tuple[Cell, ...]] = []

    def add_row(self, *cells: Cell) -> None:
        """One row, a cell for each column."""
        self._rows.append(tuple(Text(cell) if isinstance(cell, str) else cell for cell in cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept = self._fitting(console, options)
        yield self._cards() if kept is None else self._table(kept)

    def _fitting(self, console: Console, options: ConsoleOptions) -> list[int] | None:
        """The columns that fit beside one another, as many as can be; None where the first ones alone do not."""
        widths = [self._width(index, console, options) for index in range(len(self._columns))]
        spared = [self._columns.index(name) for name in self._spare]
        for count in range(len(spared) + 1):
            kept = [index for index in range(len(self._columns)) if index not in spared[:count]]
            if sum(widths[index] for index in kept) + GAP * (len(kept) - 1) <= options.max_width:
                return kept
        return None

    def _width(self, index: int, console: Console, options: ConsoleOptions) -> int:
        cells = (Text(self._columns[index]), *(row[index] for row in self._rows))
        wide = options.update(width=1 << 16)
        natural = max(Measurement.get(console, wide, cell).maximum for cell in cells)
        return min(natural, LOOSE) if self._columns[index] in self._loose else natural

    def _table(self, kept: Sequence[int]) -> Table:
        made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        for index in kept:
            name = self._columns[index]
            right = "right" if name in self._right else "left"
            made.add_column(name, justify=right, overflow="fold", no_wrap=name not in self._loose)  # type: ignore[arg-type]
        for row in self._rows:
            made.add_row(*(row[index] for index in kept))
        return made

    def _cards(self) -> Group:
        """Each row as lines of its own."""
        lines: list[RenderableType] = []
        for first, *others in self._rows:
            lines.append(first)
            if others:
                made = facts_table(indent=GAP)
                for name, cell in zip(self._columns[1:], others, strict=True):
                    if not isinstance(cell, Text) or cell.plain not in ("", "-"):
                        made.add_row(name.lower(), cell)
                lines.append(made)
        return Group(*lines)


def facts_table(indent: int = 0) -> Table:
    """A table of names and values without headings."""
    made = Table(box=None, show_header=False, pad_edge=indent > 0, padding=(0, GAP, 0, indent))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    return made


def facts(*rows: tuple[str, RenderableType]) -> Table:
    """Names and values, one a line."""
    made = facts_table()
    for name, value in rows:
        made.add_row(name, Text(value) if isinstance(value, str) else value)
    return made

"""A bar that shows a device's memory: what is in use, what idle models hold, what is free."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from protocol.enums import PressureLevel
from protocol.telemetry import MemoryPressure

COLOURS = {
    PressureLevel.NORMAL: "green",
    PressureLevel.ELEVATED: "yellow",
    PressureLevel.HIGH: "dark_orange",
    PressureLevel.CRITICAL: "red",
}


def level_text(pressure: MemoryPressure | None) -> Text:
    """The pressure's level and share."""
    if pressure is None:
        return Text("-", style="dim")
    return Text(f"{pressure.level.value} {pressure.pressure:.0%}", style=COLOURS[pressure.level])


class MemoryBar:
    """Cells in proportion to bytes: solid what is in use, half what idle models hold, light what is free."""

    def __init__(self, used: int, total: int, pressure: MemoryPressure | None, width: int = 20) -> None:
        reclaimable = min(pressure.reclaimable_bytes, used) if pressure else 0
        self.cells = cells(used - reclaimable, reclaimable, total, width)
        self.style = COLOURS[pressure.level] if pressure else "green"

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(sum(self.cells), options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = "#=." if options.ascii_only else "█▒░"
        busy, idle, free = self.cells
        yield Text.assemble(
            (marks[0] * busy, self.style), (marks[1] * idle, "cyan"), (marks[2] * free, "dim"), no_wrap=True, end=""
        )


def cells(busy: int, idle: int, total: int, width: int) -> tuple[int, int, int]:
    """How many of `width` cells each share gets; a share above nothing gets one."""
    if total <= 0:
        return 0, 0, width
    first = min(max(round(width * busy / total), 1 if busy > 0 else 0), width)
    second = min(max(round(width * idle / total), 1 if idle > 0 else 0), width - first)
    return first, second, width - first - second


class Bar:
    """A length in proportion to a value, `most` being the whole."""

    def __init__(self, value: float, most: float, width: int = 20) -> None:
        self.filled = cells(round(value * 1000), 0, round(most * 1000), width)[0]

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(self.filled, options.max_width) or 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(("#" if options.ascii_only else "█") * self.filled, style="green", no_wrap=True, end="")

"""A soak while it goes on, and what it proved."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.bars import Bar
from cli.screens.grid import Grid, facts
from cli.screens.residency import headline
from cli.units import duration
from soak.running import Standing
from soak.verdict import Verdict


def standing_view(standing: Standing) -> RenderableType:
    """How a soak goes."""
    gone = min(standing.elapsed, standing.seconds)
    counts = ", ".join(f"{count} {name}" for name, count in standing.counts.items())
    faults = ", ".join(f"{count} x {name}" for name, count in standing.faults.items())
    rows: list[tuple[str, RenderableType]] = [
        ("at", f"{duration(gone * 1000)} of {duration(standing.seconds * 1000)}"),
        ("", Bar(gone, standing.seconds, 40)),
        ("commands", counts or "-"),
        ("faults", faults or "-"),
        ("under way", str(standing.under_way)),
        ("findings", Text(str(standing.findings), style="red" if standing.findings else "green")),
    ]
    return facts(*rows)


def verdict_view(verdict: Verdict, folder: Path | None) -> RenderableType:
    """Each promise and whether it was kept, and what was done to the broker meanwhile."""
    word = "passed" if verdict.passed else "failed"
    head = f"{word} {verdict.ended} after {duration(verdict.minutes * 60_000)}, seed {verdict.seed}"
    mark = headline(word, head.partition(" ")[2]) if verdict.passed else Text(head, style="bold red")
    made = Grid("PROMISE", "", "WHAT WAS SEEN", loose=("WHAT WAS SEEN",))
    for check in verdict.checks:
        kept = Text("kept", style="green") if check.passed else Text("broken", style="bold red")
        made.add_row(check.name, kept, check.text)
    rows: list[tuple[str, RenderableType]] = [
        ("commands", ", ".join(f"{count} {name}" for name, count in verdict.counts.items()) or "-"),
        ("errors", ", ".join(f"{count} {code}" for code, count in verdict.errors.items()) or "none"),
        ("faults", ", ".join(f"{count} x {name}" for name, count in verdict.faults.items()) or "none"),
        *((("written", str(folder)),) if folder is not None else ()),
    ]
    return Group(mark, Text(), made, Text(), facts(*rows))

"""The catalogue's file as `vrambroker catalog` found or made it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from catalog.mending import Health, Rebuilt
from cli.screens.grid import facts
from cli.screens.residency import headline


def health_view(found: Health) -> RenderableType:
    """What is in a catalogue, and what is wrong with it."""
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(found.statuses.items()))
    rows = [
        ("version", str(found.version)),
        ("models", f"{found.models}: {statuses}" if statuses else str(found.models)),
        ("used", str(found.used)),
        ("unregistered", str(found.unregistered)),
        *(("set aside", path) for path in found.set_aside),
    ]
    problems = [Text(problem, style="red") for problem in found.problems]
    head = headline("sound", found.path) if found.is_sound else Text.assemble(("not sound ", "bold red"), found.path)
    return Group(head, facts(*rows), *problems)


def rebuilt_view(made: Rebuilt) -> RenderableType:
    """What a catalogue that was made anew has, and where the old one lies."""
    rows = [
        ("kept", str(made.kept)),
        ("added", ", ".join(made.added) or "-"),
        ("missing", ", ".join(made.missing) or "-"),
        ("the old one", made.kept_as or "there was none"),
    ]
    refused = [Text(f"{item.path}: {item.code.value}, {item.reason}", style="yellow") for item in made.rejected]
    return Group(headline("rebuilt", f"{made.kept + len(made.added)} models"), facts(*rows), *refused)

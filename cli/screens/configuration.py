"""A configuration: whether a broker would start with it, what is in force and why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.grid import Grid
from cli.screens.residency import headline
from settings.origins import DEFAULT, Setting


def checked_view(devices: Sequence[str], warnings: Sequence[str]) -> RenderableType:
    """A configuration with which a broker would start."""
    told = [Text.assemble(("warning: ", "yellow"), warning) for warning in warnings]
    return Group(headline("a broker would start", f"with {', '.join(devices) or 'no devices'}"), *told)


def settings_view(settings: Sequence[Setting], *, with_origin: bool) -> RenderableType:
    """Every setting; what is not as nobody said it stands out."""
    made = Grid("KEY", "VALUE", "ORIGIN", loose=("ORIGIN",)) if with_origin else Grid("KEY", "VALUE")
    for one in settings:
        said = not one.origin.startswith((DEFAULT, "derived"))
        cells = [Text(one.key, style="bold" if said else ""), Text(one.value)]
        made.add_row(*cells, *([Text(one.origin, style="cyan" if said else "dim")] if with_origin else []))
    return made

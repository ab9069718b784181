"""`vrambroker catalog`: the catalogue's file on this machine looked at, or made anew, without a broker.

`check` changes nothing and may run beside a broker; `rebuild` wants to be alone.
"""

# ruff: noqa: PLC0415 - commands import what they run when they run

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from msgspec import Struct

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(help="Check the catalogue's file, or make it anew.", no_args_is_help=True)

Config = Annotated[Path | None, typer.Option("--config", help="The broker's TOML file.", dir_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Look for damage and for records that cannot be read; the exit status is 1 where there are any."""
    from catalog.mending import check as look
    from cli.screens.mending import health_view
    from cli.session import FAILED, fail
    from cli.terminal import readable
    from settings.config import load
    from settings.file import ConfigError

    try:
        found = look(load(config).data)
    except (ConfigError, OSError) as error:
        fail(str(error), FAILED)
    _show(found, health_view(readable(found)), as_json)
    if not found.is_sound:
        raise typer.Exit(FAILED)


@app.command()
def rebuild(config: Config = None, as_json: AsJson = False) -> None:
    """Make the catalogue anew from the model roots and all that can be read of the old one, which is kept."""
    from broker.runtime import alone
    from catalog.mending import rebuild as make
    from cli.screens.mending import rebuilt_view
    from cli.session import FAILED, fail
    from cli.terminal import readable
    from modelfiles.paths import Roots
    from settings.config import load
    from settings.file import ConfigError

    try:
        settings = load(config)
        with alone(settings):
            settings.data.mkdir(parents=True, exist_ok=True)
            made = make(settings.data, Roots(settings.models))
    except (ConfigError, OSError) as error:
        fail(str(error), FAILED)
    _show(made, rebuilt_view(readable(made)), as_json)


def _show(found: Struct, view: RenderableType, as_json: bool) -> None:
    from cli.session import print_json
    from cli.terminal import Terminal

    if as_json:
        print_json(msgspec.json.encode(found))
    else:
        Terminal().print(view)

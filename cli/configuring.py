"""`vrambroker config`: what a configuration says, and whether a broker would start with it, without starting one."""

# ruff: noqa: PLC0415 - commands import what they run when they run

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

app = typer.Typer(help="Check the broker's configuration, or show what is in force and why.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="The TOML file; else that of VRAMBROKER_CONFIG.", dir_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(file: File = None, as_json: AsJson = False) -> None:
    """Say whether a broker would start with it, and what looks like a mistake; exits 2 where none would start."""
    from broker.devices import find_devices
    from broker.premises import refuse_open_addresses
    from cli.screens.configuration import checked_view
    from cli.session import USAGE, fail, print_json
    from cli.terminal import Terminal, readable
    from settings.config import load
    from settings.file import ConfigError
    from settings.suspicions import suspicions

    try:
        settings = load(file)
        refuse_open_addresses(settings)
        devices = [found.request.device_id for found in find_devices(settings)]
    except ConfigError as error:
        if as_json:
            print_json(msgspec.json.encode({"starts": False, "error": str(error), "warnings": [], "devices": []}))
        fail(str(error), USAGE)
    warnings = suspicions(settings)
    if as_json:
        print_json(msgspec.json.encode({"starts": True, "error": None, "warnings": warnings, "devices": devices}))
    else:
        Terminal().print(checked_view(readable(devices), readable(warnings)))


@app.command()
def show(
    file: File = None,
    origin: Annotated[bool, typer.Option("--origin", help="Who said each of them, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every setting in force, as the file would have it."""
    from cli.screens.configuration import settings_view
    from cli.session import USAGE, fail, print_json
    from cli.terminal import Terminal, readable
    from settings.file import ConfigError
    from settings.origins import explained

    try:
        settings = explained(file)
    except ConfigError as error:
        fail(str(error), USAGE)
    if as_json:
        print_json(msgspec.json.encode(settings))
    else:
        Terminal().print(settings_view(readable(settings), with_origin=origin))

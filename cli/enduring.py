"""Hours of work with faults, and a verdict: `vrambroker soak`.

What executes and shows it is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def soak(
    config: Annotated[Path | None, typer.Option("--config", help="The broker's TOML file.", dir_okay=False)] = None,
    minutes: Annotated[float, typer.Option("--minutes", "-m", help="How long.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed", help="The same work and faults again for the same.")] = 1,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between faults, on average.")] = 6.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for verdict, JUnit and log.", file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict's JSON.")] = False,
) -> None:
    """Work a broker of its own with faults, then without, and prove what it promises; a verdict."""
    from cli.soaking import soak as execute

    execute(config, minutes=minutes, seed=seed, every_seconds=every, output=output, as_json=as_json)

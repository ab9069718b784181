"""What clients really ask: `vrambroker record` writes it down, `vrambroker replay` asks it again.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Patience, Processes, ReportFolder, ReportJson, Slo, Thresholds

LISTEN = "tcp://127.0.0.1:0"


def record(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The recording, a new file.", dir_okay=False)],
    listen: Annotated[str, typer.Option("--listen", "-l", help="Where clients connect; port 0: a free one.")] = LISTEN,
    scrub: Annotated[bool, typer.Option("--scrub", help="Keep no prompts, no words of people, no pictures.")] = False,
) -> None:
    """Stand between clients and the broker, and write down what is asked and when, until interrupted."""
    from cli.replaying import record as execute

    execute(context.obj, file, listen=listen, scrub=scrub)


def replay(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A recording.", dir_okay=False)],
    speed: Annotated[float, typer.Option("--speed", help="So many times as fast.")] = 1.0,
    slo: Slo = 1.0,
    processes: Processes = 1,
    patience: Patience = 60.0,
    thresholds: Thresholds = None,
    output: ReportFolder = None,
    as_json: ReportJson = False,
) -> None:
    """Send what was recorded again, at the moments at which it came; show and write what became of it."""
    from cli.replaying import replay as execute

    settings = {
        "slo_seconds": slo,
        "processes": processes,
        "patience_seconds": patience,
        "thresholds": thresholds or [],
    }
    execute(context.obj, file, speed=speed, settings=settings, output=output, as_json=as_json)

"""Commands by their request ids, whoever sent them: `vrambroker cancel`, `result`.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415 - commands import what they run when they run

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json, RequestId


def cancel(
    context: typer.Context,
    request_id: RequestId,
    as_json: Json = False,
) -> None:
    """Stop a command, whatever its stage."""
    from cli.working import cancel as execute
    from protocol.commands import Cancel

    execute(context.obj, as_json, Cancel(target_request_id=request_id, prefix=True))


def result(
    context: typer.Context,
    request_id: RequestId,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.", file_okay=False)] = Path(),
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show what became of a command: its reply, or where it is."""
    from cli.results import result as show

    show(context.obj, as_json, request_id, output=output, wait=wait)

"""What a model is worth on a device: validated, and measured.

What executes and shows it is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import Device, Json, Timeout
from protocol.enums import ValidationLevel


def validate(
    context: typer.Context,
    model_id: Annotated[str, typer.Argument(metavar="[MODEL]", help="The model's id, or none with --path.")] = "",
    path: Annotated[str, typer.Option("--path", help="A file or folder, registered or not.")] = "",
    level: Annotated[
        ValidationLevel,
        typer.Option("--level", "-l", case_sensitive=False, help="How deep to look."),
    ] = ValidationLevel.STANDARD,
    estimate: Annotated[bool, typer.Option("--estimate", help="Also what a picture is expected to take.")] = False,
    device: Device = "",
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Check a model's files, and what a device can do with them; the exit status is 1 where they are not valid."""
    from cli.screens.validation import validation_view
    from cli.session import FAILED, session
    from cli.working import run
    from client.answers import as_kind
    from protocol.commands import ValidateModel
    from protocol.replies import ValidateModelReply

    command = ValidateModel(
        model_id=model_id,
        model_path=path,
        validation_level=level,
        estimate_performance=estimate,
        device_id=device,
        timeout_seconds=timeout,
    )
    with session(context.obj, as_json) as this:
        answer = as_kind(run(this, command, f"validate {model_id or path}"), ValidateModelReply)
        this.answer(answer, validation_view(answer.reply))
    if not answer.reply.is_valid:
        raise typer.Exit(FAILED)

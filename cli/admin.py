"""The administrator's commands: drain, resume, restart. The broker refuses them unless its configuration allows them.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415 - commands import what they run when they run

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import completing
from cli.options import Json

if TYPE_CHECKING:
    from protocol.commands import Command
    from protocol.replies.broker import AdminReply

DeviceId = Annotated[
    str,
    typer.Argument(
        metavar="DEVICE", help="Such as cuda:0; `vrambroker devices` lists them.", autocompletion=completing.devices
    ),
]


def drain(
    context: typer.Context,
    device_id: DeviceId,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has no work left; shows what it waits for.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = None,
    as_json: Json = False,
) -> None:
    """Give a device no new work; what it has is ended or goes elsewhere."""
    from cli.draining import drain as execute

    execute(context.obj, as_json, device_id, wait=wait or timeout is not None, timeout_seconds=timeout)


def resume(context: typer.Context, device_id: DeviceId, as_json: Json = False) -> None:
    """Give a drained or disabled device work again."""
    from protocol.commands import ResumeDevice
    from protocol.replies import ResumeDeviceReply

    _execute(context.obj, as_json, ResumeDevice(device_id=device_id), ResumeDeviceReply)


def restart(
    context: typer.Context,
    device_id: DeviceId,
    force: Annotated[bool, typer.Option("--force", help="At once, whatever it runs.")] = False,
    as_json: Json = False,
) -> None:
    """Replace a device's worker once what it runs has ended."""
    from protocol.commands import RestartWorker
    from protocol.replies import RestartWorkerReply

    _execute(context.obj, as_json, RestartWorker(device_id=device_id, force=force), RestartWorkerReply)


def _execute(endpoint: str | None, as_json: bool, command: Command, reply: type[AdminReply]) -> None:
    from cli.screens.residency import headline
    from cli.session import session
    from client.answers import as_kind

    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(command), reply)
        this.answer(answer, headline(answer.reply.device_state.value, answer.reply.message))

"""`vrambroker drain --wait`: stays until a device has no work left, and says what it waits for."""

from __future__ import annotations

import time

from cli.screens.residency import headline
from cli.session import FAILED, Session, fail, session
from client.answers import as_kind
from protocol.commands import DrainDevice, ListDevices
from protocol.enums import DeviceState
from protocol.replies import DeviceInfo, DrainDeviceReply, ListDevicesReply, RunningCommand, WaitingCommand

POLL_SECONDS = 0.25


def drain(
    endpoint: str | None, as_json: bool, device_id: str, *, wait: bool, timeout_seconds: float | None = None
) -> None:
    """Drain a device; with `wait`, until it is drained. Ends with 1 where that took longer than it may."""
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(DrainDevice(device_id=device_id)), DrainDeviceReply)
        if not wait:
            this.answer(answer, headline(answer.reply.device_state.value, answer.reply.message))
            return
        this.err.print(answer.reply.message)
        _wait(this, answer.reply.device_id or device_id, timeout_seconds)


def _wait(this: Session, device_id: str, timeout_seconds: float | None) -> None:
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    told: dict[str, str] = {}
    while True:
        answer = as_kind(this.call(ListDevices(device_id=device_id)), ListDevicesReply)
        device = answer.reply.devices[0]
        here = work_of(answer.reply, device)
        for request_id, what in here.items():
            if request_id not in told:
                this.err.print(f"waits for {what}, request {request_id}", soft_wrap=True)
                told[request_id] = what
        for request_id in told.keys() - here.keys():
            this.err.print(f"ended: {told.pop(request_id)}, request {request_id}", style="dim", soft_wrap=True)
        if device.state is DeviceState.DRAINED:
            this.answer(answer, headline("drained", f"{device_id} has no work left"))
            return
        if until is not None and time.monotonic() >= until:
            left = len(here)
            fail(f"{device_id} is still {device.state.value} after {timeout_seconds:g} s: {left} commands left", FAILED)
        time.sleep(POLL_SECONDS)


def work_of(reply: ListDevicesReply, device: DeviceInfo) -> dict[str, str]:
    """What a device runs and what waits there, by request id."""
    work: list[RunningCommand | WaitingCommand] = [] if device.running is None else [device.running]
    work += [waits for waits in reply.waiting if waits.device_id == device.device_id]
    return {command.request_id: f"{command.action} {command.model_id}".rstrip() for command in work}

"""What an administrator asks of one device: drain it, give it work again, replace its worker.

Off unless the configuration says otherwise. Answers at once with the state that the device is in then; what follows is
seen in `list_devices` and the worker's events.
"""

from __future__ import annotations

from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.events import TellSupervisor
from broker.core.fleet import Device
from broker.core.jobs import Job
from broker.core.placement import place
from broker.core.quotas import Sender
from broker.core.renewal import renew, replace_now
from protocol import commands as c
from protocol import replies as r
from protocol.errors import ErrorCode, Fault
from protocol.supervision import DrainChild


def check_allowed(action: str, sender: Sender | None, context: Context) -> None:
    """Raise UNAUTHORIZED for a key that is no admin's; without keys, where administration is off."""
    if sender is not None:
        if not sender.admin:
            text = f"{action} is an administrator's command, and the key {sender.name} is a client's"
            raise Fault(ErrorCode.UNAUTHORIZED, text)
    elif not context.spec.admin:
        text = f"{action} is an administrator's command, and administration is off: the setting is admin = true"
        raise Fault(ErrorCode.UNAUTHORIZED, text)


class Admin:
    """One method for each command of the admin lane."""

    def __init__(self, context: Context, answers: Answers, dispatch: Dispatch) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch

    def answer(self, job: Job, device: Device) -> None:
        """Do what a command asks of a device."""
        job.device_id = device.device_id
        match job.command:
            case c.DrainDevice():
                moved = self._drain(device)
                self._reply(job, device, r.DrainDeviceReply, f"{device.device_id} takes no new work{moved}")
            case c.ResumeDevice():
                self._resume(device)
                self._reply(job, device, r.ResumeDeviceReply, f"{device.device_id} takes work")
            case c.RestartWorker(force=force):
                when = self._restart(device, force=force)
                self._reply(job, device, r.RestartWorkerReply, f"the worker of {device.device_id} is replaced{when}")
            case _:
                raise Fault(ErrorCode.NOT_SUPPORTED, f"{job.action.name} is no administrator's command")

    def _reply(self, job: Job, device: Device, cls: type[r.AdminReply], message: str) -> None:
        reply = cls(
            request_id=job.request_id,
            action=job.action.name,
            message=message,
            device_id=device.device_id,
            device_state=device.state(draining=self._context.draining),
        )
        self._answers.reply(job, reply)

    def _set_drained(self, device: Device, *, drained: bool) -> None:
        context = self._context
        device.drained = drained
        context.fleet.weigh(device)
        context.devices_changed = True
        context.emit(TellSupervisor(DrainChild(child=device.device_id, drained=drained)))
        reason = "drained" if drained else "resumed"
        context.bulletin.worker(device, draining=context.draining, reason=reason)

    def _drain(self, device: Device) -> str:
        """What runs ends here; what waits goes elsewhere where it may and another device takes work, or ends here."""
        self._set_drained(device, drained=True)
        if not device.pool.has_ready:
            return ""
        moved = [job for job in list(device.queue) if _may_move(job) and self._move(job, device)]
        return f"; {len(moved)} waiting commands went elsewhere" if moved else ""

    def _move(self, job: Job, device: Device) -> bool:
        """Place a waiting job anew; False where nobody else would take it."""
        fleet = self._context.fleet
        device.queue.remove(job)
        fleet.give(job, device)
        try:
            self._dispatch.to_device(job, place(job, None, self._context))
        except Fault:
            job.device_id = device.device_id
            device.queue.push(job)
            fleet.take(job, device)
            return False
        return True

    def _resume(self, device: Device) -> None:
        self._set_drained(device, drained=False)
        if device.disabled:
            device.disabled = False
            replace_now(device, "resumed by an administrator", self._context)
        self._dispatch.pump(device)

    def _restart(self, device: Device, *, force: bool) -> str:
        reason = "recycled: restarted by an administrator"
        if not device.connected:
            device.disabled = False
            replace_now(device, reason, self._context)
            return " at once"
        if force:
            device.renew_because = reason
            replace_now(device, reason, self._context)
            return " at once"
        renew(device, reason, self._context)
        return " once what it runs has ended" if device.running is not None else ""


def _may_move(job: Job) -> bool:
    """Is it the broker that chose the device, and could it have chosen another?"""
    placed = isinstance(job.command, c.LoadFields | c.Generate | c.ValidateModel | c.OptimizeModel | c.BenchmarkModel)
    return placed and job.command.device_id in ("", "auto") and job.on_final is None

"""A command that names no device and concerns every device that holds its model.

One holder: it goes there. Several: unload, pin and unpin act on all, and their replies become one. None: unload and
unpin have nothing to do, everything else is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol import commands as c
from protocol import replies as r
from protocol.errors import Fault, Recovery, invalid
from protocol.telemetry import MemoryPressure

ALL = "all"
"""The `device_id` of a reply that speaks for several devices."""


def act_on_all(job: Job, holders: Sequence[Device], context: Context, dispatch: Dispatch, answers: Answers) -> None:
    """Send a command to the holders of its model. Raises Fault."""
    if len(holders) == 1:
        dispatch.to_device(job, holders[0])
    elif not holders:
        answers.reply(job, _nothing_to_do(job, context))
    elif isinstance(job.command, c.UnloadModel | c.PinModel | c.UnpinModel):
        _Group(job, holders, context, dispatch, answers)
    else:
        names = ", ".join(device.device_id for device in holders)
        raise invalid("device_id", job.command.device_id, f"one of the holders of {job.model_id}: {names}")


def _nothing_to_do(job: Job, context: Context) -> r.Reply:
    model_id = job.model_id
    warning = f"no device holds {model_id}: nothing to do"
    if isinstance(job.command, c.UnloadModel):
        return r.UnloadModelReply(
            request_id=job.request_id,
            action=job.action.name,
            message=warning,
            warnings=[warning],
            model_id=model_id,
            memory_freed=0,
            memory_freed_bytes=0,
            unload_time_ms=0.0,
            cache_cleared=False,
            unloaded_at=context.wall(),
        )
    if isinstance(job.command, c.UnpinModel):
        return r.UnpinModelReply(
            request_id=job.request_id,
            action=job.action.name,
            message=warning,
            warnings=[warning],
            model_id=model_id,
            pinned=False,
        )
    fault = invalid("device_id", job.command.device_id, f"a device that holds {model_id}, and none does")
    recovery = Recovery(action="load_model", description="load the model", parameters={"model_id": model_id})
    raise Fault(fault.code, str(fault), details=fault.info.details, recovery=[recovery])


class _Group:
    """One client's command on several devices; ends when the last of them has."""

    def __init__(
        self, job: Job, holders: Sequence[Device], context: Context, dispatch: Dispatch, answers: Answers
    ) -> None:
        self._job = job
        self._dispatch = dispatch
        self._answers = answers
        self._waiting = len(holders)
        self._replies: list[r.Reply] = []
        job.device_id = ALL
        context.jobs.start(job)
        routes = [(self._part(device), device) for device in holders]
        job.parts = [part for part, _ in routes]
        for part, device in routes:
            try:
                dispatch.to_device(part, device)
            except Fault as fault:
                answers.fail(part, fault.info)

    def _part(self, device: Device) -> Job:
        job = self._job
        command = msgspec.structs.replace(job.command, device_id=device.device_id, request_id=None)
        part = self._dispatch.own_command(command, job)
        part.model = job.model
        part.on_final = self._ended
        return part

    def _ended(self, part: Job, _: float) -> None:
        self._replies.append(self._dispatch.outcome(part))
        self._waiting -= 1
        if self._waiting:
            return
        failed = next((reply for reply in self._replies if reply.error is not None), None)
        if failed is not None and failed.error is not None:
            self._answers.fail(self._job, failed.error)
        else:
            self._answers.reply(self._job, _merge(self._job, self._replies))


def _merge(job: Job, replies: Sequence[r.Reply]) -> r.Reply:
    """The replies of the devices as one: figures summed, the slowest time, every warning once."""
    warnings = list(dict.fromkeys(text for reply in replies for text in reply.warnings))
    first = replies[0]
    common: dict[str, Any] = {"request_id": job.request_id, "device_id": ALL, "warnings": warnings}
    pressures = [reply.memory_pressure for reply in replies if isinstance(reply, r.ModelReply)]
    common["memory_pressure"] = merge_pressure([pressure for pressure in pressures if pressure is not None])
    unloads = [reply for reply in replies if isinstance(reply, r.UnloadModelReply)]
    if unloads:
        common |= {
            "memory_freed": sum(reply.memory_freed for reply in unloads),
            "memory_freed_bytes": sum(reply.memory_freed_bytes for reply in unloads),
            "ram_freed": sum(reply.ram_freed for reply in unloads),
            "unload_time_ms": max(reply.unload_time_ms for reply in unloads),
            "cache_cleared": all(reply.cache_cleared for reply in unloads),
            "unloaded_at": max(reply.unloaded_at for reply in unloads),
        }
    return msgspec.structs.replace(first, **common)


def merge_pressure(pressures: Sequence[MemoryPressure]) -> MemoryPressure | None:
    """The pressure of several devices together: bytes summed, the worst level and pressure."""
    if not pressures:
        return None
    worst = max(pressures, key=lambda pressure: pressure.pressure)
    used = sum(pressure.used_bytes for pressure in pressures)
    total = sum(pressure.total_bytes for pressure in pressures)
    return MemoryPressure(
        level=worst.level,
        used_bytes=used,
        reclaimable_bytes=sum(pressure.reclaimable_bytes for pressure in pressures),
        total_bytes=total,
        utilization=used / total if total else 0.0,
        pressure=worst.pressure,
    )

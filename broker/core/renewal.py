"""The planned replacement of a worker: it gets nothing new, ends what it does, and a fresh one takes over.

Used where memory did not come back or grew too much, and where an administrator asks for it. What waits for the device
waits for the fresh worker; the supervisor's word that the old one is gone is handled like any other death.
"""

from __future__ import annotations

from broker.core.context import Context
from broker.core.events import TellSupervisor
from broker.core.fleet import Device
from protocol.supervision import RestartChild


def renew(device: Device, reason: str, context: Context) -> None:
    """Replace a device's worker once it is idle. The first reason stays."""
    if not device.renew_because:
        device.renew_because = reason
        context.fleet.weigh(device)
        context.log("info", "worker is to be replaced", device=device.device_id, reason=reason)
        context.bulletin.worker(device, draining=context.draining, reason=reason)
    proceed(device, context)


def proceed(device: Device, context: Context) -> None:
    """Replace a worker that has to be, if it is idle now."""
    if device.renew_because and device.connected and device.running is None and not device.control:
        replace_now(device, device.renew_because, context)


def replace_now(device: Device, reason: str, context: Context) -> None:
    """Have the supervisor end what there is of a worker, and start a fresh one whatever happened to those before."""
    line = RestartChild(child=device.device_id, generation=device.generation, reason=reason)
    context.emit(TellSupervisor(line))

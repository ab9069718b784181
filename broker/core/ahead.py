"""Which model a device will have to read next: its worker may read it into RAM while the command at hand runs.

Decides by the queue as it stands, and tells of changes alone. A hint: nothing waits for it, nothing is lost with it.
"""

from __future__ import annotations

from broker.core.context import Context
from broker.core.events import SendWorker
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol import commands as c
from protocol.enums import Tier
from protocol.link import Prefetch

MOST_LOOKED_AT = 8
"""Commands of the queue, the next ones first."""


class Ahead:
    """Keeps every busy device's worker informed of what it will have to read."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def look(self, device: Device) -> None:
        """The queue of a device, or what runs there, is another."""
        running = device.running
        if device.worker is None or running is None or not (len(device.queue) or device.ahead.model):
            return
        wish = _next(device, running)
        begun = device.ahead.model is not None and device.ahead.model.model_id == running.model_id
        if wish == device.ahead or (wish.model is None and begun):
            return  # what was told of has begun: its load makes use of what is read already
        device.ahead = wish
        self._context.emit(SendWorker(device.worker, wish))


def _next(device: Device, running: Job) -> Prefetch:
    for job in device.queue.upcoming(MOST_LOOKED_AT):
        wish = _wish(job)
        if wish is not None and job.model_id != running.model_id and device.tier_of(job.model_id) is Tier.DISK:
            return wish
    return Prefetch()


def _wish(job: Job) -> Prefetch | None:
    """What a command would have read from its model's files into RAM; None where it reads nothing, or not there."""
    match job.command:
        case c.Generate(load_if_needed=True):
            return Prefetch(model=job.model)
        case c.LoadModel(force=False) as load if not load.host_holds_file:
            return Prefetch(model=job.model, configuration=load.configuration, config_path=load.config_path)
    return None

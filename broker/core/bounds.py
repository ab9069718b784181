"""How much may wait: for each client, for each worker and lane, and in all. One more is QUEUE_FULL."""

from __future__ import annotations

from broker.core.context import Context
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol.errors import ErrorCode, Fault

UNANSWERED_RETRY_MS = 100
"""What the sender of one command too many for the control or catalog lane is told: both answer fast."""


def check_room(job: Job, context: Context) -> None:
    """Is there a place for one more command of this client, and for one more at all? Raises Fault QUEUE_FULL."""
    jobs, limits = context.jobs, context.limits
    if jobs.queued_by(job.client) >= limits.queued_per_client:
        text = f"{limits.queued_per_client} commands of this client are queued: the broker takes no more of them"
        raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=context.fleet.room_ms(job.arrived))
    if jobs.queued_total >= limits.queued_total:
        text = f"{limits.queued_total} commands are queued: the broker takes no more"
        raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=context.fleet.room_ms(job.arrived))


def check_device(device: Device, context: Context) -> None:
    """Is there a place in a device's queue? Raises Fault QUEUE_FULL."""
    limit = context.limits.queued_per_device
    if len(device.queue) >= limit:
        text = f"{limit} commands wait for {device.device_id}: it takes no more"
        raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=device.room_ms(context.clock()))


def check_control(job: Job, device: Device, context: Context) -> None:
    """Is there a place in a worker's control lane? Raises Fault QUEUE_FULL."""
    if job.on_final is None:
        check_room(job, context)
    limit = context.limits.queued_per_device
    if len(device.control) >= limit:
        text = f"{limit} commands of the control lane of {device.device_id} are unanswered: it takes no more"
        raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=UNANSWERED_RETRY_MS)


def check_catalogue(job: Job, context: Context) -> None:
    """Is there a place in the catalogue's lane? Raises Fault QUEUE_FULL."""
    unanswered, limit = context.catalogue.unanswered, context.limits.queued_per_device
    if job.request_id not in unanswered and len(unanswered) >= limit:
        text = f"{limit} commands of the catalogue are unanswered: it takes no more"
        raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=UNANSWERED_RETRY_MS)

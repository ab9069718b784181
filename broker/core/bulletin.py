"""What the broker publishes: each topic's gap-free numbers, and the latest value of each state topic.

Job topics end with their command; their numbers are forgotten then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec

from broker.core.events import Effect, Publish, Subscribed
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol.enums import JobState, Tier
from protocol.errors import ErrorInfo
from protocol.events import (
    MSGPACK_PREFIX,
    CatalogEvent,
    Event,
    JobEvent,
    ModelEvent,
    QueueEvent,
    TelemetryEvent,
    WorkerEvent,
)
from protocol.link import ModelChanged
from protocol.replies import JobProgress
from protocol.telemetry import Telemetry

_JOB = "job."


class Bulletin:
    """Makes the events and hands them to `emit`. `wall` is the clock that stands in them."""

    def __init__(self, epoch: str, wall: Callable[[], datetime], emit: Callable[[Effect], None]) -> None:
        self._epoch = epoch
        self._wall = wall
        self._emit = emit
        self._numbers: dict[str, int] = {}
        self._latest: dict[str, Event] = {}
        self._job_listeners: set[str] = set()
        self._worker_states: dict[str, tuple[Any, ...]] = {}

    def _publish(
        self, topic: str, cls: type[Event], fields: dict[str, Any], *, keep: bool, counts_as: str = ""
    ) -> None:
        """`counts_as` is what the numbers belong to, where that is not the topic."""
        counter = counts_as or topic
        number = self._numbers.get(counter, 0) + 1
        self._numbers[counter] = number
        event = cls(seq=number, time=self._wall(), epoch=self._epoch, **fields)
        if keep:
            self._latest[topic] = event
        self._emit(Publish(topic, event))

    def listen(self, change: Subscribed) -> None:
        """Note who listens to jobs, and greet who is new."""
        plain = change.prefix.removeprefix(MSGPACK_PREFIX)
        if change.begins:
            if plain.startswith(_JOB) or _JOB.startswith(plain) or MSGPACK_PREFIX.startswith(change.prefix):
                self._job_listeners.add(change.prefix)
            self._greet(change.prefix)
        else:
            self._job_listeners.discard(change.prefix)
            if not self._job_listeners:
                # Nobody hears the ends by which their numbers would be forgotten.
                self._numbers = {key: number for key, number in self._numbers.items() if not key.startswith(_JOB)}

    @property
    def hears_jobs(self) -> bool:
        """Does anybody listen to commands' lives?"""
        return bool(self._job_listeners)

    def _greet(self, prefix: str) -> None:
        """Tell the latest value of each state topic that matches to a new subscriber.

        XPUB cannot address one subscriber with more than one message: all hear the value again, as the topic's next
        event, so that nobody sees a number twice or misses one.
        """
        plain = prefix.removeprefix(MSGPACK_PREFIX)
        everything = MSGPACK_PREFIX.startswith(prefix)
        for topic, event in list(self._latest.items()):
            if everything or topic.startswith(plain):
                self._numbers[topic] = number = event.seq + 1
                self._latest[topic] = again = msgspec.structs.replace(event, seq=number)
                self._emit(Publish(topic, again))

    def telemetry(self, device_id: str, sample: Telemetry) -> None:
        fields = {name: getattr(sample, name) for name in sample.__struct_fields__}
        self._publish(f"telemetry.{device_id}", TelemetryEvent, {"device_id": device_id, **fields}, keep=True)

    def worker(self, device: Device, *, draining: bool, reason: str) -> None:
        """A worker's state, when it differs from what was published last."""
        state = device.state(draining=draining)
        seen = (state, device.generation, device.pid, device.restarts)
        if self._worker_states.get(device.device_id) == seen:
            return
        self._worker_states[device.device_id] = seen
        fields = {
            "device_id": device.device_id,
            "state": state,
            "generation": device.generation,
            "pid": device.pid,
            "restarts": device.restarts,
            "reason": reason,
        }
        self._publish(f"worker.{device.device_id}", WorkerEvent, fields, keep=True)

    def model(self, device_id: str, change: ModelChanged) -> None:
        fields = {name: getattr(change, name) for name in change.__struct_fields__ if name != "freed_bytes"}
        topic = f"model.{device_id}.{change.model_id}"
        self._publish(topic, ModelEvent, {"device_id": device_id, **fields}, keep=True)

    def model_lost(self, device_id: str, model_id: str, tier: Tier) -> None:
        """A model that went with its worker."""
        change = ModelChanged(model_id=model_id, tier=Tier.DISK, from_tier=tier, bytes=0, reason="recycled")
        self.model(device_id, change)

    def job(self, job: Job, *, success: bool | None = None, error: ErrorInfo | None = None) -> None:
        """A command's life; not even made where nobody listens, since every command has some."""
        if not self._job_listeners:
            return
        topic = f"{_JOB}{job.wire_id}"
        progress = None
        if job.state is JobState.RUNNING:
            progress = JobProgress(step=job.step, steps=job.steps, eta_ms=job.eta_ms)
        fields: dict[str, Any] = {
            "request_id": job.wire_id,
            "action": job.action.name,
            "job_state": job.state,
            "device_id": job.device_id or None,
            "model_id": job.model_id,
            "progress": progress,
            "success": success,
            "error": error,
        }
        if job.sender is not None:
            fields["key"] = job.sender.name
        counter = f"{_JOB}{job.request_id}"
        self._publish(topic, JobEvent, fields, keep=False, counts_as=counter)
        if job.state is JobState.FINAL:
            self._numbers.pop(counter, None)

    def queue(self, figures: dict[str, Any]) -> None:
        self._publish("queue", QueueEvent, figures, keep=True)

    def catalog(self, model_id: str, change: str, revision: int) -> None:
        fields = {"model_id": model_id, "change": change, "revision": revision}
        self._publish("catalog", CatalogEvent, fields, keep=False)


def queue_figures(devices: Iterable[Device], now: float) -> dict[str, Any]:
    """The payload of a `queue` event: what waits, by device and by priority, and what runs."""
    by_device: dict[str, int] = {}
    by_priority: dict[str, int] = {}
    in_flight, oldest = 0, now
    for device in devices:
        queue = device.queue
        by_device[device.device_id] = len(queue)
        in_flight += (device.running is not None) + len(device.control)
        if not len(queue):
            continue
        for level, count in queue.waiting().items():
            if count:
                by_priority[level.value] = by_priority.get(level.value, 0) + count
        oldest = min(oldest, queue.oldest() or now)
    return {
        "depth": sum(by_device.values()),
        "in_flight": in_flight,
        "by_device": by_device,
        "by_priority": by_priority,
        "oldest_ms": (now - oldest) * 1000.0,
    }

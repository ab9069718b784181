"""Every event of the wire: its topic and its payload, snake_case in JSON and in MessagePack.

`seq` is gap-free per topic, `epoch` changes when the broker restarts.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType

from protocol.enums import DeviceState, JobState, Tier
from protocol.errors import ErrorInfo
from protocol.records import Record
from protocol.replies import JobProgress
from protocol.telemetry import DeviceMemory, GpuReading, HostMemory, MemoryPressure

MSGPACK_PREFIX = "msgpack."
"""Topics under this prefix carry the same payloads as MessagePack."""


class Event(Record, frozen=True, kw_only=True):
    """What every event has."""

    seq: int
    time: datetime
    epoch: str


class TelemetryEvent(Event, frozen=True, kw_only=True):
    """`telemetry.<device>`: one sample."""

    device_id: str
    memory: DeviceMemory
    memory_pressure: MemoryPressure
    utilization: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    torch: dict[str, int] | None = None
    gpu: GpuReading | UnsetType = UNSET
    host: HostMemory
    missing: dict[str, str] = {}


class WorkerEvent(Event, frozen=True, kw_only=True):
    """`worker.<device>`: a worker's state changed."""

    device_id: str
    state: DeviceState
    generation: int
    pid: int | None
    restarts: int
    reason: str


class ModelEvent(Event, frozen=True, kw_only=True):
    """`model.<device>.<model>`: a model moved or is on its way."""

    device_id: str
    model_id: str
    tier: Tier
    from_tier: Tier
    bytes: int
    reason: str
    stage: str | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    eta_ms: float | None = None


class JobEvent(Event, frozen=True, kw_only=True):
    """`job.<request_id>`: a command's life. `key` is the name of the key that sent it, where keys are in use."""

    request_id: str
    action: str
    job_state: JobState
    device_id: str | None = None
    model_id: str = ""
    progress: JobProgress | None = None
    success: bool | None = None
    error: ErrorInfo | None = None
    key: str | UnsetType = UNSET


class QueueEvent(Event, frozen=True, kw_only=True):
    """`queue`: what waits and what runs; `oldest_ms` is the age of the oldest queued command."""

    depth: int
    in_flight: int
    by_device: dict[str, int]
    by_priority: dict[str, int]
    oldest_ms: float


class CatalogEvent(Event, frozen=True, kw_only=True):
    """`catalog`: a model was added, changed or went missing."""

    model_id: str
    change: str
    revision: int


STATE_TOPICS = ("telemetry.", "worker.", "model.", "queue")
"""Beginnings of the topics whose latest value a new subscriber gets first."""

EVENTS: dict[str, type[Event]] = {
    "telemetry": TelemetryEvent,
    "worker": WorkerEvent,
    "model": ModelEvent,
    "job": JobEvent,
    "queue": QueueEvent,
    "catalog": CatalogEvent,
}
"""Every event by the first word of its topic."""

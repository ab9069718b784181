"""Replies of the broker itself: devices, results, decisions, administration."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import UNSET, UnsetType

from protocol.commands import Attachment, Conventions
from protocol.enums import (
    CancelOutcome,
    DeviceKind,
    DeviceState,
    JobState,
    LoadPriority,
    ModelPrecision,
    Tier,
)
from protocol.records import (
    Record,
)
from protocol.replies.base import Limits, ModelReply, Reply
from protocol.telemetry import MemoryPressure, Telemetry


class PingReply(Reply, frozen=True, kw_only=True):
    """The broker is alive."""

    time: datetime
    epoch: str


class CommandStatistics(Record, frozen=True, kw_only=True):
    """Commands of one action that ended since the broker began.

    `outcomes` counts them by `completed` or the code of the error; `seconds` is the sum of their times from arrival to
    answer; `buckets` counts those times up to each of the `bounds_seconds`, and those beyond.
    """

    action: str
    outcomes: dict[str, int]
    seconds: float
    buckets: list[int]


class Statistics(Record, frozen=True, kw_only=True):
    """What the broker counted since it began."""

    bounds_seconds: list[float]
    commands: list[CommandStatistics]
    queued: int
    draining: bool


class HelloReply(Reply, frozen=True, kw_only=True):
    """Who answers, what it can do and how it spells."""

    server: str
    version: str
    protocol: int = 1
    epoch: str
    actions: list[str]
    limits: Limits
    conventions: Conventions
    events: str = ""
    """Where events are published, as it is bound: on every interface, its host is the one that commands go to."""
    statistics: Statistics | UnsetType = UNSET
    """Where it was asked for."""


class HeldModel(Record, frozen=True, kw_only=True):
    """A model in `list_devices`."""

    model_id: str
    tier: Tier
    bytes: int
    precision: ModelPrecision
    pinned: bool
    sessions: int
    last_used: datetime


class RunningCommand(Record, frozen=True, kw_only=True):
    """What a device does now."""

    request_id: str
    action: str
    model_id: str
    started_at: datetime
    step: int | None = None
    steps: int | None = None


class DeviceInfo(Record, frozen=True, kw_only=True):
    """A device as `list_devices` shows it; sizes in bytes."""

    device_id: str
    uuid: str
    name: str
    kind: DeviceKind
    state: DeviceState
    total_vram: int
    used_vram: int
    free_vram: int
    models: list[HeldModel] = []
    memory_pressure: MemoryPressure | None = None
    telemetry: Telemetry | None = None
    queue_depth: int = 0
    running: RunningCommand | None = None
    pid: int | None = None
    generation: int = 0
    restarts: int = 0
    uptime_seconds: float = 0.0


class WaitingCommand(Record, frozen=True, kw_only=True):
    """A command that waits for its turn on a device."""

    device_id: str
    request_id: str
    action: str
    model_id: str
    priority: LoadPriority


class ListDevicesReply(Reply, frozen=True, kw_only=True):
    """Every device asked for, and the next commands that wait for each, about in the order in which they will begin."""

    devices: list[DeviceInfo]
    waiting: list[WaitingCommand] = []


class CancelReply(Reply, frozen=True, kw_only=True):
    """What a cancel found."""

    target_request_id: str
    outcome: CancelOutcome


class JobProgress(Record, frozen=True, kw_only=True):
    """How far an assigned command has come; None before its first step."""

    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None


class GetResultReply(Reply, frozen=True, kw_only=True):
    """A stored final reply, or the live state of a command that is on its way."""

    target_request_id: str
    job_state: JobState
    result: Any = None
    position: int | None = None
    device_id: str | None = None
    progress: JobProgress | None = None
    attachments: list[Attachment] = []


class PlannedEviction(Record, frozen=True, kw_only=True):
    """A model that would leave, or left, and the bytes that this frees."""

    model_id: str
    bytes: int


class Candidate(Record, frozen=True, kw_only=True):
    """A device that a command could go to; a lower score (milliseconds until done) is better.

    `terms` ending in `_ms` add up to the score; a device that was not looked at has neither.
    """

    device_id: str
    score: float | None = None
    terms: dict[str, float] = {}
    excluded_because: str | None = None


class WaitRecord(Record, frozen=True, kw_only=True):
    """Time that a command spent waiting for one reason."""

    reason: str
    ms: float


class ExplainReply(Reply, frozen=True, kw_only=True):
    """Why a command went where it went."""

    target_request_id: str
    candidates: list[Candidate]
    chosen: str | None = None
    evictions: list[PlannedEviction] = []
    waits: list[WaitRecord] = []
    passes: int = 0


class PlanReply(ModelReply, frozen=True, kw_only=True):
    """What a load would do.

    `peak_bytes` is the larger of the peaks of the load and of a run, each as measured, else by the family's formula;
    `step_ms` is a step of a picture of the family's default shape, None before any run was measured.
    """

    fits: bool
    bytes_needed: int
    peak_bytes: int
    load_peak_bytes: int = 0
    run_peak_bytes: int = 0
    step_ms: float | None = None
    evictions: list[PlannedEviction] = []
    estimated_ms: float
    candidates: list[Candidate] = []


class AdminReply(Reply, frozen=True, kw_only=True):
    """A device after an administrator's command."""

    device_id: str
    device_state: DeviceState


class DrainDeviceReply(AdminReply, frozen=True, kw_only=True):
    """The device takes no new work."""


class ResumeDeviceReply(AdminReply, frozen=True, kw_only=True):
    """The device takes work."""


class RestartWorkerReply(AdminReply, frozen=True, kw_only=True):
    """The device's worker is being replaced."""

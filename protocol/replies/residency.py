"""Replies about what is held where: loads, unloads, pins, components, status."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from protocol.enums import (
    CoordinationMode,
    LoadSource,
    ModelPrecision,
    ModelStatus,
    Tier,
)
from protocol.records import (
    ModelComponent,
    ModelMemoryUsage,
    ModelPerformance,
    Record,
)
from protocol.replies.base import ModelReply
from protocol.replies.broker import DeviceInfo
from protocol.telemetry import Telemetry


class StatusEntry(Record, frozen=True, kw_only=True):
    """One model on one device, or on disk alone with `device_id` null."""

    model_id: str
    device_id: str | None
    tier: Tier
    tiers: list[Tier]
    bytes: int
    precision: ModelPrecision
    pinned: bool = False
    sessions: int = 0
    last_used: datetime | None = None
    health: float = 1.0
    telemetry: Telemetry | None = None


class RamTier(Record, frozen=True, kw_only=True):
    """A worker's RAM tier in bytes."""

    bytes: int
    budget_bytes: int
    released_bytes: int = 0


class IgnoredHint(Record, frozen=True, kw_only=True):
    """A hint without effect, and why."""

    hint: str
    reason: str


class Coordination(Record, frozen=True, kw_only=True):
    """What became of the host's hints."""

    mode: CoordinationMode | None
    honoured: list[str] = []
    ignored: list[IgnoredHint] = []
    ram_tier: RamTier | None = None


class GetVramModelStatusReply(ModelReply, frozen=True, kw_only=True):
    """The seed's status and the host's GetModelStatusResponse."""

    models: list[StatusEntry]
    used_vram: int
    available_vram: int
    total_vram: int
    status: ModelStatus
    status_description: str
    memory_usage: ModelMemoryUsage | None = None
    performance_metrics: ModelPerformance | None = None
    active_sessions: list[str] | None = None
    health_score: float
    last_updated: datetime
    devices: list[DeviceInfo]
    coordination: Coordination | None = None


class OptionOutcome(Record, frozen=True, kw_only=True):
    """What became of one configuration flag."""

    option: str
    requested: Any
    applied: bool
    reason: str | None = None
    evidence: dict[str, Any] | None = None


class LoadCache(Record, frozen=True, kw_only=True):
    """Where a load's bytes came from; `page_cache_ratio` None where it was not read from disk."""

    source: LoadSource
    page_cache_ratio: float | None = None


class LoadModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's LoadModelResponse.

    `memory_usage` (bytes) exists in snake_case alone; `memory` is the host's MemoryUsage.
    """

    memory_usage: int
    memory_added: int
    load_time: float
    load_time_ms: float
    memory: ModelMemoryUsage
    optimizations_applied: list[str]
    loaded_at: datetime
    options: list[OptionOutcome]
    cache: LoadCache
    coordination: Coordination | None = None


class UnloadModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's UnloadModelResponse; `memory_freed` is VRAM alone, `ram_freed` what left the RAM tier, in bytes."""

    memory_freed: int
    ram_freed: int = 0
    unload_time_ms: float
    memory_freed_bytes: int
    cache_cleared: bool
    unloaded_at: datetime


class PinModelReply(ModelReply, frozen=True, kw_only=True):
    """The pin as it stands now."""

    pinned: bool


class UnpinModelReply(PinModelReply, frozen=True, kw_only=True):
    """The pin as it stands now."""


class ComponentReply(ModelReply, frozen=True, kw_only=True):
    """A component after a change; `replaced` names what stood there before."""

    component: ModelComponent
    memory_added: int
    replaced: ModelComponent | None = None


class LoadComponentReply(ComponentReply, frozen=True, kw_only=True):
    """The component that is in use now."""


class UnloadComponentReply(ComponentReply, frozen=True, kw_only=True):
    """The component that is in use now."""


class HeldComponent(ModelComponent, frozen=True, kw_only=True):
    """A component as `list_components` shows it; `shared_with` are model ids."""

    tier: Tier
    bytes: int
    shared_with: list[str] = []


class ListComponentsReply(ModelReply, frozen=True, kw_only=True):
    """Every part of a model."""

    components: list[HeldComponent]

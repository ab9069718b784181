"""What a device's worker reports of itself: memory, pressure, sensors, and the models that it holds.

The broker keeps the newest of each and answers `list_devices` and `get_vram_model_status` from it.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType, field

from protocol.enums import (
    ComponentType,
    DeviceKind,
    DeviceState,
    LoadPriority,
    ModelPrecision,
    ModelStatus,
    PressureLevel,
    Tier,
)
from protocol.records import ModelMemoryUsage, ModelPerformance, Record


class MemoryPressure(Record, frozen=True, kw_only=True):
    """`utilization` = used / total; `pressure` = (used - reclaimable + reserve) / total."""

    level: PressureLevel
    used_bytes: int
    reclaimable_bytes: int
    total_bytes: int
    utilization: float
    pressure: float


class DeviceMemory(Record, frozen=True, kw_only=True):
    """A device's memory in bytes; None where the device has no such figure."""

    total: int
    used: int
    free: int
    reserved: int | None = None
    allocated: int | None = None
    reclaimable: int = 0
    peak: int | None = None


class GpuProcess(Record, frozen=True, kw_only=True):
    """A process that computes on a GPU; `bytes` is None where the driver does not tell, as in containers."""

    pid: int
    bytes: int | None = None


class GpuReading(Record, frozen=True, kw_only=True):
    """What a GPU alone has: memory that its driver keeps, errors since that was loaded, what holds its clocks back, and
    who computes on it.
    """

    driver_reserved_bytes: int | None = None
    uncorrected_ecc_errors: int | None = None
    throttle_reasons: list[str] | None = None
    processes: list[GpuProcess] | None = None


class HostMemory(Record, frozen=True, kw_only=True):
    """The worker process and its surroundings: bytes; `psi` the "some avg10" share of memory stall time in percent.

    `uss_bytes` are those of `rss_bytes` that no other process has too: what would come free were this one gone.
    """

    rss_bytes: int | None = None
    uss_bytes: int | None = None
    ram_tier_bytes: int = 0
    psi: float | None = None
    cgroup: dict[str, int] | None = None


class Telemetry(Record, frozen=True, kw_only=True):
    """One sample of a device; `missing` names each absent reading with its reason. `gpu` is there for GPUs alone."""

    memory: DeviceMemory
    memory_pressure: MemoryPressure
    utilization: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    torch: dict[str, int] | None = None
    gpu: GpuReading | UnsetType = UNSET
    host: HostMemory = field(default_factory=HostMemory)
    missing: dict[str, str] = {}


class ComponentResidency(Record, frozen=True, kw_only=True):
    """One component of a model on a device."""

    name: str
    type: ComponentType
    bytes: int
    tier: Tier
    shared_with: list[str] = []


class ModelResidency(Record, frozen=True, kw_only=True):
    """A model that a worker holds: `bytes` in its highest tier, shared components included.

    `health` is the share of this model's last 20 runs on this device that did not fail; `sessions` counts running work.
    `priority` is that of its last load, `reload_ms` what a load would take once it has left its highest tier.
    `not_measured` names fields of `memory` and `performance` that have no figure yet.
    """

    model_id: str
    status: ModelStatus
    tier: Tier
    tiers: list[Tier]
    bytes: int
    precision: ModelPrecision
    pinned: bool = False
    sessions: int = 0
    loaded_at: datetime
    last_used: datetime
    priority: LoadPriority = LoadPriority.Normal
    reload_ms: float = 0.0
    health: float = 1.0
    memory: ModelMemoryUsage
    performance: ModelPerformance
    components: list[ComponentResidency] = []
    not_measured: dict[str, str] = {}


class DeviceIdentity(Record, frozen=True, kw_only=True):
    """What a device is, read once when its worker starts."""

    device_id: str
    uuid: str
    name: str
    kind: DeviceKind
    total_vram: int


class DeviceReport(Record, frozen=True, kw_only=True):
    """What the broker knows of a device at one moment, for the catalogue."""

    identity: DeviceIdentity
    state: DeviceState
    models: list[ModelResidency] = []

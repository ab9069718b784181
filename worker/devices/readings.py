"""What a device tells of itself at one moment: its memory, and its sensors."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from protocol.records import Record
from protocol.telemetry import GpuReading


class Gauge(Record, frozen=True, kw_only=True):
    """One reading of a device's memory, in bytes; `free` is what a placement can have. `missing` tells why one is None.

    `kept` are those of `reserved` that wait for the next load, and go back by themselves.
    """

    total: int
    used: int
    free: int
    reserved: int | None = None
    kept: int = 0
    allocated: int | None = None
    peak: int | None = None
    torch: dict[str, int] | None = None
    missing: dict[str, str] = {}


class Sensors(Record, frozen=True, kw_only=True):
    """What a device tells beside its memory: `utilization` 0-1 over the driver's last sample period, degrees Celsius,
    watts, joules since the driver was loaded. `missing` tells why one is None.
    """

    utilization: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    gpu: GpuReading | UnsetType = UNSET
    missing: dict[str, str] = {}


SENSORS = ("utilization", "temperature_c", "power_w", "energy_j")
"""Readings that each sample has, or names as missing."""

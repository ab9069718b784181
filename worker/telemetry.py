"""One sample of the device and its host. Both threads may ask for one; the level's hysteresis is shared."""

from __future__ import annotations

import threading

from protocol.telemetry import DeviceMemory, MemoryPressure, Telemetry
from worker import host
from worker.cache import ModelCache
from worker.devices.base import Device, Gauge
from worker.pressure import PressureMeter


class Sampler:
    """Reads the device, the cache and the host together."""

    def __init__(self, device: Device, cache: ModelCache, meter: PressureMeter) -> None:
        self._device = device
        self._cache = cache
        self._meter = meter
        self._lock = threading.Lock()

    def note_oom(self) -> None:
        with self._lock:
            self._meter.note_oom()

    def pressure(self) -> MemoryPressure:
        """The pressure alone: what every device reply carries."""
        return self._pressure(self._device.gauge())

    def sample(self) -> Telemetry:
        """Everything that can be read now; what cannot is None with its reason."""
        gauge = self._device.gauge()
        surroundings, host_missing = host.read(self._device.ram.used_bytes)
        pressure = self._pressure(gauge)
        return Telemetry(
            memory=DeviceMemory(
                total=gauge.total,
                used=gauge.used,
                free=gauge.free,
                reserved=gauge.reserved,
                allocated=gauge.allocated,
                reclaimable=pressure.reclaimable_bytes,
                peak=gauge.peak,
            ),
            memory_pressure=pressure,
            utilization=gauge.utilization,
            temperature_c=gauge.temperature_c,
            power_w=gauge.power_w,
            energy_j=gauge.energy_j,
            torch=gauge.torch,
            host=surroundings,
            missing={**gauge.missing, **host_missing},
        )

    def _pressure(self, gauge: Gauge) -> MemoryPressure:
        with self._lock:
            return self._meter.update(gauge.used, self._cache.reclaimable_bytes(), gauge.total)

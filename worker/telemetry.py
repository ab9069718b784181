"""One sample of the device and its host. Both threads may ask for one; the level's hysteresis is shared."""

from __future__ import annotations

import threading

from protocol.telemetry import DeviceMemory, MemoryPressure, Telemetry
from worker.cache import ModelCache
from worker.devices.base import Device
from worker.devices.readings import Gauge
from worker.host import HostReader
from worker.pressure import PressureMeter


class Sampler:
    """Reads the device, the cache and the host together."""

    def __init__(self, device: Device, cache: ModelCache, meter: PressureMeter) -> None:
        self._device = device
        self._cache = cache
        self._meter = meter
        self._host = HostReader()
        self._lock = threading.Lock()

    def note_oom(self) -> None:
        with self._lock:
            self._meter.note_oom()

    def pressure(self) -> MemoryPressure:
        """The pressure alone: what every device reply carries."""
        return self._pressure(self._device.gauge())

    def sample(self) -> Telemetry:
        """Everything that can be read now; what cannot is None with its reason."""
        gauge, sensors = self._device.gauge(), self._device.sensors()
        surroundings, host_missing = self._host.read(self._device.ram.used_bytes)
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
            utilization=sensors.utilization,
            temperature_c=sensors.temperature_c,
            power_w=sensors.power_w,
            energy_j=sensors.energy_j,
            torch=gauge.torch,
            gpu=sensors.gpu,
            host=surroundings,
            missing={**gauge.missing, **sensors.missing, **host_missing},
        )

    def _pressure(self, gauge: Gauge) -> MemoryPressure:
        with self._lock:
            return self._meter.update(gauge.used, self._cache.reclaimable_bytes(), gauge.total)

"""What NVML says of one GPU, or of one MIG instance of it, by UUID. From any thread, and before any CUDA context.

NVML's index is not CUDA's: nothing here knows one. A reading that the driver has not is None, with the reason under its
name in `missing`; one of a GPU that is lost raises, since nothing goes on then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

from protocol.records import Record
from protocol.telemetry import GpuProcess, GpuReading
from worker.devices.readings import Sensors

T = TypeVar("T")

LOST = ("NVMLError_GpuIsLost", "NVMLError_ResetRequired", "NVMLError_DriverNotLoaded")
"""Errors of NVML after which there is no device; by name, since pynvml makes their classes as it runs."""

THROTTLE_REASONS = {
    "application clocks": "nvmlClocksThrottleReasonApplicationsClocksSetting",
    "software power cap": "nvmlClocksThrottleReasonSwPowerCap",
    "hardware slowdown": "nvmlClocksThrottleReasonHwSlowdown",
    "sync boost": "nvmlClocksThrottleReasonSyncBoost",
    "software thermal slowdown": "nvmlClocksThrottleReasonSwThermalSlowdown",
    "hardware thermal slowdown": "nvmlClocksThrottleReasonHwThermalSlowdown",
    "hardware power brake": "nvmlClocksThrottleReasonHwPowerBrakeSlowdown",
    "display clocks": "nvmlClocksThrottleReasonDisplayClockSetting",
}
"""What a reason is called here, and in NVML. That a GPU idles is none: it is not held back."""

SHARED_METER = "a MIG instance has no meter of its own: the GPU's counts all of its instances"


class Memory(Record, frozen=True, kw_only=True):
    """Bytes: total = used + free + reserved. `reserved` is the driver's own, None where that is counted as used."""

    total: int
    used: int
    free: int
    reserved: int | None


class Gpu:
    """The GPU or MIG instance of a UUID. Raises `pynvml.NVMLError` where there is none."""

    def __init__(self, uuid: str) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._is_instance = uuid.casefold().startswith("mig-")
        # Sensors are the whole GPU's; an instance's handle has none.
        self._whole = (
            pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self._handle) if self._is_instance else self._handle
        )
        self.name = str(pynvml.nvmlDeviceGetName(self._handle))
        self.driver = str(pynvml.nvmlSystemGetDriverVersion())
        self._second_version = True

    def memory(self) -> Memory:
        """Raises `pynvml.NVMLError`: without this nothing can be placed."""
        if self._second_version:
            try:
                found = pynvml.nvmlDeviceGetMemoryInfo(self._handle, version=pynvml.nvmlMemory_v2)
                return _memory(found, int(found.reserved))
            except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported):
                self._second_version = False
        return _memory(pynvml.nvmlDeviceGetMemoryInfo(self._handle), None)

    def sensors(self) -> Sensors:
        """Raises `pynvml.NVMLError` where the GPU is lost."""
        missing: dict[str, str] = {}
        whole, own = self._whole, self._handle
        gpu = GpuReading(
            driver_reserved_bytes=_tried(missing, "gpu.driver_reserved_bytes", self._driver_reserved),
            uncorrected_ecc_errors=_tried(missing, "gpu.uncorrected_ecc_errors", lambda: _ecc(whole)),
            throttle_reasons=_tried(missing, "gpu.throttle_reasons", lambda: _throttle_reasons(whole)),
            processes=_tried(missing, "gpu.processes", lambda: _processes(own)),
        )
        return Sensors(
            utilization=_tried(missing, "utilization", lambda: _utilization(own)),
            temperature_c=_tried(missing, "temperature_c", lambda: _temperature(whole)),
            power_w=self._metered(missing, "power_w", lambda: pynvml.nvmlDeviceGetPowerUsage(whole) / 1000),
            energy_j=self._metered(
                missing, "energy_j", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(whole) / 1000
            ),
            gpu=gpu,
            missing=missing,
        )

    def _driver_reserved(self) -> int:
        reserved = self.memory().reserved
        if reserved is None:
            raise pynvml.NVMLError_FunctionNotFound
        return reserved

    def _metered(self, missing: dict[str, str], name: str, reading: Callable[[], float]) -> float | None:
        if self._is_instance:
            missing[name] = SHARED_METER
            return None
        return _tried(missing, name, reading)


def _tried(missing: dict[str, str], name: str, reading: Callable[[], T]) -> T | None:
    try:
        return reading()
    except pynvml.NVMLError as error:
        if type(error).__name__ in LOST:
            raise
        missing[name] = f"NVML: {error}"
        return None


def _memory(found: Any, reserved: int | None) -> Memory:
    return Memory(total=int(found.total), used=int(found.used), free=int(found.free), reserved=reserved)


def _utilization(handle: Any) -> float:
    return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


def _temperature(handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))


def _ecc(handle: Any) -> int:
    """Memory errors since the driver was loaded that could not be corrected."""
    kind, counter = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return int(pynvml.nvmlDeviceGetTotalEccErrors(handle, kind, counter))


def _throttle_reasons(handle: Any) -> list[str]:
    mask = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
    return [name for name, constant in THROTTLE_REASONS.items() if mask & getattr(pynvml, constant)]


def _processes(handle: Any) -> list[GpuProcess]:
    """Those that compute; in a container their bytes are not told, and often not they."""
    found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return [GpuProcess(pid=int(one.pid), bytes=_known(one.usedGpuMemory)) for one in found]


def _known(count: int | None) -> int | None:
    return None if count is None else int(count)

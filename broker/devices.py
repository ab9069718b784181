"""Which devices this machine has, asked of NVML alone: no CUDA context is made."""

from __future__ import annotations

import ctypes

from msgspec import Struct

from protocol.enums import DeviceKind
from settings.config import ConfigError, DeviceRequest, Settings

_CPU_DEVICES = 2
"""Devices of a machine without a GPU, where nothing is configured."""


class FoundDevice(Struct, frozen=True, kw_only=True):
    """A device to keep a worker for; `cuda_uuid` is empty for other kinds."""

    request: DeviceRequest
    cuda_uuid: str = ""


def find_devices(settings: Settings) -> list[FoundDevice]:
    """The devices configured; every CUDA device, or two cpu devices, where nothing is. Raises ConfigError."""
    wanted = settings.devices
    if wanted is not None and all(request.kind is not DeviceKind.CUDA for request in wanted):
        return [FoundDevice(request=request) for request in wanted]
    uuids = cuda_uuids()
    if wanted is None and not uuids:
        return [FoundDevice(request=DeviceRequest(kind=DeviceKind.CPU, index=i)) for i in range(_CPU_DEVICES)]
    if wanted is None:
        wanted = tuple(DeviceRequest(kind=DeviceKind.CUDA, index=index) for index in range(len(uuids)))
    absent = [request.device_id for request in wanted if request.index >= len(uuids)]
    if absent:
        raise ConfigError(f"devices names {', '.join(absent)}: NVML finds {len(uuids)} CUDA devices")
    return [FoundDevice(request=request, cuda_uuid=uuids[request.index]) for request in wanted]


def cuda_uuids() -> list[str]:
    """The UUIDs of all CUDA devices in NVML's order; empty where there is no driver."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    import pynvml  # noqa: PLC0415 - only a machine with a driver pays for it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        count = pynvml.nvmlDeviceGetCount()
        return [str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index))) for index in range(count)]
    finally:
        pynvml.nvmlShutdown()

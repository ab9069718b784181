"""Which devices this machine has, asked of NVML alone: no CUDA context is made."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from protocol.enums import DeviceKind
from settings.config import DeviceRequest, Settings
from settings.file import ConfigError
from settings.host import cores

_CPU_DEVICES = 2
"""Devices of a machine without a GPU, where nothing is configured."""


class FoundDevice(Struct, frozen=True, kw_only=True):
    """A device to keep a worker for; `cuda_uuid` is empty for other kinds, `threads` what its worker computes with on
    the processor, 0 where it computes nothing."""

    request: DeviceRequest
    cuda_uuid: str = ""
    threads: int = 0


class Gpu(Struct, frozen=True, kw_only=True):
    """A GPU as NVML has it; `instances` are the UUIDs of its MIG instances, which stand for it where it has some."""

    uuid: str
    instances: list[str] = []

    @property
    def devices(self) -> list[str]:
        return self.instances or [self.uuid]


def find_devices(settings: Settings) -> list[FoundDevice]:
    """The devices of these settings, the processor's cores shared out among them. Raises ConfigError.

    Workers that each took all cores would wait for one another at the end of every operation: two on two cores drew
    ninety times slower beside each other than alone.
    """
    found = _found(settings)
    computing = sum(device.request.kind is not DeviceKind.VIRTUAL for device in found)
    threads = settings.worker_threads or max(1, cores() // max(1, computing))
    return [
        device if device.request.kind is DeviceKind.VIRTUAL else msgspec.structs.replace(device, threads=threads)
        for device in found
    ]


def _found(settings: Settings) -> list[FoundDevice]:
    """The devices configured; every CUDA device, or two cpu devices, where nothing is. Raises ConfigError.

    CUDA devices are those that `CUDA_VISIBLE_DEVICES` leaves, numbered in its order, as CUDA numbers them.
    """
    wanted = settings.devices
    if wanted is not None and all(request.kind is not DeviceKind.CUDA for request in wanted):
        return [FoundDevice(request=request) for request in wanted]
    uuids = visible(settings.cuda_visible, gpus())
    if wanted is None and not uuids:
        return [FoundDevice(request=DeviceRequest(kind=DeviceKind.CPU, index=i)) for i in range(_CPU_DEVICES)]
    if wanted is None:
        wanted = tuple(DeviceRequest(kind=DeviceKind.CUDA, index=index) for index in range(len(uuids)))
    cuda = [request for request in wanted if request.kind is DeviceKind.CUDA]
    absent = [request.device_id for request in cuda if request.index >= len(uuids)]
    if absent:
        mask = "" if settings.cuda_visible is None else f", and CUDA_VISIBLE_DEVICES is '{settings.cuda_visible}'"
        raise ConfigError(f"devices names {', '.join(absent)}: there are {len(uuids)} CUDA devices{mask}")
    return [
        FoundDevice(request=request, cuda_uuid=uuids[request.index] if request.kind is DeviceKind.CUDA else "")
        for request in wanted
    ]


def visible(mask: str | None, found: Sequence[Gpu]) -> list[str]:
    """The UUIDs that a `CUDA_VISIBLE_DEVICES` leaves, in its order; None: all.

    As CUDA reads it: indices, and UUIDs of GPUs and of MIG instances or what they begin with; what stands behind the
    first word that names nothing is not visible. An index is NVML's, which is the order of `PCI_BUS_ID`.
    """
    if mask is None:
        return [uuid for gpu in found for uuid in gpu.devices]
    chosen: dict[str, None] = {}
    for word in mask.split(","):
        named = _named(word.strip(), found)
        if not named:
            break
        chosen |= dict.fromkeys(named)
    return list(chosen)


def _named(word: str, found: Sequence[Gpu]) -> list[str]:
    if word.isdecimal():
        return found[int(word)].devices if int(word) < len(found) else []
    folded = word.casefold()
    if folded.startswith("gpu-"):
        gpus_named = [gpu for gpu in found if gpu.uuid.casefold().startswith(folded)]
        return gpus_named[0].devices if len(gpus_named) == 1 else []
    if folded.startswith("mig-"):
        matches = [uuid for gpu in found for uuid in gpu.instances if uuid.casefold().startswith(folded)]
        return matches if len(matches) == 1 else []
    return []


def gpus() -> list[Gpu]:
    """All GPUs in NVML's order; empty where there is no driver."""
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
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [Gpu(uuid=str(pynvml.nvmlDeviceGetUUID(handle)), instances=_instances(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _instances(handle: Any) -> list[str]:
    """The MIG instances of a GPU in NVML's order; none where it is not divided, or cannot be."""
    import pynvml  # noqa: PLC0415 - see above

    found = []
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if current else 0
    except pynvml.NVMLError:
        return []
    for index in range(most):
        try:
            found.append(str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))))
        except pynvml.NVMLError:
            continue
    return found

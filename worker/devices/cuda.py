"""A CUDA device: torch's allocator for what this worker holds, NVML by UUID for what the device says.

NVML is read before anything makes a context, and from any thread; torch's figures are kept by the device thread.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from protocol.enums import DeviceKind, ModelPrecision
from protocol.link import WorkerSpec
from protocol.telemetry import DeviceIdentity
from worker.devices.readings import Gauge, Sensors
from worker.devices.torch_device import RunMeter, TorchDevice
from worker.nvml import LOST, Gpu

if TYPE_CHECKING:
    import torch

    from worker.components import Component
    from worker.pipelines import Pipelines
    from worker.streaming import Piece

BFLOAT16_CAPABILITY = 8
"""The compute capability (major) from which BFloat16 arithmetic is in hardware."""

FIGURES = {
    "allocated_bytes": "allocated_bytes.all.current",
    "reserved_bytes": "reserved_bytes.all.current",
    "allocated_peak_bytes": "allocated_bytes.all.peak",
    "inactive_split_bytes": "inactive_split_bytes.all.current",
    "allocation_retries": "num_alloc_retries",
    "out_of_memory_errors": "num_ooms",
}
"""Our names to those of `torch.cuda.memory_stats`."""


def poisoned_by(error: BaseException | None) -> str:
    """Why a CUDA context is of no use after an error or its causes: illegal access, failed launch, ECC, lost device.

    torch reports them as `AcceleratorError` or a RuntimeError that begins with "CUDA error"; running out of memory is
    none of them. "" where the context goes on.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        name, text = type(error).__name__, str(error)
        if name != "OutOfMemoryError" and "out of memory" not in text:
            first = text.partition("\n")[0]
            if name in (*LOST, "AcceleratorError") or first.startswith(("CUDA error", "CUDA driver error")):
                return first[:200] or name
        error = error.__cause__ or error.__context__
    return ""


class CudaDevice(TorchDevice):
    """One GPU, the only one that this process sees."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self._gpu = Gpu(spec.cuda_uuid)
        self._torch: dict[str, int] | None = None
        self._identity = DeviceIdentity(
            device_id=spec.device_id,
            uuid=spec.cuda_uuid,
            name=self._gpu.name,
            kind=DeviceKind.CUDA,
            total_vram=self._gpu.memory().total,
        )

    @property
    def torch_device(self) -> torch.device:
        import torch  # noqa: PLC0415

        return torch.device("cuda", 0)

    def identity(self) -> DeviceIdentity:
        return self._identity

    def open(self) -> None:
        import torch  # noqa: PLC0415

        major, _ = torch.cuda.get_device_capability(0)
        sixteen = (ModelPrecision.Float16, ModelPrecision.BFloat16)
        self.computes_well = (ModelPrecision.Float32, *sixteen[: 2 if major >= BFLOAT16_CAPABILITY else 1])
        self._note()

    def gauge(self) -> Gauge:
        """NVML's figures; what torch has reserved and not allocated counts as free, since a placement can have it."""
        memory = self._gpu.memory()
        figures = self._torch or {}
        reserved, allocated = figures.get("reserved_bytes"), figures.get("allocated_bytes")
        free = memory.free + (reserved or 0) - (allocated or 0)
        return Gauge(
            total=memory.total,
            used=memory.total - free,
            free=free,
            reserved=reserved,
            allocated=allocated,
            peak=figures.get("allocated_peak_bytes"),
            torch=self._torch,
            missing={} if self._torch is not None else {"torch": "torch is not ready yet"},
        )

    def sensors(self) -> Sensors:
        return self._gpu.sensors()

    def glance(self) -> None:
        self._note()

    def capability(self) -> dict[str, str]:
        import torch  # noqa: PLC0415

        major, minor = torch.cuda.get_device_capability(0)
        return {"compute_capability": f"{major}.{minor}"}

    def software(self) -> dict[str, str]:
        import torch  # noqa: PLC0415

        return {**super().software(), "cuda": str(torch.version.cuda), "driver": self._gpu.driver}

    def poisoned_by(self, error: BaseException) -> str:
        return poisoned_by(error)

    def reclaim(self) -> None:
        import torch  # noqa: PLC0415

        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self._note()

    def place(self, components: Sequence[Component]) -> None:
        refused: BaseException | None = None
        try:
            for component in components:
                component.module.to(self.torch_device)
            self.synchronize()
        except self.out_of_memory as error:
            refused = error.with_traceback(None)
        if refused is not None:
            # Outside the handler: a traceback would keep the tensors of the move alive.
            self.displace(components, keep=True)
            raise refused
        self._note()

    def displace(self, components: Sequence[Component], *, keep: bool) -> None:
        if keep:
            for component in components:
                component.module.to("cpu")
        self.synchronize()
        self._note()

    def bring(self, piece: Piece) -> None:
        piece.move(self.torch_device)

    def send_back(self, piece: Piece) -> None:
        # The allocator gives its memory to later work of the same stream alone.
        piece.come_back()

    @contextmanager
    def watch(
        self, pipelines: Pipelines, model_bytes: int, limit_bytes: int, known_peak: int | None, streamed_bytes: int = 0
    ) -> Iterator[RunMeter]:
        import torch  # noqa: PLC0415

        meter = RunMeter()
        others = torch.cuda.memory_allocated() - model_bytes
        torch.cuda.reset_peak_memory_stats()
        if limit_bytes:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, (limit_bytes + others) / total))
        try:
            yield meter
            self.synchronize()
            meter.peak_bytes = torch.cuda.max_memory_allocated() - others
        finally:
            if limit_bytes:
                torch.cuda.set_per_process_memory_fraction(1.0)
            self._note()

    def synchronize(self) -> None:
        import torch  # noqa: PLC0415

        torch.cuda.synchronize()

    def _note(self) -> None:
        """Keep torch's figures for threads that may not touch torch."""
        import torch  # noqa: PLC0415

        figures = torch.cuda.memory_stats()
        self._torch = {name: int(figures.get(key, 0)) for name, key in FIGURES.items()}

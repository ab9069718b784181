"""A cpu device: real models, and a byte budget that stands for VRAM.

Weights placed on it are private copies, counted exactly; a placement beyond the budget raises what CUDA raises. Work
is not counted against the budget unless a load bounds it with a memory fraction.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from protocol.enums import DeviceKind, ModelPrecision
from protocol.link import WorkerSpec
from protocol.telemetry import DeviceIdentity
from worker.devices.ledger import Ledger
from worker.devices.readings import Gauge, Sensors
from worker.devices.torch_device import RunMeter, TorchDevice

if TYPE_CHECKING:
    import torch

    from worker.components import Component
    from worker.livetensors import LiveTensors
    from worker.pipelines import Pipelines
    from worker.streaming import Piece

ABSENT = {
    "utilization": "a cpu device is a budget of bytes, not a processor of its own",
    "temperature_c": "a cpu device has no sensor",
    "power_w": "a cpu device has no meter",
    "energy_j": "a cpu device has no meter",
}


class CpuDevice(TorchDevice):
    """A budget that real weights are counted against."""

    counts_work: ClassVar[bool] = False

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(spec)
        self.ledger = Ledger(spec.budget_bytes, MemoryError)
        self._live: LiveTensors | None = None
        self._identity = DeviceIdentity(
            device_id=spec.device_id,
            uuid=f"CPU-{spec.device_id.replace(':', '-')}",
            name=platform.processor() or platform.machine() or "cpu",
            kind=DeviceKind.CPU,
            total_vram=spec.budget_bytes,
        )

    @property
    def torch_device(self) -> torch.device:
        import torch  # noqa: PLC0415

        return torch.device("cpu")

    def identity(self) -> DeviceIdentity:
        return self._identity

    def open(self) -> None:
        # Float16 arithmetic is emulated on most processors; BFloat16 has the same width and the range of Float32.
        self.computes_well = (ModelPrecision.Float32, ModelPrecision.BFloat16)
        self.ledger.refuse = self.out_of_memory

    def gauge(self) -> Gauge:
        used = self.ledger.used_bytes
        kept = self.kept.bytes if self.kept is not None else 0
        return Gauge(
            total=self.ledger.total_bytes,
            used=used,
            free=self.ledger.total_bytes - used,
            reserved=used + kept,
            kept=kept,
            allocated=used,
            peak=self.ledger.peak_bytes,
            missing={"torch": "torch keeps no figures of cpu memory"},
        )

    def glance(self) -> None:
        pass

    def in_use_bytes(self) -> int:
        live = self._live
        return self.ledger.used_bytes + (live.live_bytes if live is not None else 0)

    def sensors(self) -> Sensors:
        return Sensors(missing=ABSENT)

    def capability(self) -> dict[str, str]:
        import torch  # noqa: PLC0415

        return {"instruction_set": torch.backends.cpu.get_cpu_capability()}

    def place(self, components: Sequence[Component]) -> None:
        # The loader's copies are private already: they become the device's by being counted.
        self.ledger.take(sum(one.bytes for one in components))

    def displace(self, components: Sequence[Component], *, keep: bool) -> None:
        self.ledger.give(sum(one.bytes for one in components))

    def bring(self, piece: Piece) -> None:
        self.ledger.take(piece.bytes)

    def send_back(self, piece: Piece) -> None:
        self.ledger.give(piece.bytes)

    @contextmanager
    def watch(
        self, pipelines: Pipelines, model_bytes: int, limit_bytes: int, known_peak: int | None, streamed_bytes: int = 0
    ) -> Iterator[RunMeter]:
        from worker.livetensors import LiveTensors  # noqa: PLC0415

        meter, model_bytes = RunMeter(), model_bytes + streamed_bytes
        if known_peak is not None and not limit_bytes:
            meter.peak_bytes = known_peak
            yield meter
            return
        allowed = limit_bytes - model_bytes if limit_bytes else None
        with LiveTensors(pipelines.modules(), allowed) as live:
            self._live = live
            try:
                yield meter
            except Exception:
                # A library may have wrapped the refusal in an error of its own.
                if live.refusal is not None:
                    raise live.refusal.with_traceback(None) from None
                raise
            finally:
                self._live = None
        meter.peak_bytes = model_bytes + live.peak_bytes

    def synchronize(self) -> None:
        pass

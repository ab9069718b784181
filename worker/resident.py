"""A model that a worker holds, and all that is known of it here: its tier, its uses, what its runs measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from modelfiles.model import ModelFile
from protocol.enums import LoadPriority, ModelStatus, Tier
from protocol.records import DevicePerformance, ModelLoadConfiguration, ModelMemoryUsage, ModelPerformance
from protocol.replies import OptionOutcome
from protocol.telemetry import ComponentResidency, ModelResidency
from worker.devices.base import BuiltModel, Rung
from worker.options import Resolved
from worker.work import MOST_SHAPES, Shape

RUNS_REMEMBERED = 20
FOREVER = -1.0


class Resident:
    """A model that the worker holds, and all that is known of it here."""

    def __init__(self, model_id: str, file: ModelFile, built: BuiltModel, resolved: Resolved, now: float) -> None:
        self.model_id = model_id
        self.file = file
        self.built = built
        self.resolved = resolved
        self.tier = Tier.VRAM
        self.configuration = ModelLoadConfiguration()
        self.original: ModelLoadConfiguration | None = None
        """What it was loaded under before it was optimised; it is again once it has left the device."""
        self.options: list[OptionOutcome] = []
        self.priority = LoadPriority.Normal
        self.keep_alive_seconds = FOREVER
        self.keeps_ram_copy = True
        self.copied = False
        self.refused_at: int | None = None
        """The bytes that were in the RAM tier when it had no room for a copy."""
        self.pinned = False
        self.sessions = 0
        self.holds = 0
        self.leaving = False
        self.loaded_at = datetime.now(UTC)
        self.last_used = self.loaded_at
        self.used_at = now
        self.runs: deque[bool] = deque(maxlen=RUNS_REMEMBERED)
        self.run_ms: list[float] = []
        self.images = 0
        self.load_ms: list[float] = []
        self.last_peak_bytes: int | None = None
        self.highest_bytes = self.device_bytes
        self.rungs: dict[Shape, tuple[tuple[Rung, ...], int]] = {}
        """What a run of a shape had to be drawn with, and the bytes that were free then."""

    @property
    def bytes(self) -> int:
        return self.built.bytes

    @property
    def device_bytes(self) -> int:
        """What lies on the device at rest."""
        return self.bytes if self.built.streamed_bytes is None else 0

    @property
    def placed(self) -> dict[str, int]:
        """Of its components those that lie on the device at rest, where it is there."""
        return self.components if self.built.streamed_bytes is None else {}

    @property
    def components(self) -> dict[str, int]:
        """What it holds: the key of each part that has bytes, which models that share the part have in common."""
        return {part.key or f"{self.model_id}/{part.name}": part.bytes for part in self.built.parts if part.bytes}

    @property
    def lasting(self) -> ModelLoadConfiguration:
        """What it was loaded under, whatever an optimisation made of it."""
        return self.configuration if self.original is None else self.original

    @property
    def is_to_be_restored(self) -> bool:
        """Whether it was optimised, and has left the device since."""
        return self.original is not None and self.tier is not Tier.VRAM

    @property
    def busy(self) -> bool:
        """In use by a run, or being moved: nothing that makes room may take it."""
        return self.sessions > 0 or self.holds > 0

    def touch(self, now: float) -> None:
        self.used_at, self.last_used = now, datetime.now(UTC)

    def note_run(self, succeeded: bool) -> None:
        self.runs.append(succeeded)

    def note_drawing(self, run_ms: float, images: int, peak_bytes: int | None) -> None:
        self.run_ms.append(run_ms)
        self.images += images
        if peak_bytes is not None:
            self.last_peak_bytes = peak_bytes
            self.highest_bytes = max(self.highest_bytes, peak_bytes)

    def note_rung(self, shape: Shape, rung: tuple[Rung, ...], free_bytes: int) -> None:
        self.rungs[shape] = (rung, free_bytes)
        if len(self.rungs) > MOST_SHAPES:
            del self.rungs[next(iter(self.rungs))]

    def memory(self) -> ModelMemoryUsage:
        """The host's record, as `protocol.records` defines its figures."""
        in_vram = self.device_bytes if self.tier is Tier.VRAM else 0
        activations = max(0, (self.last_peak_bytes or 0) - self.device_bytes)
        return ModelMemoryUsage(
            model_memory_bytes=in_vram,
            weights_memory_bytes=in_vram,
            activations_memory_bytes=activations,
            cache_memory_bytes=self.bytes if self.tier is Tier.RAM else 0,
            total_memory_bytes=in_vram + activations,
            peak_memory_bytes=self.highest_bytes,
            memory_efficiency=in_vram / self.highest_bytes if self.highest_bytes else 0.0,
        )

    def performance(self, device_id: str) -> ModelPerformance:
        """Means of what was measured here; throughput is images by time."""
        total_ms, count = sum(self.run_ms), len(self.run_ms)
        average = total_ms / count if count else 0.0
        throughput = self.images / total_ms * 1000 if total_ms else 0.0
        here = DevicePerformance(average_inference_time=average, throughput=throughput, inference_count=count)
        return ModelPerformance(
            average_loading_time=sum(self.load_ms) / len(self.load_ms) if self.load_ms else 0.0,
            average_inference_time=average,
            inference_throughput=throughput,
            total_inferences=count,
            device_performance={device_id: here} if count else {},
        )

    def not_measured(self) -> dict[str, str]:
        """The figures of `memory` and `performance` that nothing measured yet."""
        if self.run_ms and self.last_peak_bytes is not None:
            return {}
        reason = "no run of this model has been measured on this device"
        absent = {"memory.activations_memory_bytes": reason}
        if not self.run_ms:
            names = ("average_inference_time", "inference_throughput")
            absent |= {f"performance.{name}": reason for name in names}
        return absent

    def residency(self, device_id: str, shared_with: Mapping[str, list[str]], reload_ms: float) -> ModelResidency:
        """What a report says of this model; `shared_with` are other models' ids by the name of the part."""
        return ModelResidency(
            model_id=self.model_id,
            status=ModelStatus.Loaded if self.tier is Tier.VRAM else ModelStatus.Available,
            tier=self.tier,
            tiers=[Tier.VRAM, Tier.RAM] if self.copied and self.tier is Tier.VRAM else [self.tier],
            bytes=self.device_bytes if self.tier is Tier.VRAM else self.bytes,
            precision=self.built.precision,
            pinned=self.pinned,
            sessions=self.sessions,
            loaded_at=self.loaded_at,
            last_used=self.last_used,
            priority=self.priority,
            reload_ms=reload_ms,
            health=sum(self.runs) / len(self.runs) if self.runs else 1.0,
            memory=self.memory(),
            performance=self.performance(device_id),
            components=[
                ComponentResidency(
                    name=part.name,
                    type=part.type,
                    bytes=part.bytes,
                    tier=self.tier if self.built.streamed_bytes is None else Tier.RAM,
                    shared_with=shared_with.get(part.name, []),
                )
                for part in self.built.parts
            ],
            not_measured=self.not_measured(),
        )

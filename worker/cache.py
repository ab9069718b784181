"""Which models this worker holds, in which tier, and who must leave for another.

The one authority on residency: in use, held still while it moves, pinned, about to leave, priority, keep-alive. Without
one table, an eviction could take what a run still uses or a load still moves, and a pin could be answered for a model
that is going. Decides victims and expiry from what it holds; moves nothing itself (`worker.keeper` does). The device
thread changes tiers; the I/O thread reads and pins. One lock, held for table work alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from modelfiles.model import ModelFile
from protocol.enums import LoadPriority, ModelStatus, Tier
from protocol.errors import ErrorCode, Fault, Recovery
from protocol.records import DevicePerformance, ModelLoadConfiguration, ModelMemoryUsage, ModelPerformance, Record
from protocol.replies import OptionOutcome
from protocol.telemetry import ComponentResidency, ModelResidency
from worker.devices.base import BuiltModel
from worker.options import Resolved

RUNS_REMEMBERED = 20
FOREVER = -1.0


class Room(Record, frozen=True, kw_only=True):
    """A device's memory as an admission sees it, in bytes."""

    total: int
    free: int


class Resident:
    """A model that the worker holds, and all that is known of it here."""

    def __init__(self, model_id: str, file: ModelFile, built: BuiltModel, resolved: Resolved, now: float) -> None:
        self.model_id = model_id
        self.file = file
        self.built = built
        self.resolved = resolved
        self.tier = Tier.VRAM
        self.configuration = ModelLoadConfiguration()
        self.options: list[OptionOutcome] = []
        self.priority = LoadPriority.Normal
        self.keep_alive_seconds = FOREVER
        self.keeps_ram_copy = True
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
        self.highest_bytes = built.bytes

    @property
    def bytes(self) -> int:
        return self.built.bytes

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

    def memory(self) -> ModelMemoryUsage:
        """The host's record, as `protocol.records` defines its figures."""
        in_vram = self.bytes if self.tier is Tier.VRAM else 0
        activations = max(0, (self.last_peak_bytes or 0) - self.bytes)
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

    def residency(self, device_id: str) -> ModelResidency:
        """What a report says of this model."""
        return ModelResidency(
            model_id=self.model_id,
            status=ModelStatus.Loaded if self.tier is Tier.VRAM else ModelStatus.Available,
            tier=self.tier,
            tiers=[self.tier],
            bytes=self.bytes,
            precision=self.built.precision,
            pinned=self.pinned,
            sessions=self.sessions,
            loaded_at=self.loaded_at,
            last_used=self.last_used,
            health=sum(self.runs) / len(self.runs) if self.runs else 1.0,
            memory=self.memory(),
            performance=self.performance(device_id),
            components=[
                ComponentResidency(name=part.name, type=part.type, bytes=part.bytes, tier=self.tier)
                for part in self.built.parts
            ],
            not_measured=self.not_measured(),
        )


class ModelCache:
    """The table of residents."""

    def __init__(self, device_id: str, ram_budget_bytes: int, clock: Callable[[], float]) -> None:
        self.device_id = device_id
        self.ram_budget_bytes = ram_budget_bytes
        self.clock = clock
        self._lock = threading.RLock()
        self._residents: dict[str, Resident] = {}

    def get(self, model_id: str) -> Resident | None:
        with self._lock:
            return self._residents.get(model_id)

    def put(self, resident: Resident) -> None:
        """A model is held; one that takes an id over keeps the pin that it has at this moment."""
        with self._lock:
            known = self._residents.get(resident.model_id)
            if known is not None:
                resident.pinned = known.pinned
            self._residents[resident.model_id] = resident

    def drop(self, resident: Resident) -> None:
        """Forget a model; one that took its id over stays."""
        with self._lock:
            if self._residents.get(resident.model_id) is resident:
                del self._residents[resident.model_id]

    def held(self, tier: Tier) -> list[Resident]:
        with self._lock:
            return [resident for resident in self._residents.values() if resident.tier is tier]

    def ram_bytes(self) -> int:
        return sum(resident.bytes for resident in self.held(Tier.RAM))

    def reclaimable_bytes(self) -> int:
        """Bytes on the device of models neither in use nor pinned."""
        return sum(resident.bytes for resident in self.held(Tier.VRAM) if not (resident.busy or resident.pinned))

    def listing(self) -> list[ModelResidency]:
        with self._lock:
            return [resident.residency(self.device_id) for resident in self._residents.values()]

    def pin(self, model_id: str, pinned: bool) -> Resident | None:
        """Set or lift a pin. Only what is on the device, and stays, can be pinned; None where it is not."""
        with self._lock:
            resident = self._residents.get(model_id)
            if resident is None or resident.tier is not Tier.VRAM or resident.leaving:
                return None
            resident.pinned = pinned
            return resident

    @contextmanager
    def held_still(self, resident: Resident) -> Iterator[None]:
        """Nothing that makes room takes this model meanwhile, in whichever tier it is."""
        with self._lock:
            resident.holds += 1
        try:
            yield
        finally:
            with self._lock:
                resident.holds -= 1

    def claim(self, resident: Resident) -> None:
        """The model is about to leave the device: it cannot be pinned any more."""
        with self._lock:
            resident.leaving = True

    def disclaim(self, residents: Iterable[Resident]) -> None:
        """These models do not leave after all, or have left."""
        with self._lock:
            for resident in residents:
                resident.leaving = False

    def begin(self, resident: Resident) -> None:
        """The model is in use from here to `end`."""
        with self._lock:
            resident.sessions += 1

    def end(self, resident: Resident) -> None:
        with self._lock:
            resident.sessions -= 1
            resident.touch(self.clock())

    def claim_expired(self) -> list[Resident]:
        """Models on the device whose keep-alive has run out since their last use; they are claimed."""
        now = self.clock()
        with self._lock:
            return self._claimed(
                resident
                for resident in self._idle()
                if resident.keep_alive_seconds >= 0 and now - resident.used_at >= resident.keep_alive_seconds
            )

    def claim_idle(self, keep: Iterable[str]) -> list[Resident]:
        """Every model on the device that may leave, but those of these ids; they are claimed."""
        with self._lock:
            return self._claimed(self._idle(keep))

    def claim_ram(self, needed_bytes: int, leaving: Resident) -> list[Resident] | None:
        """Who leaves the RAM tier so that `needed_bytes` of `leaving` fit, used longest ago first; they are claimed.

        None, and nobody claimed, where even all that may go would not make room.
        """
        with self._lock:
            idle = [r for r in self.held(Tier.RAM) if not (r.busy or r.leaving) and r is not leaving]
            excess = self.ram_bytes() + needed_bytes - self.ram_budget_bytes
            chosen: list[Resident] = []
            for resident in sorted(idle, key=lambda r: r.used_at):
                if excess <= 0:
                    break
                chosen.append(resident)
                excess -= resident.bytes
            return self._claimed(chosen) if excess <= 0 else None

    def next_expiry(self) -> float | None:
        """The moment, on this cache's clock, at which the next model expires; None where none will."""
        with self._lock:
            moments = [r.used_at + r.keep_alive_seconds for r in self._idle() if r.keep_alive_seconds >= 0]
        return min(moments, default=None)

    def victims(self, needed_bytes: int, room: Room, keep: Iterable[str] = ()) -> list[Resident]:
        """Who would leave the device so that `needed_bytes` fit, first to go first.

        `keep` are model ids that stay. Raises Fault INSUFFICIENT_MEMORY, and then nobody leaves.
        """
        with self._lock:
            chosen: list[Resident] = []
            free = room.free
            for resident in sorted(self._idle(keep), key=_leaving_order):
                if free >= needed_bytes:
                    break
                chosen.append(resident)
                free += resident.bytes
            if free < needed_bytes:
                raise self.insufficient(needed_bytes, room)
            return chosen

    def claim_victims(self, needed_bytes: int, room: Room, keep: Iterable[str] = ()) -> list[Resident]:
        """As `victims`; they are claimed, so that no pin is answered for a model that goes."""
        with self._lock:
            return self._claimed(self.victims(needed_bytes, room, keep))

    def _idle(self, keep: Iterable[str] = ()) -> list[Resident]:
        """Models on the device that may leave."""
        kept = frozenset(keep)
        return [r for r in self.held(Tier.VRAM) if not (r.busy or r.pinned or r.leaving) and r.model_id not in kept]

    def _claimed(self, residents: Iterable[Resident]) -> list[Resident]:
        chosen = list(residents)
        for resident in chosen:
            resident.leaving = True
        return chosen

    def insufficient(self, needed_bytes: int, room: Room) -> Fault:
        """INSUFFICIENT_MEMORY with the numbers, and the commands that would help."""
        never = needed_bytes > room.total
        held = [resident for resident in self.held(Tier.VRAM) if resident.pinned or resident.busy]
        details = {
            "needed_bytes": needed_bytes,
            "free_bytes": room.free,
            "evictable_bytes": self.reclaimable_bytes(),
            "pinned_bytes": sum(resident.bytes for resident in held if resident.pinned),
            "total_bytes": room.total,
        }
        text = f"{needed_bytes} bytes are needed on {self.device_id}: {room.free} of {room.total} are free"
        text += f", {details['evictable_bytes']} evictable, {details['pinned_bytes']} pinned"
        recovery = [_elsewhere()] if never else [self._freeing(resident) for resident in held] or [_elsewhere()]
        return Fault(ErrorCode.INSUFFICIENT_MEMORY, text, retryable=not never, details=details, recovery=recovery)

    def _freeing(self, resident: Resident) -> Recovery:
        parameters = {"model_id": resident.model_id, "device_id": self.device_id}
        if resident.pinned:
            text = f"let {resident.model_id} be evicted: {resident.bytes} bytes"
            return Recovery(action="unpin_model", description=text, parameters=parameters)
        text = f"unload {resident.model_id}: {resident.bytes} bytes"
        return Recovery(action="unload_model", description=text, parameters=parameters)


def _elsewhere() -> Recovery:
    return Recovery(action="list_devices", description="find a device with more memory", parameters={})


def _leaving_order(resident: Resident) -> tuple[int, float]:
    """Lower priority of the last load first, then least recently used."""
    return (resident.priority.ordinal, resident.used_at)

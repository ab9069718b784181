"""Which models this worker holds, in which tier, and who must leave for another.

The one authority on residency: in use, held still while it moves, pinned, about to leave, priority, keep-alive. Without
one table, an eviction could take what a run still uses or a load still moves, and a pin could be answered for a model
that is going. Decides victims and expiry from what it holds; moves nothing itself (`worker.keeper` does). The device
thread changes tiers; the I/O thread reads and pins. One lock, held for table work alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

from protocol.enums import Tier
from protocol.errors import ErrorCode, Fault, Recovery
from protocol.leaving import Standing, leaving_order
from protocol.records import Record
from protocol.telemetry import ModelResidency
from worker.reloads import Reloads
from worker.resident import Resident


class Room(Record, frozen=True, kw_only=True):
    """A device's memory as an admission sees it, in bytes."""

    total: int
    free: int


class ModelCache:
    """The table of residents."""

    def __init__(self, device_id: str, clock: Callable[[], float], reloads: Reloads) -> None:
        self.device_id = device_id
        self.reloads = reloads
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

    def added_bytes(self, resident: Resident) -> int:
        """What a model would take of the device: its parts that no other model has there."""
        with self._lock:
            there = _keys(other for other in self.held(Tier.VRAM) if other is not resident)
            return sum(size for key, size in resident.placed.items() if key not in there)

    def freed_bytes(self, leaving: Sequence[Resident], coming: Resident | None = None) -> int:
        """What the device would have back of these models: their parts that none of the others there has.

        `coming` is about to be placed, and keeps what it shares with them.
        """
        with self._lock:
            staying = [other for other in self.held(Tier.VRAM) if other not in leaving]
            kept = _keys([*staying, coming] if coming is not None else staying)
            return sum(size for key, size in _components(leaving).items() if key not in kept)

    def reclaimable_bytes(self, but: str = "") -> int:
        """Bytes on the device of models neither in use nor pinned, without what they share with others, or with the
        model `but`."""
        with self._lock:
            idle = [one for one in self.held(Tier.VRAM) if not (one.busy or one.pinned) and one.model_id != but]
            return self.freed_bytes(idle)

    def listing(self) -> list[ModelResidency]:
        with self._lock:
            return [
                one.residency(self.device_id, self.shared_with(one), self.reloads.expected_ms(one))
                for one in self._residents.values()
            ]

    def shared_with(self, resident: Resident) -> dict[str, list[str]]:
        """The ids of the other models that hold the same part, by the name of the part; in whichever tier."""
        with self._lock:
            others = [other for other in self._residents.values() if other is not resident]
            return {
                part.name: [other.model_id for other in others if part.key in self._sharing(other, resident)]
                for part in resident.built.parts
                if part.key
            }

    @staticmethod
    def _sharing(other: Resident, resident: Resident) -> Container[str]:
        """A part that lies on the device is none of a model that only streams it, and the other way round."""
        same = (other.built.streamed_bytes is None) is (resident.built.streamed_bytes is None)
        return other.components if same else ()

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

    @contextmanager
    def leaving(self, resident: Resident | None) -> Iterator[bool]:
        """Whether a model may leave the device, where there is one at all; if so it cannot be pinned meanwhile."""
        with self._lock:
            may_leave = resident is None or not resident.pinned
            if resident is not None:
                resident.leaving = may_leave
        try:
            yield may_leave
        finally:
            self.disclaim([resident] if resident is not None else [])

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

    def claim_oldest(self, tier: Tier) -> Resident | None:
        """The model of a tier that was used longest ago, of those that may leave it; it is claimed."""
        with self._lock:
            idle = [one for one in self.held(tier) if not (one.busy or one.leaving)]
            oldest = min(idle, key=lambda one: one.used_at, default=None)
            self._claimed([oldest] if oldest is not None else [])
            return oldest

    def claim_idle(self, keep: Iterable[str]) -> list[Resident]:
        """Every model on the device that may leave, but those of these ids; they are claimed."""
        with self._lock:
            return self._claimed(self._idle(keep))

    def uncopied(self, tier_bytes: int) -> Resident | None:
        """The model on the device that was used last of those that want a copy in the RAM tier.

        Not one for which there was no room when as many bytes were in it.
        """
        with self._lock:
            wanting = [r for r in self.held(Tier.VRAM) if r.keeps_ram_copy and not (r.copied or r.leaving)]
            return max((r for r in wanting if r.refused_at != tier_bytes), key=lambda r: r.used_at, default=None)

    def lose(self, keys: Container[str]) -> list[Resident]:
        """Models in the RAM tier that lost a part there; they are claimed. Those on the device have no copy now."""
        with self._lock:
            losers = [r for r in self._residents.values() if any(key in keys for key in r.built.keys)]
            for resident in losers:
                resident.copied = False
            return self._claimed(r for r in losers if r.tier is Tier.RAM and not (r.busy or r.leaving))

    def next_expiry(self) -> float | None:
        """The moment, on this cache's clock, at which the next model expires; None where none will."""
        with self._lock:
            moments = [r.used_at + r.keep_alive_seconds for r in self._idle() if r.keep_alive_seconds >= 0]
        return min(moments, default=None)

    def victims(
        self,
        needed_bytes: int,
        room: Room,
        keep: Iterable[str] = (),
        coming: Resident | None = None,
        gone: Sequence[Resident] = (),
    ) -> list[Resident]:
        """Who would leave the device so that `needed_bytes` fit, first to go first.

        `keep` are model ids that are no victims; `gone` have left by then, with what they share with victims; `coming`,
        if there is one yet, keeps what it shares with others. Raises Fault INSUFFICIENT_MEMORY, and then nobody leaves.
        """
        with self._lock:
            chosen: list[Resident] = []
            idle = leaving_order([one for one in self._idle(keep) if one.placed], self._standing)
            while room.free + self.freed_bytes([*gone, *chosen], coming) < needed_bytes:
                if not idle:
                    raise self.insufficient(needed_bytes, room)
                chosen.append(idle.pop(0))
            return chosen

    def claim_victims(
        self, needed_bytes: int, room: Room, keep: Iterable[str] = (), coming: Resident | None = None
    ) -> list[Resident]:
        """As `victims`; they are claimed, so that no pin is answered for a model that goes."""
        with self._lock:
            return self._claimed(self.victims(needed_bytes, room, keep, coming))

    def _idle(self, keep: Iterable[str] = ()) -> list[Resident]:
        """Models on the device that may leave."""
        kept = frozenset(keep)
        return [r for r in self.held(Tier.VRAM) if not (r.busy or r.pinned or r.leaving) and r.model_id not in kept]

    def _standing(self, resident: Resident) -> Standing:
        return Standing(resident.priority, self.reloads.expected_ms(resident), resident.bytes, resident.used_at)

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
            "pinned_bytes": sum(_components([resident for resident in held if resident.pinned]).values()),
            "total_bytes": room.total,
        }
        text = f"{needed_bytes} bytes are needed on {self.device_id}: {room.free} of {room.total} are free"
        text += f", {details['evictable_bytes']} evictable, {details['pinned_bytes']} pinned"
        recovery = [_elsewhere()] if never else [self._freeing(resident) for resident in held] or [_elsewhere()]
        return Fault(ErrorCode.INSUFFICIENT_MEMORY, text, retryable=not never, details=details, recovery=recovery)

    def _freeing(self, resident: Resident) -> Recovery:
        parameters = {"model_id": resident.model_id, "device_id": self.device_id}
        if resident.pinned:
            text = f"let {resident.model_id} be evicted: {resident.device_bytes} bytes"
            return Recovery(action="unpin_model", description=text, parameters=parameters)
        text = f"unload {resident.model_id}: {resident.device_bytes} bytes"
        return Recovery(action="unload_model", description=text, parameters=parameters)


def _components(residents: Iterable[Resident]) -> dict[str, int]:
    """The bytes of all their parts by key, shared ones once."""
    return {key: size for resident in residents for key, size in resident.placed.items()}


def _keys(residents: Iterable[Resident]) -> set[str]:
    return set(_components(residents))


def _elsewhere() -> Recovery:
    return Recovery(action="list_devices", description="find a device with more memory", parameters={})

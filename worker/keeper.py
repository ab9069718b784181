"""Moves models between tiers as the cache decides, and tells of every move. The device thread alone calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from protocol.enums import Tier
from protocol.errors import ErrorCode, Fault
from protocol.link import ModelChanged
from worker.cache import ModelCache, Room
from worker.copier import Copier
from worker.devices.base import Device
from worker.job import Job
from worker.resident import Resident


class Freed(NamedTuple):
    """What a model that left gave back of each tier, in bytes."""

    vram_bytes: int
    ram_bytes: int


class Keeper:
    """One device's tiers. `tell` gets a `ModelChanged` for each move; `reserve_bytes` of the device stay free."""

    def __init__(
        self, device: Device, cache: ModelCache, reserve_bytes: int, tell: Callable[[ModelChanged], None]
    ) -> None:
        self._device = device
        self._cache = cache
        self._reserve_bytes = reserve_bytes
        self._tell = tell
        self.copier = Copier(device.ram, cache)

    def room(self) -> Room:
        """The device's memory, less what it keeps for work."""
        gauge = self._device.gauge()
        reserve = self._reserve_bytes
        return Room(total=max(0, gauge.total - reserve), free=max(0, gauge.free - reserve))

    def make_room(
        self, needed_bytes: int, why: str, keep: tuple[str, ...] = (), coming: Resident | None = None
    ) -> None:
        """Evict until `needed_bytes` fit. Raises Fault INSUFFICIENT_MEMORY before anybody leaves."""
        victims = self._cache.claim_victims(needed_bytes, self.room(), keep, coming)
        try:
            for victim in victims:
                if self.room().free >= needed_bytes:
                    break
                self.leave(victim, f"evicted: {why}")
        finally:
            self._cache.disclaim(victims)

    def make_way(self, resident: Resident, working_bytes: int) -> None:
        """Evict what is cheapest until a run's work fits beside the models; nobody where that would not be enough."""
        with suppress(Fault):
            self.make_room(working_bytes, f"room for a run of {resident.model_id}", (resident.model_id,))

    def admit(self, needed_bytes: int, replacing: Resident | None, coming: Resident | None = None) -> None:
        """Raise INSUFFICIENT_MEMORY where `needed_bytes` cannot fit even once `replacing` is gone. Moves nobody.

        Before there is a `coming` one, it is taken to share what the one that it replaces shares.
        """
        room, keep = self.room(), (replacing.model_id,) if replacing else ()
        gone: tuple[Resident, ...] = ()
        if replacing is not None and replacing.tier is Tier.VRAM:
            if coming is None:
                room = Room(total=room.total, free=room.free + replacing.device_bytes)
            else:
                gone = (replacing,)
        self._cache.victims(needed_bytes, room, keep, coming, gone)

    @contextmanager
    def claimed(self, resident: Resident) -> Iterator[None]:
        """A model is held still while it is brought: what makes room for it takes it, and its parts, from nowhere.

        Raises LostError where it is not in the RAM tier any more.
        """
        with self._cache.held_still(resident):
            resident.built.claim()
            try:
                yield
            finally:
                resident.built.disclaim()

    def promote(self, resident: Resident, job: Job | None, reason: str) -> int:
        """Onto the device, evicting where needed; the bytes that this took. A `claimed` model, in the cache then."""
        came_from = Tier.RAM if self._cache.get(resident.model_id) is resident else Tier.DISK
        needed = self._cache.added_bytes(resident)
        self.make_room(needed, f"room for {resident.model_id}", (resident.model_id,), resident)
        before = self._device.gauge().used
        resident.built.promote(job)
        added = self._device.gauge().used - before
        resident.tier = Tier.VRAM
        self._cache.put(resident)
        self._changed(resident, Tier.VRAM, came_from, reason)
        return max(0, added)

    def leave(self, resident: Resident, reason: str, clear: bool = False) -> Freed:
        """Off the device: to RAM where its budget allows and `clear` is false, else out. What was freed, measured."""
        before = self._device.gauge().used
        came_from = resident.tier
        self._cache.claim(resident)
        ram_bytes = 0
        try:
            to_ram = not clear and resident.keeps_ram_copy and self.copier.finish(resident)
            if to_ram:
                resident.built.demote()
                resident.tier = Tier.RAM
                resident.pinned = False
            else:
                self.copier.stop(resident)
                ram_bytes = resident.built.release()
                self._cache.drop(resident)
        finally:
            self._cache.disclaim([resident])
        self._device.reclaim()
        if clear:
            self._device.trim()
        freed = max(0, before - self._device.gauge().used)
        self._changed(resident, Tier.RAM if to_ram else Tier.DISK, came_from, reason, freed)
        self.forget_lost()
        return Freed(vram_bytes=freed, ram_bytes=ram_bytes)

    def shelve(self, resident: Resident) -> bool:
        """A model that was just built into the RAM tier, for which others may leave that. Whether it has room there."""
        if not self.copier.finish(resident):
            return False
        resident.built.demote()
        resident.tier = Tier.RAM
        self._cache.put(resident)
        self._changed(resident, Tier.RAM, Tier.DISK, "loaded")
        self.forget_lost()
        return True

    def step_aside(self, resident: Resident) -> None:
        """Off the device for as long as its successor is placed, whatever the RAM tier holds; its pin stays."""
        resident.built.step_aside()
        resident.tier = Tier.RAM
        self._device.reclaim()

    def discard(self, replaced: Resident) -> None:
        """Give back every byte of a model whose id another one has taken over."""
        self.copier.stop(replaced)
        replaced.built.release()
        self._device.reclaim()

    def drop_ram(self, resident: Resident, reason: str) -> int:
        """Out of the RAM tier. Bytes that left it: not those of parts that other models or workers have too."""
        freed = self._drop_ram(resident, reason)
        self._device.trim()
        return freed

    def _drop_ram(self, resident: Resident, reason: str) -> int:
        freed = resident.built.release()
        self._cache.drop(resident)
        self._changed(resident, Tier.DISK, Tier.RAM, reason)
        return freed

    def give_back(self, resident: Resident) -> int:
        """A model that is on the device is without its copy in the RAM tier from here on. The bytes that left it."""
        self.copier.stop(resident)
        needed = {key for other in self._cache.held(Tier.RAM) for key in other.built.keys}
        resident.copied = resident.keeps_ram_copy = False
        return self._device.ram.let_go([key for key in resident.built.keys if key not in needed])

    def thin_out(self, reason: str) -> bool:
        """Out of the RAM tier: the model there that was used longest ago, and is neither moved nor in use."""
        oldest = self._cache.claim_oldest(Tier.RAM)
        if oldest is None:
            return False
        self.drop_ram(oldest, reason)
        return True

    def forget_lost(self) -> bool:
        """Models whose parts had to leave the RAM tier for others are not there any more. Whether there were any."""
        losers = self._cache.lose(self._device.ram.lost())
        for resident in losers:
            self._drop_ram(resident, "evicted: RAM tier full")
        return bool(losers)

    def expire(self) -> bool:
        """Take what has outlived its keep-alive off the device. Whether anything left."""
        expired = self._cache.claim_expired()
        self._leave_all(expired, "expired")
        return bool(expired)

    def empty(self, keep: str) -> bool:
        """Evict every idle model but `keep`, after the device ran out of memory. Whether anything left."""
        self._device.trim()
        idle = self._cache.claim_idle((keep,))
        self._leave_all(idle, "evicted: out of memory")
        return bool(idle)

    def _leave_all(self, residents: list[Resident], reason: str) -> None:
        try:
            for resident in residents:
                self.leave(resident, reason)
        finally:
            self._cache.disclaim(residents)

    def _changed(self, resident: Resident, tier: Tier, from_tier: Tier, reason: str, freed_bytes: int = 0) -> None:
        self._tell(
            ModelChanged(
                model_id=resident.model_id,
                tier=tier,
                from_tier=from_tier,
                bytes=resident.device_bytes if tier is Tier.VRAM else resident.bytes,
                freed_bytes=freed_bytes,
                reason=reason,
            )
        )


def check_share(model_bytes: int, fraction: float, room: Room, cache: ModelCache) -> None:
    """Raise INSUFFICIENT_MEMORY where a model alone passes its share of the device; 0 is no bound."""
    limit_bytes = int(fraction * room.total)
    if not fraction or model_bytes <= limit_bytes:
        return
    numbers = cache.insufficient(model_bytes, room).info.details
    text = f"memory_fraction {fraction:g} is {limit_bytes} bytes: the model alone needs {model_bytes}"
    details = {**numbers, "limit_bytes": limit_bytes}
    raise Fault(ErrorCode.INSUFFICIENT_MEMORY, text, retryable=False, details=details)

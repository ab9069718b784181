"""Gives models a copy in the RAM tier: between commands while they are on the device, at the latest when they leave it.

Decides which model is next, and keeps the one copy that is half-way, so that a command in between may take the model.
"""

from __future__ import annotations

from collections.abc import Generator

from ramtier.tier import RamTier
from worker.cache import ModelCache
from worker.resident import Resident

Steps = Generator[None, None, bool]


class Copier:
    """One copy at a time, whole or not at all. The device thread alone calls it."""

    def __init__(self, ram: RamTier, cache: ModelCache) -> None:
        self._ram = ram
        self._cache = cache
        self._half_way: tuple[Resident, Steps] | None = None
        self.made = 0
        """Copies that were made between commands."""

    def step(self) -> bool:
        """A step of a copy for a model on the device that has none. Whether there may be more to do.

        Nothing is driven out for it: a model that finds no room is tried again once the tier is filled otherwise.
        """
        if self._half_way is None:
            uncopied = self._cache.uncopied(self._ram.used_bytes)
            if uncopied is None:
                return False
            self._half_way = (uncopied, uncopied.built.copy(evict=False))
        resident, steps = self._half_way
        ended = True
        try:
            next(steps)
            ended = False
        except StopIteration as last:
            resident.copied = last.value
            self.made += resident.copied
        finally:
            if ended:
                self._half_way = None
                resident.refused_at = self._ram.used_bytes
        return True

    def finish(self, resident: Resident) -> bool:
        """A whole copy of this model now, for which others may leave the tier. Whether it has one."""
        if self._half_way is not None and self._half_way[0] is resident:
            _whole(self._half_way[1])
            self._half_way = None
        # One that was made before may have been driven out since.
        resident.copied = _whole(resident.built.copy(evict=True))
        return resident.copied

    def stop(self, resident: Resident) -> None:
        """This model is about to be given up, and a copy of it that is half-way with it."""
        if self._half_way is not None and self._half_way[0] is resident:
            self._half_way[1].close()
            self._half_way = None


def _whole(steps: Steps) -> bool:
    """What a copy comes to, with all the steps that are left of it."""
    while True:
        try:
            next(steps)
        except StopIteration as last:
            found: bool = last.value
            return found

"""Devices that can take the same models, sorted by how long their work will take, without sorting them.

A device stands on the level of its work: 0 without any, else the power of two of its expected milliseconds. Moving a
device costs the same however many there are; what a decision needs, the few that are free soonest, is found from the
lowest level on. Within a level the one that came first is first.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.core.fleet import Device

ABSENT, IDLE, HIGHEST = -1, 0, 40
_LONGEST_MS = 1 << HIGHEST


class Pool:
    """The devices that take profiles, or those that take real models; `devices` are all, in the fleet's order.

    Invariant: exactly the devices that take work stand on a level, and `occupied` has the bit of each level that is
    not empty: it is 0 where no device takes work. The first of a level is found at once however many left it, as it
    would not be in a plain dict.
    """

    def __init__(self) -> None:
        self.devices: list[Device] = []
        self._levels: list[OrderedDict[Device, None]] = [OrderedDict() for _ in range(HIGHEST + 1)]
        self.occupied = 0

    @property
    def has_ready(self) -> bool:
        """Does any device take work now?"""
        return bool(self.occupied)

    def stand(self, device: Device, level: int) -> None:
        """A device's work is of this level now; ABSENT: it takes none."""
        before = device.level
        if before == level:
            return
        if before != ABSENT:
            left = self._levels[before]
            del left[device]
            if not left:
                self.occupied &= ~(1 << before)
        if level != ABSENT:
            self._levels[level][device] = None
            self.occupied |= 1 << level
        device.level = level

    def least(self, count: int) -> list[Device]:
        """At most `count` devices that take work, those with least of it first."""
        found: list[Device] = []
        left = self.occupied
        while left and len(found) < count:
            lowest = left & -left
            found += islice(self._levels[lowest.bit_length() - 1], count - len(found))
            left ^= lowest
        return found


def level_of(work_ms: float) -> int:
    """The level of a device that has work; the highest where its estimate is beyond all bounds, or no number."""
    return (int(work_ms) | 1).bit_length() if abs(work_ms) < _LONGEST_MS else HIGHEST

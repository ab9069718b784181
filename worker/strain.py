"""How short of memory the host is: the level, from what can still be had of it and from the time that tasks stall.

Decides from the machine's or the control group's memory, whichever is less, with the thresholds and the hysteresis of a
device's pressure; and from the kernel's "some avg10", the share of the last 10 s in which a task waited for memory.
What follows from it is the engine's affair.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.enums import PressureLevel
from settings import host as machine
from worker import host
from worker.pressure import LEVELS, PressureMeter

STALLS = ((40.0, PressureLevel.CRITICAL), (10.0, PressureLevel.HIGH))
"""Percent of stalled time from which a host that is elevated already is worse; where it has memory, others stall."""

LOOK_SECONDS = 0.5


class HostStrain:
    """The host's level, read at most so often."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meter = PressureMeter(clock)
        self._looked_at = float("-inf")
        self._level = PressureLevel.NORMAL

    @property
    def level(self) -> PressureLevel:
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._level = self._read()
        return self._level

    def _read(self) -> PressureLevel:
        total, available = machine.memory_bytes(), machine.available_bytes()
        level = PressureLevel.NORMAL
        if total and available:
            level = self._meter.update(total - available, 0, total).level
        stalled = host.stalled_percent()
        if level is PressureLevel.NORMAL or stalled is None:
            return level
        by_stalls = next((worse for least, worse in STALLS if stalled >= least), level)
        return max(level, by_stalls, key=LEVELS.index)


def is_high(level: PressureLevel) -> bool:
    return LEVELS.index(level) >= LEVELS.index(PressureLevel.HIGH)

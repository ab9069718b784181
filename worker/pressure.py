"""Memory pressure of one device: the level, with its hysteresis. Decides from numbers alone; the clock is passed in."""

from __future__ import annotations

from collections.abc import Callable

from protocol.enums import PressureLevel
from protocol.telemetry import MemoryPressure

LEVELS = (PressureLevel.NORMAL, PressureLevel.ELEVATED, PressureLevel.HIGH, PressureLevel.CRITICAL)
THRESHOLDS = (0.80, 0.90, 0.95)
MARGIN = 0.05
HOLD_SECONDS = 5.0
OOM_SECONDS = 10.0


class PressureMeter:
    """Levels rise at once; they fall once pressure has been 5 points below for 5 s. An OOM is critical for 10 s."""

    def __init__(self, clock: Callable[[], float], reserve_bytes: int = 0) -> None:
        self._clock = clock
        self._reserve_bytes = reserve_bytes
        self._level = 0
        self._below_since: float | None = None
        self._oom_at = float("-inf")

    def note_oom(self) -> None:
        """The device refused memory in the middle of work."""
        self._oom_at = self._clock()

    def update(self, used_bytes: int, reclaimable_bytes: int, total_bytes: int) -> MemoryPressure:
        """The pressure now. `pressure` = (used - reclaimable + reserve) / total, `utilization` = used / total."""
        pressure = (used_bytes - reclaimable_bytes + self._reserve_bytes) / total_bytes if total_bytes else 0.0
        pressure = max(0.0, pressure)
        self._move(pressure)
        return MemoryPressure(
            level=LEVELS[self._level],
            used_bytes=used_bytes,
            reclaimable_bytes=reclaimable_bytes,
            total_bytes=total_bytes,
            utilization=used_bytes / total_bytes if total_bytes else 0.0,
            pressure=pressure,
        )

    def _move(self, pressure: float) -> None:
        now = self._clock()
        oom = now - self._oom_at < OOM_SECONDS
        floor = len(THRESHOLDS) if oom else _level(pressure)
        if floor >= self._level:
            self._level, self._below_since = floor, None
            return
        # Five points above decides what may be left: a level is held as long as it would hold with the margin.
        held = max(floor, _level(pressure + MARGIN))
        if held >= self._level:
            self._below_since = None
        elif self._below_since is None:
            self._below_since = now
        elif now - self._below_since >= HOLD_SECONDS:
            self._level, self._below_since = held, None


def _level(pressure: float) -> int:
    return sum(pressure >= threshold for threshold in THRESHOLDS)

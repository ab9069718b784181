"""A transport with ZeroMQ's vices: in order from one peer, in any order between peers; what was on its way to or from
a process that dies is lost, or part of it; a cut link holds back what was sent; what a stopped process does not read
waits up to the high-water mark, and is refused beyond it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from tests.simulation.agenda import Agenda

HIGH_WATER_MARK = 1000
Deliver = Callable[[Any], None]


class Pipe:
    """One direction between two processes. `deliver` is called for each message that arrives, in order of sending."""

    def __init__(self, agenda: Agenda, random: Random, deliver: Deliver, delay: float = 0.002) -> None:
        self._agenda, self._random, self._deliver, self._delay = agenda, random, deliver, delay
        self._waiting: deque[tuple[float, Any]] = deque()
        self.held = False
        self._open = True
        self._last_at = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, message: Any) -> bool:
        """Put a message on its way; False where the mark is reached or the other side is gone."""
        if not self._open or len(self._waiting) >= HIGH_WATER_MARK:
            return False
        at = max(self._last_at, self._agenda.now + self._random.expovariate(1 / self._delay))
        self._last_at = at
        self._waiting.append((at, message))
        if not self.held:
            self._agenda.after(at - self._agenda.now, self._arrive)
        return True

    def hold(self) -> None:
        """Nothing arrives until `resume`: the link is cut, or its reader is stopped."""
        self.held = True

    def resume(self) -> None:
        if self.held:
            self.held = False
            for _ in self._waiting:
                self._agenda.after(0.0, self._arrive)

    def close(self, *, arriving: bool = False) -> None:
        """An end dies. What was on its way is lost; where `arriving`, its first part still comes through."""
        kept = self._random.randint(0, len(self._waiting)) if arriving else 0
        last = list(self._waiting)[:kept]
        self._open = False
        self._waiting.clear()
        for _, message in last:
            self._agenda.after(self._random.expovariate(1 / self._delay), lambda m=message: self._deliver(m))  # type: ignore[misc]

    def _arrive(self) -> None:
        if self.held or not self._waiting or self._waiting[0][0] > self._agenda.now + 1e-9:
            return
        _, message = self._waiting.popleft()
        self._deliver(message)

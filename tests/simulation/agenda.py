"""Simulated time: what happens when, in one order for one seed."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Agenda:
    """Calls to come, in order of their time; equal times in order of entry. Seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._entries: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._entries, (self.now + seconds, self._count, call))

    def next_at(self) -> float:
        """When the next call is due; infinite where none is."""
        return self._entries[0][0] if self._entries else float("inf")

    def step(self) -> None:
        """Go to the time of the next call, and make it."""
        at, _, call = heapq.heappop(self._entries)
        self.now = max(self.now, at)
        call()

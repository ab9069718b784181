"""One heap of deadlines. A cancelled timer stays in the heap until its time, or until most of the heap is cancelled."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

_FEW = 1024
"""Entries of a heap that is not worth clearing."""


class Timers:
    """Callbacks by time, in seconds of the core's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._calls: dict[int, Callable[[float], None]] = {}
        self._tokens = itertools.count(1)

    def at(self, when: float, call: Callable[[float], None]) -> int:
        """Call `call(now)` once `when` has come; the token cancels it."""
        token = next(self._tokens)
        self._calls[token] = call
        heapq.heappush(self._heap, (when, token))
        return token

    def cancel(self, token: int | None) -> None:
        """Forget a timer; None and a token already used do nothing."""
        if token is None or self._calls.pop(token, None) is None:
            return
        if len(self._heap) > _FEW and len(self._heap) > 2 * len(self._calls):
            self._clear()

    def _clear(self) -> None:
        """Drop what was cancelled: the heap's size stays that of the timers that live."""
        self._heap = [entry for entry in self._heap if entry[1] in self._calls]
        heapq.heapify(self._heap)

    def due(self, now: float) -> list[Callable[[float], None]]:
        """The callbacks whose time has come, earliest first."""
        calls = []
        while self._heap and self._heap[0][0] <= now:
            call = self._calls.pop(heapq.heappop(self._heap)[1], None)
            if call is not None:
                calls.append(call)
        return calls

    def next_at(self) -> float | None:
        """When the next live timer is due."""
        while self._heap and self._heap[0][1] not in self._calls:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

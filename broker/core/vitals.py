"""Whether a worker shows the signs of life that it should: pure, over stamps and counts.

Two of the three signs are judged here: the link (beats of the I/O thread) and progress (the count of the device's
thread that the beats carry, against a budget for each action). The third, the process, is the supervisor's word.

Time in which the broker itself did not look, since it was stopped or busy, is nobody's silence.
"""

from __future__ import annotations

from msgspec import Struct

from protocol.supervision import ProgressBudgets

LATE_SECONDS = 3.0
"""A look that comes later than this after the one before: the broker was away."""

STARTING = ("", 0, "start")


class Stretch(Struct):
    """A count that has not changed since a moment, during one piece of work."""

    work: tuple[str, int, str]
    count: int
    since: float


class Vitals:
    """What the watch remembers from look to look. Seconds of one clock."""

    def __init__(self, silence_ms: int, budgets: ProgressBudgets) -> None:
        self._silence_seconds = silence_ms / 1000.0
        self._budgets = budgets
        self._looked_at: float | None = None
        self._present_since = 0.0
        self._stretches: dict[str, Stretch] = {}

    def look(self, now: float) -> None:
        """A look at everybody begins."""
        if self._looked_at is not None and now - self._looked_at > LATE_SECONDS:
            self._present_since = now
        self._looked_at = now

    def silent(self, heard_at: float, now: float, patience: float = 1.0) -> str | None:
        """Why a worker that was heard at `heard_at` counts as dead; None: it lives."""
        limit = self._silence_seconds * patience
        if now - max(heard_at, self._present_since) <= limit:
            return None
        return f"it was silent for {limit:g} s"

    def stuck(self, device_id: str, work: tuple[str, int, str] | None, count: int, now: float) -> str | None:
        """Why a device's thread counts as stuck; None: it advances, or has nothing to do.

        `work` is the request id, the attempt and the action of what it does, STARTING before it is ready, None where
        it is idle; `count` what its last beat said.
        """
        if work is None:
            self._stretches.pop(device_id, None)
            return None
        stretch = self._stretches.get(device_id)
        if stretch is None or stretch.work != work or stretch.count != count:
            self._stretches[device_id] = Stretch(work, count, now)
            return None
        stretch.since = max(stretch.since, self._present_since)
        budget = float(getattr(self._budgets, work[2]))
        if now - stretch.since <= budget:
            return None
        return f"{work[2]} made no progress for {budget:g} s"

"""How many commands ended how, and how long they took, counted since the broker began."""

from __future__ import annotations

from bisect import bisect_left

from protocol.errors import ErrorInfo
from protocol.replies import CommandStatistics

BOUNDS_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""Upper bounds of the buckets; what took longer is in one more."""


class _Count:
    __slots__ = ("buckets", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self.seconds = 0.0


class Census:
    """By action and outcome: `completed`, or the code of the error. As many entries as there are of both, no more."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def ended(self, action: str, error: ErrorInfo | None, *, success: bool, seconds: float) -> None:
        """A command ended so many seconds after it came in."""
        count = self._counts.get(action)
        if count is None:
            count = self._counts[action] = _Count()
        outcome = "completed" if success else "INTERNAL_ERROR" if error is None else error.code.value
        count.outcomes[outcome] = count.outcomes.get(outcome, 0) + 1
        count.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        count.seconds += seconds

    def told(self) -> list[CommandStatistics]:
        """All of it."""
        return [
            CommandStatistics(
                action=action, outcomes=dict(count.outcomes), seconds=count.seconds, buckets=list(count.buckets)
            )
            for action, count in sorted(self._counts.items())
        ]

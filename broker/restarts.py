"""When a process that ended is started again.

A process that lived is restarted at once, however often. One that dies young is restarted after a growing, jittered
wait, and given up after too many young deaths in a row.
"""

from __future__ import annotations

from collections.abc import Callable

YOUNG_SECONDS = 5.0
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 30.0
GIVE_UP_AFTER = 8


class RestartPolicy:
    """The waits of one child. `random` gives numbers in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self.young_deaths = 0

    def wait_seconds(self, lived_seconds: float) -> float | None:
        """How long to wait after a death; None: give up. Waits double from 0.25 s, ±25 %, to 30 s."""
        if lived_seconds >= YOUNG_SECONDS:
            self.young_deaths = 0
            return 0.0
        self.young_deaths += 1
        if self.young_deaths >= GIVE_UP_AFTER:
            return None
        wait = FIRST_WAIT_SECONDS * 2.0 ** (self.young_deaths - 1)
        return min(wait, LONGEST_WAIT_SECONDS) * (0.75 + 0.5 * self._random())

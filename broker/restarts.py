"""When a process that ended is started again.

One that had become ready and served work is restarted at once, however often. A death before that is a failure: the
wait grows with each, jittered, and a breaker opens after too many of them within a time; an administrator closes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from settings.file import RestartLimits

FIRST_WAIT_SECONDS = 0.25


BROKER_LONGEST_WAIT_SECONDS = 0.5
"""The broker has to be back within 2 s."""


def broker_limits(limits: RestartLimits) -> RestartLimits:
    """The broker's own limits: as often, but it is waited for by everyone."""
    longest = min(limits.longest_wait_seconds, BROKER_LONGEST_WAIT_SECONDS)
    return msgspec.structs.replace(limits, longest_wait_seconds=longest)


class RestartPolicy:
    """The waits of one child. `random` gives numbers in [0, 1); `never_gives_up`: its breaker does not open."""

    def __init__(
        self, random: Callable[[], float], limits: RestartLimits | None = None, *, never_gives_up: bool = False
    ) -> None:
        self._random = random
        self._limits = limits or RestartLimits()
        self._never_gives_up = never_gives_up
        self._failures: deque[float] = deque()

    @property
    def failures(self) -> int:
        """Deaths in a row, none of them of a process that had served."""
        return len(self._failures)

    def wait_seconds(self, now: float, *, served: bool) -> float | None:
        """How long to wait after a death at `now`, in seconds of a clock; None: the breaker is open.

        Waits double from 0.25 s, ±25 %, to the longest.
        """
        if served:
            self._failures.clear()
            return 0.0
        failures, limits = self._failures, self._limits
        failures.append(now)
        while now - failures[0] > limits.window_seconds:
            failures.popleft()
        if len(failures) >= limits.failures and not self._never_gives_up:
            return None
        # Beyond 2^16 every longest wait is reached, and a float is not.
        wait = FIRST_WAIT_SECONDS * 2.0 ** min(len(failures) - 1, 16)
        return min(wait, limits.longest_wait_seconds) * (0.75 + 0.5 * self._random())

    def close(self) -> None:
        """Forget the failures."""
        self._failures.clear()

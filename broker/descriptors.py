"""Open files: as many as the system allows, and some kept back, so that clients cannot take those of workers and disk.

At its limit libzmq accepts and fails without end on one core, and a listener for workers ends the process. So before
the limit the endpoints of clients stop listening: who comes then waits in the backlog until somebody has left.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Protocol

from settings.logs import Logger

MOST = 1 << 16
"""More are not asked for, however many the system would allow."""

KEPT_BACK = 64
"""For workers, the journal, and connections that are made while nobody looks."""

KEPT_SHARE = 0.1
LOOK_SECONDS = 0.05
AGAIN_SHARE = 0.9
"""Of the bound, below which the endpoints listen again."""

_log = Logger()


class Listeners(Protocol):
    """The endpoints of clients."""

    def listen(self, on: bool) -> None:
        """Take new connections, or leave them in the backlog; those that there are stay."""


def raise_limit() -> int:
    """Set the soft limit of open files to what may be had; it, for this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
    return max(wanted, soft)


class Descriptors:
    """Looks how many files are open, and turns the listeners off and on."""

    def __init__(self, listeners: Listeners, limit: int | None = None) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        self.bound = limit - max(min(KEPT_BACK, limit // 2), int(limit * KEPT_SHARE))
        self._listeners = listeners
        self._looked_at = float("-inf")
        self._listening = True

    def look(self, now: float) -> None:
        """At most every 50 ms, in seconds of any clock."""
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self._listening and _at_least(self.bound):
            self._listening = False
            self._listeners.listen(False)
            text = "too many connections: new ones wait until others end"
            _log.error(text, open_files=count(), bound=self.bound)
        elif not self._listening and count() < self.bound * AGAIN_SHARE:
            self._listening = True
            self._listeners.listen(True)
            _log.warning("new connections are taken again", open_files=count(), bound=self.bound)

    @property
    def patience_seconds(self) -> float | None:
        """How soon to look again; None where the loop's own turns will do."""
        return None if self._listening and not _at_least(self.bound // 2) else LOOK_SECONDS


def count() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


def _at_least(number: int) -> bool:
    """Are at least so many open? The least number that is free tells it, for next to nothing."""
    try:
        least = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(least)
    return least >= number

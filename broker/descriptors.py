"""Open files: as many as the system allows, and some kept back, so that clients cannot take those of workers and disk.

At its limit libzmq accepts and fails without end on one core, and a listener for workers ends the process. So before
the limit the endpoints of clients stop listening: who comes then waits in the backlog until somebody has left.
"""

from __future__ import annotations

import contextlib
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
SPARES = 32
"""Held open for nothing, and given up where connections came faster than anybody looked: workers find them free."""

LOOK_SECONDS = 0.05
CALM_SECONDS = 0.1
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
        if limit == resource.RLIM_INFINITY:
            limit = MOST
        self.bound = limit - max(min(KEPT_BACK, limit // 2), int(limit * KEPT_SHARE))
        self._listeners = listeners
        self._looked_at = float("-inf")
        self._listening = True
        self._spares: list[int] = []
        self._hold_spares(min(SPARES, limit // 8))

    def look(self, now: float) -> None:
        """At most every 50 ms, in seconds of any clock."""
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        if self._listening and _at_least(self.bound):
            self._listening = False
            self._listeners.listen(False)
            while self._spares:
                os.close(self._spares.pop())
            text = "too many connections: new ones wait until others end"
            _log.error(text, open_files=count(), bound=self.bound)
        elif not self._listening and count() < self.bound * AGAIN_SHARE:
            self._listening = True
            self._hold_spares(self._wanted)
            self._listeners.listen(True)
            _log.warning("new connections are taken again", open_files=count(), bound=self.bound)

    @property
    def patience_seconds(self) -> float:
        """How soon to look again: nothing else tells of connections that say nothing."""
        return LOOK_SECONDS if not self._listening else CALM_SECONDS

    def _hold_spares(self, number: int) -> None:
        self._wanted = number
        with contextlib.suppress(OSError):
            while len(self._spares) < number:
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


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

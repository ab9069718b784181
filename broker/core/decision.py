"""What is remembered of a decision: the numbers as they were when it fell, for `explain`.

Numbers alone: texts are made when somebody asks.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from broker.core.fleet import Device

REMEMBERED = 4096
"""Decisions kept; the oldest is forgotten first."""


class Exclusion(enum.IntEnum):
    """Why a device is not to be chosen, the gravest first; where every device is excluded the mildest is taken.

    Up to DISABLED a device is never chosen.
    """

    NONE = 0
    OTHER_KIND = 1
    DISABLED = 2
    TOO_SMALL = 3
    NOT_HELD = 4
    NO_ROOM = 5
    NOT_READY = 6
    PRESSURE = 7


class Memory(Struct, frozen=True, gc=False):
    """A device's newest reading in bytes, without what it keeps free for work; `total` 0: nothing is known yet."""

    total: int = 0
    free: int = 0
    pinned: int = 0
    used: int = 0
    critical: bool = False
    room: int = 1 << 62
    """What a command may need without a closer look."""

    @classmethod
    def of(cls, total: int, free: int, pinned: int, used: int = 0, *, critical: bool = False) -> Memory:
        """A reading with its `room`."""
        return cls(total, free, pinned, used, critical, -1 if critical else total - pinned)


ON_DISK, IN_RAM, COMING = 0, 1, 2
"""Where a model is, as seen from a device; the last is in VRAM, or on its way there."""


class Score(Struct, frozen=True, gc=False):
    """A device as a decision saw it: `total_ms` is the sum of the times, the least is chosen.

    `needed_bytes` is what the command would add at its peak.
    """

    device: Device
    excluded: Exclusion
    total_ms: float
    queue_ms: float
    load_ms: float
    replication_ms: float
    eviction_ms: float
    run_ms: float
    residency: int
    in_flight: int
    needed_bytes: int
    memory: Memory


class Decision(Struct, gc=False):
    """Where a command was sent and why; `started_at` is None until a worker has it. Seconds of the core's clock."""

    arrived: float
    placed_at: float
    named: bool
    chosen: str
    scores: list[Score]
    started_at: float | None = None
    passes: int = 0
    evictions: tuple[tuple[str, int], ...] = ()


class Decisions:
    """The newest decisions by request id."""

    def __init__(self) -> None:
        self._decisions: OrderedDict[str, Decision] = OrderedDict()

    def keep(self, request_id: str, decision: Decision) -> None:
        """Remember a decision; a command that was placed anew is explained by the newest."""
        decisions = self._decisions
        decisions[request_id] = decision
        if len(decisions) > REMEMBERED:
            decisions.popitem(last=False)

    def beginning(self, prefix: str) -> list[str]:
        """The request ids that begin so and whose decisions are known."""
        return [request_id for request_id in self._decisions if request_id.startswith(prefix)]

    def find(self, request_id: str) -> Decision | None:
        """The decision about a command; None where there was none or it is forgotten."""
        return self._decisions.get(request_id)

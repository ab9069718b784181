"""What is broken when: drawn from a seed, the same again for the same. Pure.

A run has two parts: work with faults, then the same work without, in which whatever grows is a leak.
"""

from __future__ import annotations

import enum
import random

from msgspec import Struct

FAULTY_SHARE = 0.4
"""Of a run's time: with faults. Processes are killed in it; the rest is long enough to see a slope."""

QUIET_SECONDS = 8.0
"""Before the first fault and after the last, of a run long enough: everything is seen whole once, and again."""


class Fault(enum.Enum):
    """What can be done to a broker and its processes."""

    KILL_WORKER = "a worker is killed"
    KILL_BROKER = "the broker is killed"
    KILL_CATALOGUE = "the catalogue is killed"
    KILL_WEB = "the web server is killed"
    STALL_WORKER = "a worker is stopped for two seconds"
    RECONNECT = "a client goes, with commands under way"
    BAD_INPUT = "frames that are no commands"
    TOO_LARGE = "a load that no device has room for"


WEIGHTS = {
    Fault.KILL_WORKER: 4,
    Fault.KILL_BROKER: 2,
    Fault.KILL_CATALOGUE: 1,
    Fault.KILL_WEB: 1,
    Fault.STALL_WORKER: 2,
    Fault.RECONNECT: 3,
    Fault.BAD_INPUT: 3,
    Fault.TOO_LARGE: 2,
}


class Planned(Struct, frozen=True):
    """A fault, its moment in seconds from the start, and a number by which its victim is chosen."""

    at: float
    fault: Fault
    pick: float


def schedule(seconds: float, every_seconds: float, seed: int) -> list[Planned]:
    """Faults about so often in the faulty part, each kind at least once where there is time for all."""
    rng = random.Random(f"{seed}/faults")
    quiet = min(QUIET_SECONDS, seconds * FAULTY_SHARE / 4)
    end = seconds * FAULTY_SHARE - quiet
    moments, at = [], quiet
    while at < end:
        moments.append(at)
        at += rng.uniform(0.5, 1.5) * every_seconds
    kinds = list(Fault)
    rng.shuffle(kinds)
    if len(moments) > len(kinds):
        kinds += rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=len(moments) - len(kinds))
    return [Planned(at, fault, rng.random()) for at, fault in zip(moments, kinds, strict=False)]

"""How much memory the children take, and which of them takes too much. Reads /proc alone.

What counts is memory that the kernel cannot drop: mapped files are no burden.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

BROKER_LIMIT_BYTES = 4 << 30
"""The broker's budget where nothing is configured, and half of the host's memory is more."""

WORKERS_SHARE = 0.9
"""The share of the host's memory that all children together may take."""

_KEPT = ("RssAnon:", "RssShmem:")


class Excess(Struct, frozen=True, kw_only=True):
    """A child above its budget."""

    child: str
    held_bytes: int
    reason: str


def held_bytes(pid: int) -> int | None:
    """The memory of a process that is not backed by files; None where it is gone or this system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith(_KEPT)]
    return sum(found) if found else None


class MemoryWatch:
    """Budgets of the broker and of the workers, in bytes; 0: derived from `host`, the memory of all."""

    def __init__(self, broker_bytes: int, worker_bytes: int, host: int) -> None:
        derived = min(BROKER_LIMIT_BYTES, host // 2) if host else BROKER_LIMIT_BYTES
        self.broker_bytes = broker_bytes or derived
        self._worker_bytes = worker_bytes
        self._together_bytes = int(host * WORKERS_SHARE)

    def broker(self, held: int | None) -> str | None:
        """Why the broker has to go; None: it may stay."""
        if held is None or held <= self.broker_bytes:
            return None
        return f"it holds {held} bytes of memory, its budget is {self.broker_bytes}"

    def worker(self, held: Mapping[str, int], others_bytes: int) -> Excess | None:
        """The one worker that has to be replaced: the largest of those above their budget, or of all where all
        children together take too much. What is in the RAM tier is no worker's, and among the others' bytes."""
        if not held:
            return None
        name, largest = max(held.items(), key=lambda item: item[1])
        if self._worker_bytes and largest > self._worker_bytes:
            reason = f"it holds {largest} bytes of host memory, its budget is {self._worker_bytes}"
            return Excess(child=name, held_bytes=largest, reason=reason)
        together = sum(held.values()) + others_bytes
        if self._together_bytes and together > self._together_bytes:
            reason = f"all processes hold {together} bytes of {self._together_bytes} of host memory, it holds {largest}"
            return Excess(child=name, held_bytes=largest, reason=reason)
        return None

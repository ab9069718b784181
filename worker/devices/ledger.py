"""Exact bytes under a budget: the memory of devices that have no allocator of their own."""

from __future__ import annotations


class Ledger:
    """Counts what is placed. `refuse` is raised by a placement that would pass the budget, and counts nothing then.

    Only the device thread writes; any thread may read a number.
    """

    def __init__(self, total_bytes: int, refuse: type[BaseException]) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.refuse = refuse

    def take(self, amount_bytes: int) -> None:
        """Count a placement. Raises `refuse`."""
        if self.used_bytes + amount_bytes > self.total_bytes:
            free_bytes = self.total_bytes - self.used_bytes
            raise self.refuse(f"tried to place {amount_bytes} bytes: {free_bytes} of {self.total_bytes} bytes are free")
        self.used_bytes += amount_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def give(self, amount_bytes: int) -> None:
        """Count what left."""
        self.used_bytes -= amount_bytes

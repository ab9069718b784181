"""A keeper of a RAM tier served by threads, for workers of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ramtier.keeper import RamKeeper
from ramtier.tier import SharedTier


class Machine:
    """The keeper, and a channel for each worker; `kill` ends one as the end of its process does."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.keeper = RamKeeper(budget_bytes)
        self._served: dict[SharedTier, threading.Thread] = {}

    def worker(self) -> SharedTier:
        ours, theirs = self.keeper.admit()

        def serve() -> None:
            while self.keeper.serve(ours):
                pass

        tier = SharedTier(theirs, self.budget_bytes)
        self._served[tier] = threading.Thread(target=serve)
        self._served[tier].start()
        return tier

    def kill(self, tier: SharedTier) -> None:
        tier.close()
        self.join(tier)

    def join(self, tier: SharedTier) -> None:
        """Until the keeper has taken note of a channel's end."""
        self._served.pop(tier).join()

    def end(self) -> None:
        for tier in list(self._served):
            self.kill(tier)
        self.keeper.close()


@contextmanager
def machine_of(budget_bytes: int) -> Iterator[Machine]:
    """A machine with a RAM tier of this size."""
    machine = Machine(budget_bytes)
    try:
        yield machine
    finally:
        machine.end()

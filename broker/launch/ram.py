"""The machine's RAM tier beside its workers' lives: every incarnation has a channel to it, which ends with it.

The keeper is the supervisor's own, since it outlives broker and workers: what a worker that died had in the tier is
there for its successor.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterator

from broker.devices import FoundDevice
from protocol.enums import DeviceKind
from ramtier.keeper import RamKeeper

NONE = -1
"""In the place of a descriptor: the child has no part in the tier."""


class MachineRam:
    """The tier of all cpu and cuda workers; their requests are served as the selector hears them."""

    def __init__(self, budget_bytes: int, selector: selectors.BaseSelector) -> None:
        self._keeper = RamKeeper(budget_bytes)
        self._selector = selector

    @property
    def used_bytes(self) -> int:
        return self._keeper.used_bytes

    @contextlib.contextmanager
    def channel(self, device: FoundDevice | None) -> Iterator[int]:
        """The worker's end of its channel, for as long as it is launched; NONE for who holds nothing in host memory.

        Where the launch fails the channel ends. Raises OSError where no descriptor is left.
        """
        if device is None or device.request.kind is DeviceKind.VIRTUAL:
            yield NONE
            return
        ours, theirs = self._keeper.admit()
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._serve(ours))
        try:
            yield theirs.fileno()
        except BaseException:
            self._selector.unregister(ours)
            self._keeper.dismiss(ours)
            raise
        finally:
            theirs.close()

    def expire(self) -> None:
        """Drop what nobody asked for since its worker died."""
        self._keeper.expire()

    def close(self) -> None:
        """Give everything back. The selector is of no use any more."""
        self._keeper.close()

    def _serve(self, ours: socket.socket) -> None:
        number = ours.fileno()
        if not self._keeper.serve(ours):
            self._selector.unregister(number)

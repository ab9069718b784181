"""What the device thread has to say to the I/O thread: a queue that wakes a poll."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress

from protocol.records import Record


class Parcel(Record, frozen=True, kw_only=True):
    """Frames to send. `final` names the (request id, attempt) whose last word this is."""

    frames: list[bytes]
    final: tuple[str, int] | None = None


class Mailbox:
    """Any thread posts; one thread polls `descriptor` and collects. Posting never blocks."""

    def __init__(self) -> None:
        self.descriptor, self._sender = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._parcels: deque[Parcel] = deque()

    def post(self, parcel: Parcel) -> None:
        self._parcels.append(parcel)
        self.wake()

    def wake(self) -> None:
        """End the poll, without a parcel. Safe in a signal handler."""
        with suppress(BlockingIOError):  # a full pipe ends the poll anyway
            os.write(self._sender, b"!")

    def collect(self) -> list[Parcel]:
        """Everything posted so far, in order."""
        with suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass
        parcels = []
        while self._parcels:
            parcels.append(self._parcels.popleft())
        return parcels

"""Final replies kept for those who ask again, and commands that were accepted: what outlives the broker's process.

The core writes and asks here; where the records lie is the store's business: a journal in production, memory in a
simulation.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from msgspec import Struct

from protocol.link import Spelling

KEEP_SECONDS = 600.0
KEEP_BYTES = 1 << 30


class Final(Struct, frozen=True, gc=False):
    """A final reply as it was written, in answer to `payload`; `at` in seconds of the core's clock."""

    request_id: str
    action: str
    payload: bytes
    digests: tuple[bytes, ...]
    spelling: Spelling
    body: bytes
    attachments: tuple[bytes, ...]
    at: float
    success: bool
    is_damaged: bool = False
    """Its record cannot be read any more: nothing but its request id is known."""

    @classmethod
    def damaged(cls, request_id: str, at: float) -> Final:
        """What is left of a reply whose record cannot be read."""
        return cls(request_id, "", b"", (), Spelling(), b"", (), at, success=False, is_damaged=True)

    @property
    def size_bytes(self) -> int:
        return len(self.payload) + len(self.body) + sum(map(len, self.attachments))


class Accepted(Struct, frozen=True, gc=False):
    """A command that a broker owes an outcome, whatever becomes of it; `age_seconds` is how long ago it came.

    Its sender was told that it will be done; or, where `began`, a worker has it and it may not run twice: its body is
    then the payload alone, with the digests of the attachments.
    """

    request_id: str
    client: bytes
    body: tuple[bytes, ...]
    spelling: Spelling
    digests: tuple[bytes, ...]
    began: bool = False
    age_seconds: float = 0.0


class Store(Protocol):
    """Keeps finals for ten minutes, at most 1 GiB of them, the oldest out first."""

    def keep(self, final: Final) -> None:
        """Remember a final reply; it ends what was accepted under its request id."""

    def find(self, request_id: str) -> Final | None:
        """The final reply of a request id, None where there is none (any more)."""

    def beginning(self, prefix: str) -> list[str]:
        """The request ids that begin so and whose final replies are kept. Looks at all of them."""

    def accept(self, accepted: Accepted) -> None:
        """Remember a command until its final reply."""

    def unfinished(self) -> list[Accepted]:
        """The commands that were accepted and have no final reply, in their order."""

    def expire(self, now: float) -> None:
        """Forget what is too old."""


class MemoryStore:
    """A store that ends with its process."""

    def __init__(self) -> None:
        self._finals: OrderedDict[str, Final] = OrderedDict()
        self._accepted: dict[str, Accepted] = {}
        self._bytes = 0

    def keep(self, final: Final) -> None:
        self._accepted.pop(final.request_id, None)
        self._finals[final.request_id] = final
        self._bytes += final.size_bytes
        while self._bytes > KEEP_BYTES:
            self._forget_oldest()

    def find(self, request_id: str) -> Final | None:
        return self._finals.get(request_id)

    def beginning(self, prefix: str) -> list[str]:
        return [request_id for request_id in self._finals if request_id.startswith(prefix)]

    def accept(self, accepted: Accepted) -> None:
        self._accepted[accepted.request_id] = accepted

    def unfinished(self) -> list[Accepted]:
        return list(self._accepted.values())

    def expire(self, now: float) -> None:
        while self._finals and next(iter(self._finals.values())).at + KEEP_SECONDS <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, final = self._finals.popitem(last=False)
        self._bytes -= final.size_bytes

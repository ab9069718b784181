"""The keeper of the machine's RAM tier: answers every worker's requests, and keeps the blocks that they brought.

It lives in the process that outlives the workers. It reads no weight and trusts no worker with another's: a block is
taken when it is sealed and as large as it was said to be.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable

import msgspec

from protocol import ramtier as p
from protocol.ramtier import Answer, Verdict
from ramtier import channel
from ramtier.blocks import Block
from ramtier.table import Table

ORPHAN_SECONDS = 600.0
"""For so long what a dead worker held, or what was read ahead, waits for a load that needs it."""


class RamKeeper:
    """The books, the blocks and the workers' channels. One thread's; `serve` never raises for what a worker sends."""

    def __init__(self, budget_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._table: Table[Block] = Table(budget_bytes)
        self._holders: dict[socket.socket, int] = {}
        self._numbers = itertools.count(1)

    @property
    def used_bytes(self) -> int:
        return self._table.used_bytes

    def admit(self) -> tuple[socket.socket, socket.socket]:
        """A new worker: the keeper's end of its channel and the worker's. Raises OSError."""
        ours, theirs = channel.pair()
        self._holders[ours] = next(self._numbers)
        return ours, theirs

    def dismiss(self, ours: socket.socket) -> None:
        """A worker is gone, or never came: what it held stays until the room is needed."""
        holder = self._holders.pop(ours, None)
        if holder is not None:
            self._table.gone(holder, self._clock())
            ours.close()
            self._give_back()

    def expire(self) -> None:
        """Drop what dead workers held and nobody asked for since."""
        self._table.expire(self._clock() - ORPHAN_SECONDS)
        self._give_back()

    def close(self) -> None:
        """Give everything back."""
        for ours in list(self._holders):
            self.dismiss(ours)
        self._table.clear()
        self._give_back()

    def serve(self, ours: socket.socket) -> bool:
        """Answer one request. False where the worker is gone, or talks nonsense; it is dismissed then."""
        try:
            data, descriptor = channel.receive(ours)
        except (OSError, EOFError):
            self.dismiss(ours)
            return False
        given = Block(descriptor) if descriptor >= 0 else None
        try:
            request = p.decode_request(data)
        except msgspec.MsgspecError:
            if given is not None:
                given.close()
            self.dismiss(ours)
            return False
        answer, lent = self.answer(self._holders[ours], request, given)
        try:
            channel.send(ours, p.encode(answer), lent.descriptor if lent is not None else -1, wait=False)
        except OSError:
            self.dismiss(ours)
            return False
        return True

    def answer(self, holder: int, request: p.Request, given: Block | None) -> tuple[Answer, Block | None]:
        """What becomes of one request: the answer, and the block that is lent, which stays the keeper's.

        `given` is the keeper's from here on.
        """
        verdict, freed, lent = Verdict.DONE, 0, None
        wanted: list[str] = []
        table = self._table
        match request:
            case p.Find():
                entry = table.find(holder, request.key)
                lent = entry.block if entry is not None else None
                verdict = Verdict.ABSENT if entry is None else Verdict.DONE
            case p.Return():
                table.give_back(holder, request.key)
            case p.Hold():
                verdict = Verdict.DONE if table.hold(holder, request.keys) else Verdict.ABSENT
            case p.Reserve():
                verdict, wanted = table.reserve(holder, request.sizes, evict=request.evict)
            case p.Publish():
                verdict = self._publish(holder, request, given)
                given = None
            case p.Abandon():
                table.abandon(holder, request.key)
            case p.LetGo():
                freed = table.let_go(holder, request.keys)
            case p.Ask():
                pass
        if given is not None:
            given.close()
        self._give_back()
        answer = Answer(
            verdict=verdict,
            used_bytes=table.used_bytes,
            budget_bytes=table.budget_bytes,
            freed_bytes=freed,
            wanted=wanted,
            lost=table.lost(holder),
        )
        return answer, lent

    def _publish(self, holder: int, request: p.Publish, given: Block | None) -> Verdict:
        """Take the block, or refuse it and give the room back."""
        fits = given is not None and given.sealed and given.size == self._table.size_of(request.key)
        spare_since = self._clock() if request.spare else None
        if given is not None and fits and self._table.publish(holder, request.key, given, spare_since):
            return Verdict.DONE
        if given is not None:
            given.close()
        self._table.abandon(holder, request.key)
        return Verdict.REFUSED

    def _give_back(self) -> None:
        for block in self._table.dropped:
            block.close()
        self._table.dropped.clear()

"""A worker's view of a RAM tier: the machine's, behind a channel to its keeper, or one of the process's own.

Decides nothing of what stays: the books do (`ramtier.table`). A tier whose keeper does not answer is empty, and takes
nothing.
"""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from contextlib import contextmanager

import msgspec

from protocol import ramtier as p
from protocol.ramtier import Answer, Verdict
from ramtier import channel
from ramtier.blocks import Block
from ramtier.keeper import RamKeeper
from settings.logs import Logger

PATIENCE_SECONDS = 30.0
"""The keeper answers within a millisecond; one that takes this long is stopped."""

log = Logger()


class RamTier(ABC):
    """Contents by their keys. Any thread may call; blocks are read and written by the one that was given them."""

    shared = False
    """Whether the other workers of the machine see the same tier."""

    def __init__(self) -> None:
        self._lost: set[str] = set()
        self._is_gone = False
        self._lock = threading.Lock()
        self.used_bytes = 0
        """Of all contents, as the last answer had it."""
        self.budget_bytes = 0

    @contextmanager
    def lent(self, key: str) -> Iterator[Block | None]:
        """The block of a content, which stays in the tier meanwhile; None where it is not there."""
        block = self._call(p.Find(key=key))[1]
        try:
            yield block
        finally:
            if block is not None:
                block.close()
                self._call(p.Return(key=key))

    def hold(self, keys: list[str]) -> bool:
        """Contents that belong together are held from here on: all, or none where one is not there."""
        return self._call(p.Hold(keys=keys))[0].verdict is Verdict.DONE

    def reserve(self, sizes: dict[str, int], *, evict: bool) -> list[str] | None:
        """Room for contents that belong together, by key in bytes: all, or None and nothing is held.

        What is there is held from here on; the others are answered, and each asks for `publish` or `abandon`.
        """
        answer, _ = self._call(p.Reserve(sizes=sizes, evict=evict))
        return answer.wanted if answer.verdict is Verdict.DONE else None

    def has(self, key: str) -> bool:
        """Whether a content is there; it counts as used now."""
        with self.lent(key) as block:
            return block is not None

    def publish(self, key: str, block: Block, *, spare: bool = False) -> bool:
        """Put a block, sealed, where room was reserved; it is the tier's from here on. False where it was refused.

        It is held here from now on, or, where it is `spare`, by nobody: then it goes first where room is needed.
        """
        try:
            block.seal()
            return self._call(p.Publish(key=key, spare=spare), block)[0].verdict is Verdict.DONE
        finally:
            block.close()

    def abandon(self, key: str) -> None:
        """The room that was reserved is not needed."""
        self._call(p.Abandon(key=key))

    def let_go(self, keys: list[str]) -> int:
        """These are not held here any more. The bytes that left the tier, which are those that nobody else holds."""
        return self._call(p.LetGo(keys=keys))[0].freed_bytes if keys else 0

    def lost(self) -> Container[str]:
        """What was held here and is not in the tier any more, each told once; all there is where the tier is lost."""
        self._call(p.Ask())
        if self._is_gone:
            return _Everything()
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost

    def _call(self, request: p.Request, block: Block | None = None) -> tuple[Answer, Block | None]:
        with self._lock:
            answer, lent = self._asked(request, block)
            self._lost.update(answer.lost)
            if answer.verdict is Verdict.DONE:
                self._lost -= _held_by(request, answer)
            self.used_bytes, self.budget_bytes = answer.used_bytes, answer.budget_bytes
            return answer, lent

    @abstractmethod
    def _asked(self, request: p.Request, block: Block | None) -> tuple[Answer, Block | None]:
        """The answer, and the block that came beside it. `block` stays the caller's."""


class _Everything(Container[str]):
    """Whatever is asked for is in it."""

    def __contains__(self, key: object) -> bool:
        return True


def _held_by(request: p.Request, answer: Answer) -> set[str]:
    """What the asker holds since an answer, whatever it had lost before."""
    match request:
        case p.Publish():
            return set() if request.spare else {request.key}
        case p.Hold():
            return set(request.keys)
        case p.Reserve():
            return request.sizes.keys() - set(answer.wanted)
        case _:
            return set()


class PrivateTier(RamTier):
    """A tier of this process alone."""

    HOLDER = 1

    def __init__(self, budget_bytes: int) -> None:
        super().__init__()
        self.budget_bytes = budget_bytes
        self._keeper = RamKeeper(budget_bytes)

    def _asked(self, request: p.Request, block: Block | None) -> tuple[Answer, Block | None]:
        answer, lent = self._keeper.answer(self.HOLDER, request, block.again() if block is not None else None)
        return answer, lent.again() if lent is not None else None


class SharedTier(RamTier):
    """The machine's, behind the channel that the worker inherited. One that breaks is empty from there on."""

    shared = True

    def __init__(self, ours: socket.socket, budget_bytes: int) -> None:
        super().__init__()
        self.budget_bytes = budget_bytes
        ours.settimeout(PATIENCE_SECONDS)
        self._channel: socket.socket | None = ours

    @staticmethod
    def inherited(descriptor: int, budget_bytes: int) -> SharedTier:
        """Behind a channel that the parent process handed over. Raises OSError."""
        ours = socket.socket(fileno=descriptor)
        ours.set_inheritable(False)
        return SharedTier(ours, budget_bytes)

    def close(self) -> None:
        """End the channel: what is held here stays for others, and for a successor."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _asked(self, request: p.Request, block: Block | None) -> tuple[Answer, Block | None]:
        lent = None
        try:
            if self._channel is None:
                raise EOFError("the keeper of the RAM tier is gone")
            channel.send(self._channel, p.encode(request), block.descriptor if block is not None else -1)
            data, descriptor = channel.receive(self._channel)
            lent = Block(descriptor) if descriptor >= 0 else None
            return p.decode_answer(data), lent
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            # A late answer would be taken for the next one's.
            if lent is not None:
                lent.close()
            if self._channel is not None:
                log.exception("the machine's RAM tier does not answer", reason=str(error))
                self._channel.close()
                self._channel = None
            self._is_gone = True
            return Answer(verdict=Verdict.REFUSED, used_bytes=0, budget_bytes=0), None

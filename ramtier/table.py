"""The books of a RAM tier: which contents are in it, who holds them, what goes when room is needed.

Pure: no memory, no sockets, no clock. A content that its holder lets go leaves at once, where nobody else holds it;
that of a holder which died stays for its successor, for a while, and is the first to go when room is needed. So does
what was brought before anybody needs it.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Generic, TypeVar

from protocol.ramtier import PRIVATE, Verdict

B = TypeVar("B")


class State(enum.Enum):
    """Where a content stands."""

    FILLING = "filling"
    READY = "ready"


class Entry(Generic[B]):
    """A content: `block` is its memory once it is ready, `lent` how often each holder reads it now."""

    def __init__(self, key: str, size_bytes: int, filler: int) -> None:
        self.key = key
        self.bytes = size_bytes
        self.state = State.FILLING
        self.filler = filler
        self.holders: set[int] = set()
        self.lent: Counter[int] = Counter()
        self.used = 0
        self.unwanted = False
        """Its last holder let it go."""
        self.orphaned: float | None = None
        """Since when it has been without a holder, where its last one died or it came without; else None."""
        self.block: B | None = None

    @property
    def evictable(self) -> bool:
        return self.state is State.READY and not self.lent.total()


class Table(Generic[B]):
    """All contents within one budget, in bytes. Blocks that leave are in `dropped`, for the caller to give back."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.dropped: list[B] = []
        self._entries: dict[str, Entry[B]] = {}
        self._lost: dict[int, set[str]] = {}
        self._turn = 0

    @property
    def used_bytes(self) -> int:
        """What is there and what is reserved."""
        return sum(entry.bytes for entry in self._entries.values())

    def holders(self, key: str) -> frozenset[int]:
        """Who holds a content; nobody where it is not there."""
        entry = self._entries.get(key)
        return frozenset(entry.holders) if entry is not None else frozenset()

    def size_of(self, key: str) -> int | None:
        """The bytes of a content that is there or on its way."""
        entry = self._entries.get(key)
        return entry.bytes if entry is not None else None

    def clear(self) -> None:
        """Everything leaves."""
        for entry in list(self._entries.values()):
            self._drop(entry)

    def find(self, holder: int, key: str) -> Entry[B] | None:
        """The content, lent to `holder`; None where it is not there."""
        entry = self._entries.get(key)
        if entry is None or entry.state is not State.READY:
            return None
        self._turn += 1
        entry.used = self._turn
        entry.lent[holder] += 1
        return entry

    def give_back(self, holder: int, key: str) -> None:
        """The content is read once less."""
        entry = self._entries.get(key)
        if entry is not None and entry.lent[holder]:
            entry.lent[holder] -= 1
            self._drop_unwanted(entry)

    def hold(self, holder: int, keys: Iterable[str]) -> bool:
        """These are held from here on: all, or none where one is not there."""
        found = [self._entries.get(key) for key in keys]
        ready = [entry for entry in found if entry is not None and entry.state is State.READY]
        if len(ready) < len(found):
            return False
        for entry in ready:
            self._use(entry, holder)
        return True

    def reserve(self, holder: int, sizes: Mapping[str, int], *, evict: bool) -> tuple[Verdict, list[str]]:
        """Room for contents that belong together, all or none.

        DONE: what is there is held now; of the others, which are answered, room is kept until `publish` or `abandon`.
        BUSY or NO_ROOM: nothing is held, and nothing left.
        """
        there = [self._entries[key] for key in sizes if key in self._entries]
        if any(entry.state is State.FILLING for entry in there):
            return Verdict.BUSY, []
        wanted = [key for key in sizes if key not in self._entries]
        victims = self._victims(sum(sizes[key] for key in wanted), sizes, evict=evict)
        if victims is None:
            return Verdict.NO_ROOM, []
        for victim in victims:
            self._drop(victim)
            for loser in victim.holders:
                self._lost.setdefault(loser, set()).add(victim.key)
        for entry in there:
            self._use(entry, holder)
        for key in wanted:
            self._entries[key] = Entry(key, sizes[key], holder)
        return Verdict.DONE, wanted

    def publish(self, holder: int, key: str, block: B, spare_since: float | None = None) -> bool:
        """The content is there, held by `holder` or, since a moment in seconds, by nobody.

        False where `holder` reserved no room for it.
        """
        entry = self._entries.get(key)
        if entry is None or entry.state is not State.FILLING or entry.filler != holder:
            return False
        entry.block, entry.state = block, State.READY
        self._use(entry, holder)
        if spare_since is not None:
            entry.holders.clear()
            entry.orphaned = spare_since
        return True

    def abandon(self, holder: int, key: str) -> None:
        """Give the room back that was reserved."""
        entry = self._entries.get(key)
        if entry is not None and entry.state is State.FILLING and entry.filler == holder:
            del self._entries[key]

    def let_go(self, holder: int, keys: list[str]) -> int:
        """These are held by `holder` no more. The bytes that left the tier."""
        before = self.used_bytes
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and holder in entry.holders:
                entry.holders.discard(holder)
                entry.unwanted = not entry.holders
                self._drop_unwanted(entry)
        return before - self.used_bytes

    def gone(self, holder: int, now: float) -> None:
        """A holder died: what it was bringing goes, what it held stays without it. `now` is in seconds."""
        self._lost.pop(holder, None)
        for entry in list(self._entries.values()):
            if entry.state is State.FILLING and entry.filler == holder:
                del self._entries[entry.key]
            if entry.holders == {holder}:
                entry.orphaned, entry.unwanted = now, entry.key.startswith(PRIVATE)
            entry.holders.discard(holder)
            del entry.lent[holder]
            self._drop_unwanted(entry)

    def expire(self, before: float) -> None:
        """What lost its last holder before this moment, and found no other since, leaves."""
        for entry in list(self._entries.values()):
            if entry.orphaned is not None and entry.orphaned < before and entry.evictable:
                self._drop(entry)

    def lost(self, holder: int) -> list[str]:
        """What was evicted of what `holder` held, and has not been told."""
        return sorted(self._lost.pop(holder, ()))

    def _use(self, entry: Entry[B], holder: int) -> None:
        self._turn += 1
        entry.used = self._turn
        entry.holders.add(holder)
        entry.unwanted, entry.orphaned = False, None
        if holder in self._lost:
            self._lost[holder].discard(entry.key)

    def _victims(self, size_bytes: int, keep: Container[str], *, evict: bool) -> list[Entry[B]] | None:
        """Who goes so that this fits: what nobody holds, then what was used longest ago; None where it never would."""
        free = self.budget_bytes - self.used_bytes
        chosen: list[Entry[B]] = []
        unused = [entry for entry in self._entries.values() if entry.evictable and entry.key not in keep]
        idle = [entry for entry in unused if evict or not entry.holders]
        for entry in sorted(idle, key=lambda entry: (bool(entry.holders), entry.used)):
            if free >= size_bytes:
                break
            chosen.append(entry)
            free += entry.bytes
        return chosen if free >= size_bytes else None

    def _drop_unwanted(self, entry: Entry[B]) -> None:
        """What was let go by its last holder leaves as soon as nobody reads it."""
        if entry.unwanted and entry.evictable:
            self._drop(entry)

    def _drop(self, entry: Entry[B]) -> None:
        del self._entries[entry.key]
        if entry.block is not None:
            self.dropped.append(entry.block)

"""The books of the RAM tier: bounded, nobody's content lost while it is read, all of it told."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from protocol.ramtier import PRIVATE, Verdict
from ramtier.table import Table

BUDGET = 100


def filled(table: Table[str], holder: int, key: str, size: int, *, evict: bool = True) -> Verdict:
    verdict, wanted = table.reserve(holder, {key: size}, evict=evict)
    for one in wanted:
        assert table.publish(holder, one, f"block of {one}")
    return verdict


def reserved(table: Table[str], holder: int, key: str, size: int) -> Verdict:
    return table.reserve(holder, {key: size}, evict=True)[0]


def test_a_content_is_found_by_everybody_and_counted_once() -> None:
    table: Table[str] = Table(BUDGET)
    assert filled(table, 1, "a", 60) is Verdict.DONE
    assert table.reserve(2, {"a": 60}, evict=True) == (Verdict.DONE, [])
    assert table.used_bytes == 60 and set(table.holders("a")) == {1, 2}
    entry = table.find(3, "a")
    assert entry is not None and entry.block == "block of a"
    assert set(table.holders("a")) == {1, 2}, "who reads it does not keep it"
    assert table.hold(3, ["a"]) and 3 in table.holders("a")


def test_the_budget_is_met_exactly_and_not_passed() -> None:
    table: Table[str] = Table(BUDGET)
    assert filled(table, 1, "a", BUDGET) is Verdict.DONE
    assert filled(table, 1, "b", 1, evict=False) is Verdict.NO_ROOM
    assert filled(Table(BUDGET), 1, "a", BUDGET + 1) is Verdict.NO_ROOM


def test_what_was_used_longest_ago_goes_and_its_holders_hear_of_it_once() -> None:
    table: Table[str] = Table(BUDGET)
    for key in ("a", "b"):
        filled(table, 1, key, 50)
    assert table.find(2, "a") is not None
    table.give_back(2, "a")
    assert filled(table, 3, "c", 50) is Verdict.DONE
    assert (table.lost(1), table.lost(1), table.lost(2)) == (["b"], [], [])
    assert table.dropped == ["block of b"]


def test_what_a_dead_worker_held_stays_for_its_successor_and_goes_first() -> None:
    table: Table[str] = Table(BUDGET)
    filled(table, 1, "old", 50)
    filled(table, 2, "dead", 50)
    table.gone(2, 0.0)
    assert table.used_bytes == BUDGET
    assert filled(table, 1, "new", 50, evict=False) is Verdict.DONE, "nobody holds it: it may go for anybody"
    assert list(table.holders("old")) == [1] and not table.holders("dead")


def test_what_a_dead_worker_held_leaves_after_a_while_unless_another_holds_it() -> None:
    table: Table[str] = Table(BUDGET)
    for key in ("taken", "read", "forgotten", "shared"):
        filled(table, 1, key, 20)
    filled(table, 2, "shared", 20)
    table.gone(1, 10.0)
    assert table.hold(2, ["taken"])
    assert table.find(2, "read") is not None
    table.expire(10.0)
    assert table.used_bytes == 80
    table.expire(10.1)
    assert [table.size_of(key) for key in ("taken", "read", "forgotten", "shared")] == [20, 20, None, 20]
    table.give_back(2, "read")
    assert table.size_of("read") == 20, "a reader that ends takes nothing along"
    table.expire(10.1)
    assert table.size_of("read") is None


def test_what_only_its_holder_could_find_goes_with_it() -> None:
    table: Table[str] = Table(BUDGET)
    for key in (f"{PRIVATE}a", f"{PRIVATE}b", "c"):
        filled(table, 1, key, 30)
    assert table.hold(2, [f"{PRIVATE}b"])
    table.gone(1, 0.0)
    assert [table.size_of(key) for key in (f"{PRIVATE}a", f"{PRIVATE}b", "c")] == [None, 30, 30]
    assert table.dropped == [f"block of {PRIVATE}a"]


def test_what_belongs_together_is_held_whole_or_not_at_all() -> None:
    table: Table[str] = Table(BUDGET)
    filled(table, 1, "a", 20)
    assert not table.hold(2, ["a", "b"]) and set(table.holders("a")) == {1}
    assert reserved(table, 1, "b", 20) is Verdict.DONE
    assert not table.hold(2, ["a", "b"]), "what is on its way is not there"
    table.publish(1, "b", "block of b")
    assert table.hold(2, ["a", "b"]) and table.let_go(1, ["a", "b"]) == 0
    assert table.let_go(2, ["a", "b"]) == 40


def test_what_is_read_is_not_evicted_and_leaves_once_it_is_read() -> None:
    table: Table[str] = Table(BUDGET)
    filled(table, 1, "a", 60)
    assert table.find(1, "a") is not None
    assert filled(table, 2, "b", 60) is Verdict.NO_ROOM
    assert table.let_go(1, ["a"]) == 0
    table.give_back(1, "a")
    assert (table.used_bytes, table.dropped) == (0, ["block of a"])


def test_what_others_hold_is_not_freed_by_one_that_lets_go() -> None:
    table: Table[str] = Table(BUDGET)
    filled(table, 1, "a", 60)
    filled(table, 2, "a", 60)
    assert table.let_go(1, ["a", "unknown"]) == 0
    assert table.let_go(2, ["a"]) == 60


def test_room_that_was_reserved_is_given_back_by_an_end_of_any_kind() -> None:
    table: Table[str] = Table(BUDGET)
    assert reserved(table, 1, "a", 60) is Verdict.DONE
    assert reserved(table, 2, "a", 60) is Verdict.BUSY
    assert table.find(2, "a") is None
    assert reserved(table, 2, "b", 60) is Verdict.NO_ROOM, "what is on its way is not evicted"
    table.gone(1, 0.0)
    assert reserved(table, 2, "b", 60) is Verdict.DONE
    table.abandon(1, "b")
    assert table.used_bytes == 60, "another's reservation stays"
    table.abandon(2, "b")
    assert table.used_bytes == 0
    assert not table.publish(2, "b", "late")


def test_contents_that_belong_together_come_all_or_none() -> None:
    table: Table[str] = Table(BUDGET)
    filled(table, 1, "mine", 40)
    filled(table, 2, "other", 50)
    together = {"mine": 40, "new": 30, "newer": 31}
    assert table.reserve(1, together, evict=True) == (Verdict.NO_ROOM, [])
    assert list(table.holders("other")) == [2], "who cannot come whole drives nobody out"
    assert table.reserve(1, {**together, "newer": 30}, evict=True) == (Verdict.DONE, ["new", "newer"])
    assert list(table.holders("mine")) == [1], "nor a part of its own"
    assert table.used_bytes == BUDGET
    assert table.lost(2) == ["other"]


class Books(RuleBasedStateMachine):
    """Workers that come, fill, read, let go and die in any order."""

    keys: Bundle[str] = Bundle("keys")

    @initialize()
    def begin(self) -> None:
        self.table: Table[str] = Table(BUDGET)
        self.reading: list[tuple[int, str]] = []
        self.held: dict[int, set[str]] = {1: set(), 2: set(), 3: set()}

    def settle(self) -> None:
        for holder, held in self.held.items():
            held -= set(self.table.lost(holder))

    @rule(holder=st.integers(1, 3), key=st.sampled_from("abcdef"), size=st.integers(0, 70), evict=st.booleans())
    def fill(self, holder: int, key: str, size: int, evict: bool) -> None:
        if filled(self.table, holder, key, size, evict=evict) is Verdict.DONE:
            self.held[holder].add(key)
        self.settle()

    @rule(holder=st.integers(1, 3), sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 50)))
    def fill_together(self, holder: int, sizes: dict[str, int]) -> None:
        verdict, wanted = self.table.reserve(holder, sizes, evict=True)
        for number, key in enumerate(wanted):
            if number % 2:
                self.table.abandon(holder, key)
            else:
                assert self.table.publish(holder, key, key)
        if verdict is Verdict.DONE:
            self.held[holder] |= sizes.keys() - set(wanted[1::2])
        self.settle()

    @rule(holder=st.integers(1, 3), key=st.sampled_from("abcdef"), size=st.integers(0, 70))
    def bring_spare(self, holder: int, key: str, size: int) -> None:
        held = {key for keys in self.held.values() for key in keys}
        verdict, wanted = self.table.reserve(holder, {key: size}, evict=False)
        if wanted:
            assert self.table.publish(holder, key, key, 1.0) and not self.table.holders(key)
        elif verdict is Verdict.DONE:
            self.held[holder].add(key)
        self.settle()
        assert held <= {key for keys in self.held.values() for key in keys}, "nothing that is held goes for it"

    @rule(holder=st.integers(1, 3), key=st.sampled_from("abcdef"))
    def read(self, holder: int, key: str) -> None:
        if self.table.find(holder, key) is not None:
            self.reading.append((holder, key))

    @rule(holder=st.integers(1, 3), keys=st.lists(st.sampled_from("abcdef"), max_size=3))
    def hold(self, holder: int, keys: list[str]) -> None:
        there = all(self.table.size_of(key) is not None for key in keys)
        assert self.table.hold(holder, keys) is there
        if there:
            self.held[holder] |= set(keys)

    @rule(before=st.integers(0, 2))
    def expire(self, before: int) -> None:
        orphans = {key for key in "abcdef" if self.table.size_of(key) is not None and not self.table.holders(key)}
        kept = {key for key in "abcdef" if self.table.size_of(key) is not None} - orphans
        self.table.expire(before)
        assert kept <= {key for key in "abcdef" if self.table.size_of(key) is not None}

    @rule(which=st.integers(0, 20))
    def end_reading(self, which: int) -> None:
        if self.reading:
            self.table.give_back(*self.reading.pop(which % len(self.reading)))

    @rule(holder=st.integers(1, 3), key=st.sampled_from("abcdef"))
    def let_go(self, holder: int, key: str) -> None:
        self.table.let_go(holder, [key])
        self.held[holder].discard(key)

    @rule(holder=st.integers(1, 3))
    def die(self, holder: int) -> None:
        self.table.gone(holder, 1.0)
        self.reading = [one for one in self.reading if one[0] != holder]
        self.held[holder].clear()

    @invariant()
    def is_bounded(self) -> None:
        assert 0 <= self.table.used_bytes <= BUDGET

    @invariant()
    def what_is_read_is_there(self) -> None:
        for _, key in self.reading:
            assert self.table.size_of(key) is not None

    @invariant()
    def holders_are_those_that_know_it(self) -> None:
        for holder, held in self.held.items():
            assert held == {key for key in "abcdef" if holder in self.table.holders(key)}


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

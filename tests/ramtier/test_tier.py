"""A worker's view of the RAM tier: contents arrive whole, or not at all; whatever the other end does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import ramtier as p
from protocol.ramtier import Verdict
from ramtier import channel
from ramtier.blocks import Block
from ramtier.keeper import ORPHAN_SECONDS, RamKeeper
from ramtier.tier import PrivateTier, RamTier, SharedTier
from tests.ramtier.machine import Machine, machine_of

KIB = 1 << 10
BUDGET = 64 * KIB


@pytest.fixture
def machine() -> Iterator[Machine]:
    with machine_of(BUDGET) as machine:
        yield machine


@pytest.fixture(params=["private", "shared"])
def tier(request: pytest.FixtureRequest, machine: Machine) -> RamTier:
    return machine.worker() if request.param == "shared" else PrivateTier(BUDGET)


def block_of(data: bytes) -> Block:
    block = Block.make("test", len(data))
    block.write(0, data)
    return block


def put(tier: RamTier, key: str, data: bytes) -> None:
    assert tier.reserve({key: len(data)}, evict=True) == [key]
    assert tier.publish(key, block_of(data))


def found(tier: RamTier, key: str) -> bytes | None:
    with tier.lent(key) as block:
        return None if block is None else block.read(0, block.size)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_content_comes_back_as_it_was_put(tier: RamTier) -> None:
    data = os.urandom(10 * KIB)
    assert found(tier, "a") is None
    put(tier, "a", data)
    assert found(tier, "a") == data
    assert tier.used_bytes == len(data) and tier.budget_bytes == BUDGET
    assert tier.let_go(["a"]) == len(data)
    assert found(tier, "a") is None


def test_what_is_in_the_tier_cannot_be_changed_or_cut(tier: RamTier) -> None:
    put(tier, "a", b"weights")
    with tier.lent("a") as block:
        assert block is not None
        with pytest.raises(PermissionError):
            block.write(0, b"W")
        with pytest.raises(PermissionError):
            os.ftruncate(block.descriptor, 1)
        with pytest.raises(OSError, match="past a block of 7"):
            block.read(4, 8)


def test_the_tier_is_filled_to_its_budget_and_no_further(tier: RamTier) -> None:
    put(tier, "a", bytes(BUDGET))
    assert tier.reserve({"b": 1}, evict=False) is None
    put(tier, "b", b"b")
    assert (tier.lost(), tier.lost()) == ({"a"}, set())
    assert tier.reserve({"c": BUDGET + 1}, evict=True) is None
    assert found(tier, "b") == b"b", "who cannot come drives nobody out"


def test_nothing_keeps_a_descriptor(tier: RamTier) -> None:
    before = descriptors()
    for number in range(20):
        put(tier, f"key {number}", bytes(10 * KIB))
        found(tier, f"key {number}")
    tier.let_go([f"key {number}" for number in range(20)])
    assert descriptors() == before


def test_one_workers_content_is_every_workers(machine: Machine) -> None:
    first, second = machine.worker(), machine.worker()
    put(first, "a", b"weights")
    assert found(second, "a") == b"weights"
    assert second.reserve({"a": 7}, evict=True) == []
    assert first.let_go(["a"]) == 0
    assert second.let_go(["a"]) == 7


def test_a_dead_workers_content_is_its_successors(machine: Machine) -> None:
    first = machine.worker()
    put(first, "a", b"weights")
    assert first.reserve({"half": KIB}, evict=True) == ["half"]
    machine.kill(first)
    second = machine.worker()
    assert found(second, "a") == b"weights"
    assert second.used_bytes == 7, "what it was bringing is forgotten"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: block_of(b"short"), "of another size"),
        (lambda: Block(os.open("/dev/null", os.O_RDWR)), "no memory file"),
    ],
)
def test_a_block_that_is_not_what_was_said_is_refused(machine: Machine, make: object, what: str) -> None:
    tier = machine.worker()
    assert tier.reserve({"a": 7}, evict=True) == ["a"]
    block = make()  # type: ignore[operator]
    if what == "of another size":
        block.seal()
    answer, _ = tier._call(p.Publish(key="a"), block)
    block.close()
    assert answer.verdict is Verdict.REFUSED
    assert (found(tier, "a"), tier.used_bytes) == (None, 0), what


def test_a_block_that_could_still_be_written_is_refused(machine: Machine) -> None:
    tier = machine.worker()
    assert tier.reserve({"a": 7}, evict=True) == ["a"]
    with block_of(b"weights") as block:
        assert tier._call(p.Publish(key="a"), block)[0].verdict is Verdict.REFUSED


def test_nonsense_from_a_worker_ends_its_channel_and_no_more(machine: Machine) -> None:
    other, tier = machine.worker(), machine.worker()
    put(other, "a", b"weights")
    theirs = tier._channel
    assert theirs is not None
    with Block.make("beside", 1) as block:
        channel.send(theirs, b"\xff nonsense", block.descriptor)
    machine.join(tier)
    assert tier.reserve({"b": 1}, evict=True) is None
    assert found(other, "a") == b"weights"


def test_a_keeper_that_is_gone_leaves_an_empty_tier(machine: Machine) -> None:
    ours, theirs = channel.pair()
    tier = SharedTier(theirs, BUDGET)
    ours.close()
    assert found(tier, "a") is None
    assert tier.reserve({"a": 1}, evict=True) is None
    assert (tier.let_go(["a"]), tier.budget_bytes) == (0, 0)
    assert "a" in tier.lost() and "b" in tier.lost(), "whatever was held is not there any more"


def test_what_a_dead_worker_held_is_dropped_after_ten_minutes() -> None:
    now = [100.0]
    keeper = RamKeeper(BUDGET, lambda: now[0])
    ours, theirs = keeper.admit()
    before = descriptors()
    keeper.answer(1, p.Reserve(sizes={"a": 7}, evict=True), None)
    block = block_of(b"weights")
    block.seal()
    assert keeper.answer(1, p.Publish(key="a"), block)[0].verdict is Verdict.DONE
    theirs.close()
    assert not keeper.serve(ours), "the worker is gone"
    now[0] += ORPHAN_SECONDS
    keeper.expire()
    assert keeper.used_bytes == 7
    now[0] += 0.1
    keeper.expire()
    assert keeper.used_bytes == 0 and descriptors() == before - 2

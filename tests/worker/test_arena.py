"""Memory for weights: given back with its last view, or kept for the next arena within limits."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import psutil
import pytest
import torch

from protocol import commands as c
from protocol.replies import LoadModelReply, UnloadModelReply
from tests.worker.bench import Bench, worker_spec
from tests.worker.conftest import Clock
from worker.arena import ALIGNMENT_BYTES, KEPT_SECONDS, Arena, Kept
from worker.leaks import LeakMeter

MIB = 1 << 20
SD15 = "tiny-sd15"
PLENTY = 1 << 40


def kept(limit_bytes: int, clock: Clock | None = None, available: int = PLENTY) -> Kept:
    return Kept(limit_bytes, clock or Clock(), lambda: available)


def used(size_bytes: int, pool: Kept, value: int) -> int:
    """Fill an arena, and drop it; where it lay."""
    whole = Arena(size_bytes, pool).whole()
    whole.fill_(value)
    return whole.data_ptr()


def test_a_block_goes_back_to_the_system_with_its_last_view() -> None:
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    arena = Arena(128 * MIB, kept(0))
    first, second = arena.tensor((64 * MIB,), torch.uint8), arena.tensor((16 * MIB,), torch.float32)
    first.fill_(1)
    second.fill_(1)
    del arena, first
    assert process.memory_info().rss - before > 100 * MIB and int(second[0]) == 1
    del second
    assert process.memory_info().rss - before < 16 * MIB


def test_a_block_is_never_handed_out_beyond_its_end() -> None:
    arena = Arena(ALIGNMENT_BYTES, kept(0))
    arena.tensor((4,), torch.float32)
    with pytest.raises(ValueError):
        arena.tensor((4,), torch.float32)


def test_what_is_kept_is_counted_and_is_the_next_arenas() -> None:
    pool = kept(4 * MIB)
    first = used(4 * MIB, pool, 1)
    assert pool.bytes == 4 * MIB
    again = Arena(4 * MIB, pool)
    assert again.whole().data_ptr() == first and pool.bytes == 0
    del again
    assert pool.bytes == 4 * MIB


def test_no_more_is_kept_than_the_limit() -> None:
    pool = kept(4 * MIB - 1)
    used(4 * MIB, pool, 1)
    assert pool.bytes == 0
    pool.limit_bytes += 1
    used(4 * MIB, pool, 1)
    assert pool.bytes == 4 * MIB
    both = [Arena(3 * MIB, pool), Arena(2 * MIB, pool)]
    both.clear()
    assert 2 * MIB <= pool.bytes <= 4 * MIB


@pytest.mark.parametrize("size", [MIB, 3 * MIB, 4 * MIB, 16 * MIB])
def test_a_block_of_another_size_is_cut_or_grows(size: int) -> None:
    pool = kept(64 * MIB)
    used(4 * MIB, pool, 7)
    whole = Arena(size, pool).whole()
    whole.fill_(9)
    assert len(whole) == size and int(whole.to(torch.int64).sum()) == 9 * size and pool.bytes == 0
    del whole
    assert pool.bytes == size


def test_the_nearest_block_is_taken() -> None:
    pool = kept(64 * MIB)
    arenas = [Arena(size * MIB, pool) for size in (1, 8, 3)]
    arenas.clear()
    taken = Arena(3 * MIB, pool)
    assert pool.bytes == 9 * MIB
    del taken


def test_a_block_that_is_still_seen_is_nobody_elses() -> None:
    pool = kept(64 * MIB)
    first = Arena(MIB, pool).whole()
    view = first[10:20]
    del first
    assert pool.bytes == 0
    other = Arena(MIB, pool).whole()
    other.fill_(3)
    view.fill_(4)
    assert int(other.max()) == 3


def test_what_nobody_takes_goes_back_after_a_while_and_at_once_where_memory_is_short() -> None:
    clock, free = Clock(), [PLENTY]
    pool = Kept(4 * MIB, clock, lambda: free[0])
    used(MIB, pool, 1)
    clock.now += KEPT_SECONDS - 0.1
    pool.expire()
    assert pool.bytes == MIB
    clock.now += 0.1
    pool.expire()
    assert pool.bytes == 0
    used(MIB, pool, 1)
    free[0] = 4 * MIB - 1
    pool.expire()
    assert pool.bytes == 0
    used(MIB, pool, 1)
    assert pool.bytes == 0, "nothing is kept where others lack memory"


def test_threads_never_share_a_block() -> None:
    pool = kept(64 * MIB)
    wrong: list[int] = []

    def work(value: int) -> None:
        for _ in range(200):
            whole = Arena(MIB // 4, pool).whole()
            whole.fill_(value)
            if int(whole.min()) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and pool.bytes <= 2 * MIB, "each has one, and for a moment the next"


def test_what_is_kept_is_reserved_and_no_leak(cpu: Bench) -> None:
    cpu.engine.leaks = LeakMeter(cpu.engine.device, tolerance_bytes=0)
    cpu.engine.leaks.start()
    cpu.engine.device.trim()
    cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15)
    cpu.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    gauge = cpu.engine.device.gauge()
    assert gauge.used == 0 and gauge.reserved is not None and gauge.reserved > MIB
    cpu.engine.look_for_leaks()
    assert cpu.engine.report().leaked_bytes == 0
    cpu.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert cpu.engine.device.gauge().reserved == 0


def test_what_is_driven_out_of_the_ram_tier_takes_no_kept_memory_along(model_root: Path) -> None:
    bench = Bench(model_root, worker_spec(model_root, ram_budget_bytes=8 * MIB))
    bench.engine.device.trim()
    for name in (SD15, "tiny-sdxl"):
        bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
        bench.reply(UnloadModelReply, c.UnloadModel(model_id=name), name)
    assert (SD15, "disk", "evicted: RAM tier full") in bench.moves()
    reserved = bench.engine.device.gauge().reserved
    assert reserved is not None and reserved > MIB
    bench.engine.device.trim()

"""A load reads as its strategy says, or as the host's memory does."""

from __future__ import annotations

import pytest

from protocol.enums import LoadingStrategy
from worker import host
from worker.pace import CHUNK_BYTES, MOST_THREADS, SCARCE, SMALL_CHUNK_BYTES, USUAL_THREADS, pace_of

MODEL = 1 << 30


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_bytes", lambda: 100 * MODEL)


def asked(strategy: LoadingStrategy, cached: float = 0.0, held: bool = False, cpus: int = 8) -> tuple[int, int, bool]:
    pace = pace_of(strategy, MODEL, cached=cached, host_holds_file=held, cpus=cpus)
    return pace.threads, pace.chunk_bytes, pace.gives_back


def test_the_least_memory_is_one_thread_small_chunks_and_no_pages_left() -> None:
    assert asked(LoadingStrategy.LOW_MEMORY) == (1, SMALL_CHUNK_BYTES, True)


@pytest.mark.parametrize(
    ("cached", "held", "gives_back"), [(0.49, False, True), (0.5, False, False), (0.0, True, False)]
)
def test_pages_that_others_keep_stay(cached: float, held: bool, gives_back: bool) -> None:
    assert asked(LoadingStrategy.LOW_MEMORY, cached, held)[2] is gives_back


@pytest.mark.parametrize(("cpus", "threads"), [(1, USUAL_THREADS), (8, 8), (64, MOST_THREADS)])
def test_fast_is_as_many_threads_as_the_host_has(cpus: int, threads: int) -> None:
    assert asked(LoadingStrategy.FAST, cpus=cpus) == (threads, CHUNK_BYTES, False)


@pytest.mark.parametrize(("more", "threads"), [(0, USUAL_THREADS), (-1, 1)])
def test_by_default_scarce_memory_is_spared(monkeypatch: pytest.MonkeyPatch, more: int, threads: int) -> None:
    monkeypatch.setattr(host, "available_bytes", lambda: int(SCARCE * MODEL) + more)
    assert asked(LoadingStrategy.DEFAULT)[0] == threads
    assert asked(LoadingStrategy.FAST)[0] == 8


def test_where_nothing_tells_the_memory_the_usual_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_bytes", lambda: None)
    assert asked(LoadingStrategy.DEFAULT) == (USUAL_THREADS, CHUNK_BYTES, False)


def test_the_hosts_memory_is_told_within_what_it_has() -> None:
    found = host.available_bytes()
    assert found is None or 0 <= found < 1 << 50

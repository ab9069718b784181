"""When the next model is read ahead: beside other work, never beside a load, and not for what nobody wants any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from protocol.enums import ModelStatus, ModelType
from protocol.errors import ErrorCode, Fault
from protocol.link import ModelRef, Prefetch
from worker.prefetch import Prefetcher, Watch

PATIENCE = 10.0


def wish(name: str) -> Prefetch:
    ref = ModelRef(model_id=name, path=f"/{name}", type=ModelType.SD15, size_bytes=1, status=ModelStatus.Available)
    return Prefetch(model=ref)


class Disk:
    """Readings that a test lets go on part by part."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.parts: list[str] = []
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.raises: Exception | None = None
        self.prefetcher = Prefetcher(self._read)

    def _read(self, wanted: Prefetch, watch: Watch) -> None:
        assert wanted.model is not None
        self.begun.append(wanted.model.model_id)
        self.began.release()
        if self.raises is not None:
            raise self.raises
        for number in range(3):
            watch.between()
            while not self.gate.acquire(timeout=0.005):
                watch.check()
            self.parts.append(f"{wanted.model.model_id}{number}")

    def want(self, name: str, begun: tuple[str, ...] = ()) -> None:
        self.prefetcher.want(wish(name), begun)

    def wait_begun(self) -> None:
        assert self.began.acquire(timeout=PATIENCE)

    def wait(self, done: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE / 0.005)):
            if done():
                return
            threading.Event().wait(0.005)
        raise AssertionError(f"{self.begun} {self.parts}")


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.prefetcher.want(Prefetch())
    disk.gate.release(100)


def nothing() -> None:
    pass


def test_a_wish_is_read_to_its_end(disk: Disk) -> None:
    disk.want("a")
    disk.gate.release(3)
    disk.wait(disk.prefetcher.idle)
    assert disk.parts == ["a0", "a1", "a2"]


def test_another_wish_gives_the_first_one_up_at_once(disk: Disk) -> None:
    disk.want("a")
    disk.wait_begun()
    disk.want("b")
    disk.wait_begun()
    disk.gate.release(3)
    disk.wait(disk.prefetcher.idle)
    assert disk.parts == ["b0", "b1", "b2"]


def test_no_wish_gives_it_up_too(disk: Disk) -> None:
    disk.want("a")
    disk.wait_begun()
    disk.prefetcher.want(Prefetch())
    disk.wait(disk.prefetcher.idle)
    assert not disk.parts


def test_a_load_of_the_model_waits_for_the_part_at_hand_alone(disk: Disk) -> None:
    disk.want("a")
    disk.wait_begun()
    threading.Timer(0.05, disk.gate.release).start()
    with disk.prefetcher.held_off("a", nothing):
        assert disk.parts == ["a0"]
        disk.gate.release(3)
        assert disk.parts == ["a0"]
    disk.wait(disk.prefetcher.idle)
    assert disk.parts == ["a0"] and disk.begun == ["a"]


def test_a_load_of_another_model_has_it_given_up_and_read_later(disk: Disk) -> None:
    disk.want("a")
    disk.wait_begun()
    with disk.prefetcher.held_off("b", nothing):
        assert not disk.parts
        disk.gate.release(3)
    disk.wait(disk.prefetcher.idle)
    assert disk.begun == ["a", "a"] and disk.parts == ["a0", "a1", "a2"]


def test_what_has_begun_is_not_given_up_for_the_one_behind_it(disk: Disk) -> None:
    disk.want("a")
    disk.wait_begun()
    disk.want("b", begun=("a",))
    disk.gate.release(6)
    disk.wait(disk.prefetcher.idle)
    assert disk.parts == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_a_load_that_is_cancelled_while_it_waits_lets_the_reading_go_on(disk: Disk) -> None:
    disk.want("a")
    disk.wait_begun()

    def cancelled() -> None:
        raise Fault(ErrorCode.CANCELLED, "enough")

    with pytest.raises(Fault), disk.prefetcher.held_off("b", cancelled):
        raise AssertionError("it was cancelled before")
    disk.gate.release(4)  # one may have gone to the reading that was given up
    disk.wait(lambda: disk.parts[-3:] == ["a0", "a1", "a2"])


@pytest.mark.parametrize("error", [Fault(ErrorCode.MODEL_CORRUPTED, "it is cut"), OSError("gone"), MemoryError()])
def test_what_cannot_be_read_costs_nothing_but_itself(disk: Disk, error: Exception) -> None:
    disk.raises = error
    disk.want("a")
    disk.wait_begun()
    disk.wait(disk.prefetcher.idle)
    disk.raises = None
    disk.want("b")
    disk.gate.release(3)
    disk.wait(disk.prefetcher.idle)
    assert disk.parts == ["b0", "b1", "b2"]

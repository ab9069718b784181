"""The machine's RAM tier in the supervisor: a channel for each incarnation, contents that outlive it."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.devices import FoundDevice
from broker.launch.ram import NONE, MachineRam
from protocol.enums import DeviceKind
from ramtier.blocks import Block
from ramtier.tier import SharedTier
from settings.config import DeviceRequest

BUDGET = 1 << 20


def device(kind: DeviceKind) -> FoundDevice:
    return FoundDevice(request=DeviceRequest(kind=kind, index=0))


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        yield selector


@contextmanager
def turning(selector: selectors.BaseSelector) -> Iterator[None]:
    """The supervisor's loop, in a thread."""
    ended = threading.Event()

    def turn() -> None:
        while not ended.is_set():
            for key, _ in selector.select(0.01):
                key.data()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("kind", [DeviceKind.CPU, DeviceKind.CUDA])
def test_what_a_worker_brought_is_there_for_its_successor(kind: DeviceKind, selector: selectors.BaseSelector) -> None:
    ram = MachineRam(BUDGET, selector)
    with turning(selector):
        with ram.channel(device(kind)) as channel:
            first = os.dup(channel)
        worker = SharedTier.inherited(first, BUDGET)
        assert not os.get_inheritable(first)
        block = Block.make("test", 7)
        block.write(0, b"weights")
        assert worker.reserve({"a": 7}, evict=True) == ["a"] and worker.publish("a", block)
        worker.close()
        while selector.get_map():
            time.sleep(0.001)  # the thread that serves has not let go of it yet
        with ram.channel(device(kind)) as channel:
            second = SharedTier.inherited(os.dup(channel), BUDGET)
        with second.lent("a") as found:
            assert found is not None and found.read(0, 7) == b"weights"
        assert ram.used_bytes == 7
        second.close()
    ram.close()


@pytest.mark.parametrize("found", [None, device(DeviceKind.VIRTUAL)])
def test_who_holds_nothing_in_host_memory_has_no_channel(
    found: FoundDevice | None, selector: selectors.BaseSelector
) -> None:
    with MachineRam(BUDGET, selector).channel(found) as channel:
        assert channel == NONE
    assert not selector.get_map()


def test_a_launch_that_fails_leaves_no_channel(selector: selectors.BaseSelector) -> None:
    ram, before = MachineRam(BUDGET, selector), descriptors()
    with pytest.raises(OSError, match="no room"), ram.channel(device(DeviceKind.CPU)):
        raise OSError("no room for a process")
    assert not selector.get_map() and descriptors() == before


def test_a_worker_that_ends_gives_its_channel_back(selector: selectors.BaseSelector) -> None:
    ram, before = MachineRam(BUDGET, selector), descriptors()
    with ram.channel(device(DeviceKind.CPU)):
        pass
    for key, _ in selector.select(10):
        key.data()
    assert not selector.get_map() and descriptors() == before

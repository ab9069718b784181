"""The supervisor's parts: listening sockets that outlive the broker, memory budgets, incarnations of children."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.launch import memory
from broker.launch.child import Child
from broker.launch.listeners import descriptor, listen
from broker.launch.local import LocalProcess
from broker.launch.memory import MemoryWatch
from broker.premises import LinkPlace, only_one
from broker.restarts import RestartPolicy
from settings.config import ConfigError, RestartLimits, Settings

GIB = 1 << 30


def child(failures: int = 3) -> Child:
    return Child("cpu:0", "worker", RestartPolicy(lambda: 0.5, RestartLimits(failures=failures)))


@pytest.fixture
def process() -> Iterator[LocalProcess]:
    popen = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield LocalProcess(popen)
    popen.kill()
    popen.wait()
    for stream in (popen.stdin, popen.stdout):
        assert stream is not None
        stream.close()


# listeners


@pytest.mark.parametrize("address", ["ipc:///tmp/x", "tcp://localhost:0", "tcp://eth0:5555", "tcp://*:5555", ""])
def test_an_address_that_is_no_numeric_tcp_one_is_left_to_the_broker(address: str) -> None:
    assert listen(address) is None
    assert descriptor(None) == -1


def test_an_address_in_use_is_an_error() -> None:
    first = listen("tcp://127.0.0.1:0")
    assert first is not None
    with first, pytest.raises(OSError, match="in use"):
        listen(f"tcp://127.0.0.1:{first.getsockname()[1]}")


def test_clients_that_connect_while_no_broker_runs_are_served_by_the_next_one() -> None:
    listener = listen("tcp://127.0.0.1:*")
    assert listener is not None
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    with listener:
        for _ in range(3):  # a context each: once it has ended, no closed socket accepts any more
            with (
                zmq.Context() as context,
                context.socket(zmq.DEALER) as client,
                context.socket(zmq.ROUTER) as router,
            ):
                for one in (client, router):
                    one.setsockopt(zmq.LINGER, 0)
                    one.setsockopt(zmq.RCVTIMEO, 10_000)
                client.connect(address)
                client.send(b"hello")
                router.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))
                router.bind("tcp://127.0.0.1:0")
                router.send_multipart([router.recv_multipart()[0], b"answer"])
                assert client.recv() == b"answer"
                assert router.getsockopt_string(zmq.LAST_ENDPOINT) == address


# memory


def test_memory_that_is_held_is_measured_and_mapped_files_are_not_part_of_it(tmp_path: Path) -> None:
    before = memory.held_bytes(os.getpid())
    assert before is not None
    held = bytearray(64 << 20)
    after = memory.held_bytes(os.getpid())
    assert after is not None
    assert after - before >= (60 << 20)
    assert len(held) == 64 << 20
    assert memory.held_bytes(2**22 + 1) is None


def test_the_hosts_memory_is_known_and_never_more_than_the_machines() -> None:
    assert 0 < memory.host_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_brokers_budget_is_the_configured_one_or_derived() -> None:
    assert MemoryWatch(100, 0, 64 * GIB).broker_bytes == 100
    assert MemoryWatch(0, 0, 64 * GIB).broker_bytes == 4 * GIB
    assert MemoryWatch(0, 0, 2 * GIB).broker_bytes == GIB
    watch = MemoryWatch(100, 0, 64 * GIB)
    assert watch.broker(None) is None
    assert watch.broker(100) is None
    assert watch.broker(101) == "it holds 101 bytes of memory, its budget is 100"


def test_the_largest_worker_above_its_budget_has_to_go() -> None:
    watch = MemoryWatch(0, 10, 0)
    assert watch.worker({}, 0) is None
    assert watch.worker({"a": 10, "b": 9}, 0) is None
    excess = watch.worker({"a": 11, "b": 12}, 0)
    assert excess is not None
    assert (excess.child, excess.held_bytes) == ("b", 12)


def test_the_largest_worker_has_to_go_where_all_together_take_too_much() -> None:
    watch = MemoryWatch(0, 0, 1000)
    assert watch.worker({"a": 500, "b": 300}, 100) is None
    excess = watch.worker({"a": 500, "b": 300}, 101)
    assert excess is not None
    assert excess.child == "a"
    assert "901 bytes of 900" in excess.reason


# incarnations


def test_deaths_before_readiness_or_service_open_the_breaker_with_their_reason(process: LocalProcess) -> None:
    one = child()
    for ready in (False, True):
        one.begin(process, 0.0)
        one.ready = ready
        assert one.bury("ended by SIGSEGV", 1.0) is not None
        assert not one.given_up
    one.begin(process, 0.0)
    assert one.bury("ended by SIGSEGV", 1.0) is None
    assert one.given_up
    assert one.last_words == "it died 3 times, last before it was ready: ended by SIGSEGV"
    assert one.restarts == 3


def test_a_worker_that_served_is_restarted_at_once_however_often_it_dies(process: LocalProcess) -> None:
    one = child()
    for _ in range(20):
        one.begin(process, 0.0)
        one.ready = one.served = True
        assert one.bury("ended by SIGKILL", 5.0) == 0.0
        assert one.start_at == 5.0


def test_a_replacement_is_no_failure_and_forgives_those_before(process: LocalProcess) -> None:
    one = child(failures=2)
    one.begin(process, 0.0)
    one.bury("ended by SIGSEGV", 1.0)
    one.begin(process, 0.0)
    one.revive("recycled: it grew", 2.0)
    assert one.bury("ended by SIGKILL", 3.0) == 0.0
    assert one.last_words == "recycled: it grew"
    one.begin(process, 0.0)
    assert one.bury("ended by SIGSEGV", 4.0) is not None


def test_what_was_given_up_comes_back_when_it_is_revived(process: LocalProcess) -> None:
    one = child(failures=1)
    one.begin(process, 0.0)
    assert one.bury("ended by SIGSEGV", 1.0) is None
    one.revive("resumed", 2.0)
    assert one.start_at == 2.0
    assert not one.given_up


# premises


def test_a_runtime_folder_has_one_supervisor(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(ConfigError, match="in use"), only_one(tmp_path):
        pass


def test_a_link_whose_path_would_be_too_long_lies_in_a_short_folder_that_is_removed(tmp_path: Path) -> None:
    runtime = tmp_path / ("x" * 100)
    place = LinkPlace(Settings(runtime=runtime, data=runtime, outputs=runtime))
    path = Path(place.address.removeprefix("ipc://"))
    assert len(os.fsencode(path)) < 100
    assert path.parent.is_dir()
    place.clear()
    assert not path.parent.exists()


def test_a_line_to_a_process_that_does_not_read_blocks_nobody() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        popen = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert popen.stdin is not None
        os.set_blocking(popen.stdin.fileno(), False)
        one = LocalProcess(popen)
        for _ in range(100):
            one.write(b"x" * 4096)
        one.kill()
        popen.wait()
        one.close()

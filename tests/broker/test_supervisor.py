"""The supervisor's parts: listening sockets that outlive the broker, memory budgets, incarnations of children."""

from __future__ import annotations

import os
import shutil
import socket
import stat
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
from broker.restarts import RestartPolicy
from broker.runtime import RuntimeFolder
from settings import endpoints, host
from settings.config import Settings
from settings.endpoints import Endpoints
from settings.file import ConfigError, RestartLimits

GIB = 1 << 30


def child(failures: int = 3) -> Child:
    return Child("cpu:0", "worker", RestartPolicy(lambda: 0.5, RestartLimits(failures=failures)))


@pytest.fixture
def process() -> Iterator[LocalProcess]:
    popen = subprocess.Popen([sys.executable, "-P", "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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
    assert 0 < host.available_bytes() <= host.memory_bytes()
    assert 0 < host.memory_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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


def test_a_death_that_was_asked_for_has_its_reason_and_counts_as_one(process: LocalProcess) -> None:
    one = child(failures=2)
    one.begin(process, 0.0)
    one.condemn("its device is of no use any more: CUDA error")
    assert one.bury("ended by SIGKILL", 1.0) is not None
    assert one.last_words == "its device is of no use any more: CUDA error"
    one.begin(process, 0.0)
    assert one.bury("ended by SIGSEGV", 2.0) is None
    assert one.last_words.endswith("ended by SIGSEGV")


def test_what_was_given_up_comes_back_when_it_is_revived(process: LocalProcess) -> None:
    one = child(failures=1)
    one.begin(process, 0.0)
    assert one.bury("ended by SIGSEGV", 1.0) is None
    one.revive("resumed", 2.0)
    assert one.start_at == 2.0
    assert not one.given_up


# the runtime folder


def folder_of(runtime: Path, **fields: str) -> RuntimeFolder:
    return RuntimeFolder(Settings(runtime=runtime, data=runtime / "data", outputs=runtime, **fields))


WRITTEN = Endpoints(commands="tcp://127.0.0.1:1", events="tcp://127.0.0.1:2", pid=1, epoch="e")


def test_a_runtime_folder_has_one_supervisor_whatever_files_are_removed(tmp_path: Path) -> None:
    with folder_of(tmp_path).held():
        for path in tmp_path.iterdir():
            path.unlink() if path.is_file() else path.rmdir()
        with pytest.raises(ConfigError, match="in use"), folder_of(tmp_path).held():
            pass
    with folder_of(tmp_path).held():
        pass


def test_a_link_whose_path_would_be_too_long_lies_in_a_short_folder_that_is_removed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / ("x" * 100))
    with folder.held():
        path = Path(folder.link.removeprefix("ipc://"))
        assert len(os.fsencode(path)) < 100
        assert path.parent.is_dir()
    assert not path.parent.exists()


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o707])
def test_a_runtime_folder_that_others_may_write_to_is_left_alone(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(ConfigError, match="open to everybody"), folder_of(shared).held():
        pass
    assert stat.S_IMODE(shared.stat().st_mode) == mode and not list(shared.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="NOT ROOT: folders of other users are not tested here")
@pytest.mark.parametrize("inside", [True, False])
def test_a_runtime_folder_that_belongs_to_others_is_left_alone(tmp_path: Path, inside: bool) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "file").mkdir(parents=True)
    os.chown(theirs / "file" if inside else theirs, 65534, 65534)
    before = theirs.stat()
    with pytest.raises(ConfigError, match="belongs to"), folder_of(theirs).held():
        pass
    assert (theirs.stat().st_mode, theirs.stat().st_uid) == (before.st_mode, before.st_uid)


def test_a_folder_of_ones_own_is_closed_to_others(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    own.chmod(0o755)
    with folder_of(own).held():
        assert stat.S_IMODE(own.stat().st_mode) == 0o700


def test_what_a_cleaner_removed_is_there_again(tmp_path: Path) -> None:
    runtime = tmp_path / "runtime"
    folder = folder_of(runtime)
    with folder.held():
        folder.announce(WRITTEN)
        Path(folder.link.removeprefix("ipc://")).touch()
        assert folder.repair() is False
        (runtime / "endpoints.json").unlink()
        assert folder.repair() is False
        assert endpoints.read(runtime) == WRITTEN
        shutil.rmtree(runtime)
        assert folder.repair() is True, "the link has to be bound anew"
        assert endpoints.read(runtime) == WRITTEN
        with pytest.raises(ConfigError, match="in use"), folder_of(runtime).held():
            pass
    assert not (runtime / "endpoints.json").exists()


def test_endpoints_that_cannot_be_written_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = folder_of(tmp_path)
    with folder.held():
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            folder.announce(WRITTEN)
            folder.repair()
        assert endpoints.read(tmp_path) is None
        folder.repair()
        assert endpoints.read(tmp_path) == WRITTEN


@pytest.mark.skipif(os.getuid() != 0, reason="NOT ROOT: folders of other users are not tested here")
def test_clients_believe_a_folder_that_nobody_named_only_where_it_is_their_own(tmp_path: Path) -> None:
    endpoints.write(tmp_path, WRITTEN)
    assert endpoints.read(tmp_path, is_named=False) == WRITTEN
    os.chown(tmp_path, 65534, 65534)
    assert endpoints.read(tmp_path, is_named=False) is None
    assert endpoints.read(tmp_path, is_named=True) == WRITTEN


def test_a_line_to_a_process_that_does_not_read_blocks_nobody() -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert popen.stdin is not None
        os.set_blocking(popen.stdin.fileno(), False)
        one = LocalProcess(popen)
        for _ in range(100):
            one.write(b"x" * 4096)
        one.kill()
        popen.wait()
        one.close()

"""Who dies, and who goes on: real processes, real signals, on virtual devices."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from tests.integration.conftest import ROOT, Broker, Connection, profile, serving, wait_for

SETTINGS = """
admin = true
silence_ms = 1500
heartbeat_ms = 100
broker_memory = "160MiB"
[restarts]
failures = 3
[progress]
generate = 2.0
"""
FRAME_BYTES = 1 << 20
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
FUTEX = {"x86_64": "202", "aarch64": "98"}.get(platform.machine(), "")
"""The number of the system call in which threads wait for each other."""


@pytest.fixture
def tough(tmp_path: Path) -> Iterator[Broker]:
    """Two virtual devices under a broker with short patience and a small memory budget."""
    models = tmp_path / "models"
    models.mkdir()
    profile(models, "alpha")
    profile(models, "beta")
    profile(models, "slow", step_ms=100)
    config = tmp_path / "config.toml"
    config.write_text(SETTINGS)
    with serving(tmp_path, models, devices="virtual:2", vram="4GiB", drain="5", config=str(config)) as broker:
        yield broker


def broker_process(broker: Broker) -> psutil.Process:
    """The broker among the supervisor's children."""
    children = psutil.Process(broker.process.pid).children()
    return next(child for child in children if child.status() != "zombie" and "broker" in child.cmdline())


def until_next_epoch(broker: Broker, epoch: str) -> dict[str, Any]:
    """What `endpoints.json` says once another broker takes commands."""

    def changed() -> dict[str, Any] | None:
        written: dict[str, Any] = broker.read_endpoints()
        return written if written["epoch"] != epoch else None

    found: dict[str, Any] = wait_for(changed, broker)
    return found


def held(devices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a restart of the broker must not change: process, incarnation, deaths, models."""
    return {
        name: (device["pid"], device["generation"], device["restarts"], [m["model_id"] for m in device["models"]])
        for name, device in devices.items()
    }


def run_long(client: Connection, broker: Broker, request: str, **fields: Any) -> None:
    """Begin a generation of several seconds, and wait for its first step."""
    command = {"action": "generate", "model_id": "slow", "prompt": "x", "steps": 900, "request_id": request}
    client.send({**command, **fields})
    other = broker.connect()
    wait_for(lambda: other.ask({"action": "get_result", "target_request_id": request})["progress"], broker)


def ask_until_known(broker: Broker, command: dict[str, Any]) -> dict[str, Any]:
    """An answer of whichever broker lives: a question that died with its broker is asked again."""

    def answered() -> dict[str, Any] | None:
        connection = broker.connect()
        connection.socket.setsockopt(zmq.RCVTIMEO, 2000)
        with contextlib.suppress(zmq.Again):
            return connection.ask(command)
        return None

    reply: dict[str, Any] = wait_for(answered, broker)
    return reply


# the broker


def test_a_killed_broker_is_back_on_its_addresses_and_nothing_else_died(tough: Broker) -> None:
    client = tough.connect()
    for device, model in (("virtual:0", "alpha"), ("virtual:1", "beta")):
        assert client.ask({"action": "load_model", "model_id": model, "device_id": device})["success"]
    os.kill(tough.devices()["virtual:1"]["pid"], signal.SIGKILL)
    wait_for(lambda: tough.devices()["virtual:1"]["restarts"] == 1, tough)
    tough.wait_ready()
    assert client.ask({"action": "load_model", "model_id": "beta", "device_id": "virtual:1"})["success"]
    before, written = held(tough.devices()), tough.endpoints
    for _ in range(3):
        epoch = written["epoch"]
        broker_process(tough).kill()
        written = until_next_epoch(tough, epoch)
        assert {key: written[key] for key in ("commands", "events", "pid")} == {
            key: tough.endpoints[key] for key in ("commands", "events", "pid")
        }
        assert ask_until_known(tough, {"action": "ping"})["epoch"] == written["epoch"]
        tough.wait_ready()
        assert held(tough.devices()) == before


def test_a_broker_that_hangs_is_replaced(tough: Broker) -> None:
    before = held(tough.devices())
    broker_process(tough).send_signal(signal.SIGSTOP)
    until_next_epoch(tough, tough.endpoints["epoch"])
    tough.wait_ready()
    assert held(tough.devices()) == before
    assert '"it was silent for 5 s"' in tough.log.read_text()


def test_a_message_that_never_ends_costs_the_broker_its_process_and_nobody_else(tough: Broker) -> None:
    assert tough.connect().ask({"action": "load_model", "model_id": "alpha"})["success"]
    before, epoch = held(tough.devices()), tough.endpoints["epoch"]
    port = int(tough.endpoints["commands"].rpartition(":")[2])
    flood(port, stop=lambda: tough.read_endpoints()["epoch"] != epoch)
    written = until_next_epoch(tough, epoch)
    assert written["commands"] == tough.endpoints["commands"]
    tough.wait_ready()
    assert held(tough.devices()) == before
    lines = [json.loads(line) for line in tough.log.read_text().splitlines() if line.startswith("{")]
    reasons = [line["reason"] for line in lines if line.get("event") == "the broker is ended"]
    assert len(reasons) == 1
    assert f"its budget is {160 << 20}" in reasons[0]


def flood(port: int, stop: Any) -> None:
    """Send one multipart message without an end over bare TCP, until told to stop or cut off."""
    end = time.monotonic() + 60
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"\xff" + bytes(8) + b"\x7f" + bytes([3, 0]) + b"NULL".ljust(20, b"\0") + bytes(32))
        metadata = b"\x05READY" + b"\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
        peer.sendall(bytes([4, len(metadata)]) + metadata)
        frame = bytes([1 | 2]) + FRAME_BYTES.to_bytes(8, "big") + bytes(FRAME_BYTES)
        with contextlib.suppress(OSError):
            while not stop() and time.monotonic() < end:
                peer.sendall(frame)


# workers


def test_a_stopped_worker_is_replaced_and_what_waited_goes_elsewhere(tough: Broker) -> None:
    client, other = tough.connect(), tough.connect()
    run_long(other, tough, "beside", steps=80, device_id="virtual:1")
    run_long(client, tough, "running", steps=30, device_id="virtual:0")
    client.send({"action": "generate", "model_id": "slow", "prompt": "y", "steps": 1, "request_id": "queued"})
    wait_for(lambda: tough.devices()["virtual:0"]["queue_depth"], tough)
    before = tough.devices()["virtual:0"]
    os.kill(before["pid"], signal.SIGSTOP)
    lost, _ = client.receive()
    assert (lost["request_id"], lost["error"]["code"]) == ("running", "WORKER_LOST")
    assert "silent" in lost["message"]
    done, _ = client.receive()
    assert (done["request_id"], done["success"]) == ("queued", True)
    wait_for(lambda: tough.devices()["virtual:0"]["generation"] > before["generation"], tough)
    assert not psutil.pid_exists(before["pid"])


def test_a_worker_whose_device_thread_is_stuck_is_replaced_although_it_beats(tough: Broker) -> None:
    profile(tough.runtime.parent / "models", "glacier", step_ms=60_000)
    client = tough.connect()
    assert client.ask({"action": "scan_models"})["success"]
    before = tough.devices()["virtual:0"]
    stuck = {"action": "generate", "model_id": "glacier", "prompt": "x", "steps": 2, "device_id": "virtual:0"}
    client.send({**stuck, "timeout_seconds": 300})
    wait_for(lambda: '"command begins"' in tough.log.read_text(), tough)
    thread = freeze_device_thread(before["pid"])
    lost, _ = client.receive()
    reap(thread)
    assert lost["error"]["code"] == "WORKER_LOST"
    assert "made no progress for 2 s" in lost["message"]
    wait_for(lambda: tough.devices()["virtual:0"]["generation"] > before["generation"], tough)


def freeze_device_thread(pid: int) -> int:
    """Stop the thread of a worker that waits with a limit: the device's, in its work; others wait for good."""
    found: list[int] = []

    def waits() -> bool:
        threads = [thread.id for thread in psutil.Process(pid).threads() if thread.id != pid]
        found[:] = [thread for thread in threads if waits_with_a_limit(pid, thread)]
        return len(found) == 1

    wait_for(waits)
    (thread,) = found
    wait_for(lambda: sleeps(pid, thread))
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None):
            pytest.skip(f"this system lets nobody stop a thread: {os.strerror(ctypes.get_errno())}")
    return thread


def waits_with_a_limit(pid: int, thread: int) -> bool:
    """Is a thread in futex(2), with a time after which it wakes?"""
    words = Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()
    return words[0] == FUTEX and words[4] != "0x0"


def sleeps(pid: int, thread: int) -> bool:
    """Does a thread wait, and hold no lock that others need: it was asleep whenever it was looked at?"""
    for _ in range(20):
        if Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            return False
        time.sleep(0.01)
    return True


def reap(thread: int) -> None:
    """Let go of a stopped thread once it is dead: its process cannot end before."""
    while True:
        _, status = os.waitpid(thread, WALL)
        if not os.WIFSTOPPED(status):
            return


def test_a_worker_that_served_is_restarted_however_often_it_dies(tough: Broker) -> None:
    client = tough.connect()
    for deaths in range(1, 6):
        load = {"action": "load_model", "model_id": "alpha", "device_id": "virtual:0"}
        assert client.ask(load)["success"]
        os.kill(tough.devices()["virtual:0"]["pid"], signal.SIGKILL)
        wait_for(lambda deaths=deaths: tough.devices()["virtual:0"]["restarts"] == deaths, tough)
        tough.wait_ready()


def test_a_crash_loop_disables_its_device_until_an_administrator_resumes_it(tough: Broker) -> None:
    client = tough.connect()
    for _ in range(3):
        device = wait_for(lambda: (d := tough.devices()["virtual:0"])["pid"] and d, tough)
        os.kill(device["pid"], signal.SIGKILL)
        wait_for(lambda device=device: tough.devices()["virtual:0"]["pid"] != device["pid"], tough)
    wait_for(lambda: tough.devices()["virtual:0"]["state"] == "disabled", tough)
    (warning,) = client.ask({"action": "list_devices"})["warnings"]
    assert warning.startswith("virtual:0 is disabled: it died 3 times")
    on_it = {"action": "load_model", "model_id": "alpha", "device_id": "virtual:0"}
    assert client.ask(on_it)["error"]["code"] == "DEVICE_UNAVAILABLE"

    broker_process(tough).kill()
    until_next_epoch(tough, tough.endpoints["epoch"])
    wait_for(lambda: tough.devices()["virtual:1"]["state"] == "ready", tough)
    assert tough.devices()["virtual:0"]["state"] == "disabled"

    assert command_line(tough, "resume", "virtual:0").returncode == 0
    tough.wait_ready()
    assert ask_until_known(tough, on_it)["success"]


# administration


def test_an_administrator_drains_restarts_and_resumes_a_device(tough: Broker) -> None:
    client = tough.connect()
    before = tough.devices()["virtual:0"]
    assert command_line(tough, "drain", "virtual:0").returncode == 0
    assert tough.devices()["virtual:0"]["state"] == "drained"
    loaded = client.ask({"action": "load_model", "model_id": "alpha"})
    assert loaded["device_id"] == "virtual:1"
    refused = client.ask({"action": "load_model", "model_id": "alpha", "device_id": "virtual:0"})
    assert refused["error"]["code"] == "DRAINING"
    assert command_line(tough, "restart", "virtual:0").returncode == 0
    wait_for(lambda: tough.devices()["virtual:0"]["generation"] > before["generation"], tough)
    wait_for(lambda: tough.devices()["virtual:0"]["state"] == "drained", tough)
    assert not psutil.pid_exists(before["pid"])

    broker_process(tough).kill()
    until_next_epoch(tough, tough.endpoints["epoch"])
    wait_for(lambda: tough.devices()["virtual:0"]["state"] == "drained", tough)

    assert command_line(tough, "resume", "virtual:0").returncode == 0
    tough.wait_ready()


def test_a_restart_by_force_does_not_wait(tough: Broker) -> None:
    client = tough.connect()
    run_long(client, tough, "running", device_id="virtual:0")
    assert command_line(tough, "restart", "--force", "virtual:0").returncode == 0
    lost, _ = client.receive()
    assert (lost["request_id"], lost["error"]["code"]) == ("running", "WORKER_LOST")
    tough.wait_ready()


def command_line(broker: Broker, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`vrambroker` as a person runs it."""
    command = [sys.executable, "-P", "-m", "cli.main", "--endpoint", broker.endpoints["commands"], *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60)


# the supervisor


def test_stopped_children_die_with_a_killed_supervisor_too(tough: Broker) -> None:
    everyone = psutil.Process(tough.process.pid).children(recursive=True)
    for child in everyone:
        child.send_signal(signal.SIGSTOP)
    tough.process.kill()
    tough.process.wait()
    _, alive = psutil.wait_procs(everyone, timeout=30)
    assert not alive


def test_a_stop_lets_what_runs_end_and_refuses_what_comes(tough: Broker) -> None:
    client, late = tough.connect(), tough.connect()
    run_long(client, tough, "running", steps=25)
    tough.process.send_signal(signal.SIGTERM)
    wait_for(lambda: {device["state"] for device in tough.devices().values()} == {"draining"}, tough)
    refused = late.ask({"action": "load_model", "model_id": "alpha"})
    assert refused["error"]["code"] == "DRAINING"
    done, _ = client.receive()
    assert (done["request_id"], done["success"]) == ("running", True)
    assert tough.process.wait(60) == 0
    assert not (tough.runtime / "endpoints.json").exists()


def test_a_second_signal_ends_everything_at_once(tough: Broker) -> None:
    client = tough.connect()
    run_long(client, tough, "running")
    everyone = psutil.Process(tough.process.pid).children(recursive=True)
    tough.process.send_signal(signal.SIGTERM)
    wait_for(lambda: {device["state"] for device in tough.devices().values()} == {"draining"}, tough)
    tough.process.send_signal(signal.SIGTERM)
    assert tough.process.wait(60) == 0
    _, alive = psutil.wait_procs(everyone, timeout=30)
    assert not alive

"""The machine that it runs on: readers of the log that go, terminals that close, first processes of containers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from tests.integration.conftest import ROOT, Connection, profile, wait_for


class Service:
    """A `serve` whose standard error is the test's; its runtime folder, and a connection made when asked for."""

    def __init__(self, folder: Path, stderr: int, words: tuple[str, ...] = (), **settings: str) -> None:
        self.folder = folder
        self.runtime = Path(settings.get("runtime", str(folder / "runtime")))
        self.models = folder / "models"
        self.models.mkdir(exist_ok=True)
        profile(self.models, "m", load_ms=5, step_ms=20)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("VRAMBROKER_")}
        own = {
            "runtime": str(self.runtime),
            "models": str(self.models),
            "devices": "virtual:1",
            "commands": "tcp://127.0.0.1:0",
            "events": "tcp://127.0.0.1:0",
            "web": "off",
            "drain": "2",
        }
        environment |= {f"VRAMBROKER_{key.upper()}": value for key, value in (own | settings).items()}
        command = [*words, sys.executable, "-P", "-m", "cli.main", "serve"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stderr, stdout=stderr)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def endpoints(self) -> dict[str, str]:
        found: dict[str, str] = wait_for(lambda: json.loads((self.runtime / "endpoints.json").read_text()))
        return found

    def connect(self, identity: bytes = b"") -> Connection:
        """A DEALER, under a routing id of its own where one is given."""
        dealer = self._context.socket(zmq.DEALER)
        self._sockets.append(dealer)
        if identity:
            dealer.setsockopt(zmq.IDENTITY, identity)
        dealer.connect(self.endpoints()["commands"])
        return Connection(dealer)

    def ready(self) -> Connection:
        connection = self.connect()
        wait_for(lambda: {d["state"] for d in connection.ask({"action": "list_devices"})["devices"]} == {"ready"})
        return connection

    def end(self) -> None:
        for dealer in self._sockets:
            dealer.close(linger=0)
        self._context.term()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            finally:
                self.process.kill()
                self.process.wait()


@contextmanager
def service(folder: Path, words: tuple[str, ...] = (), **settings: str) -> Iterator[Service]:
    with (folder / "log").open("ab") as log:
        one = Service(folder, log.fileno(), words, **settings)
    try:
        yield one
    finally:
        one.end()


DRAW = {"action": "generate", "model_id": "m", "prompt": "x", "steps": 2}


def test_a_log_whose_reader_is_gone_costs_no_command_and_no_clean_stop(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    one = Service(tmp_path, writer)
    os.close(writer)
    try:
        client = one.ready()
        os.close(reader)
        for _ in range(3):
            assert client.ask(DRAW)["state"] == "completed"
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(20) == 0
    finally:
        one.end()


def test_a_log_whose_reader_stands_still_costs_no_command_and_no_clean_stop(tmp_path: Path) -> None:
    import fcntl  # noqa: PLC0415 - Linux

    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    one = Service(tmp_path, writer)
    os.close(writer)
    try:
        client = one.ready()
        for _ in range(40):
            assert client.ask(DRAW)["state"] == "completed"
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(20) == 0
    finally:
        one.end()
        os.close(reader)


def test_a_terminal_that_closes_is_a_stop(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        client = one.ready()
        for number in range(3):
            client.send({**DRAW, "steps": 10, "request_id": f"g{number}"})
        wait_for(lambda: one.connect().ask({"action": "list_devices"})["devices"][0]["state"] == "busy")
        one.process.send_signal(signal.SIGHUP)
        replies = {reply["request_id"]: reply for reply, _ in (client.receive() for _ in range(3))}
        assert replies["g0"]["state"] == "completed"
        assert {replies[name]["error"]["code"] for name in ("g1", "g2")} == {"DRAINING"}
        assert one.process.wait(20) == 0
        assert not (one.runtime / "endpoints.json").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="NOT ROOT: a process of a new PID namespace is not tested here")
def test_the_first_process_of_a_container_stops_at_once_and_reaps_what_it_adopts(tmp_path: Path) -> None:
    inside = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with service(tmp_path, inside) as one:
        one.ready()
        (first,) = _children(one.process.pid)
        subprocess.run(
            ["nsenter", "-t", str(first), "-p", "-m", "sh", "-c", "(sleep 0.1 &); (sleep 0.2 &)"],
            check=True,
            timeout=30,
        )
        time.sleep(0.5)
        wait_for(lambda: "Z" not in {_state(pid) for pid in _children(first)})
        os.kill(first, signal.SIGTERM)
        assert one.process.wait(20) == 0


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_folder_that_was_cleaned_out_is_put_right_while_the_service_runs(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        one.ready()
        before = one.endpoints()
        worker = next(iter(one.connect().ask({"action": "list_devices"})["devices"]))["pid"]
        for path in one.runtime.iterdir():
            if path.name != "data":
                path.unlink()
        assert wait_for(lambda: json.loads((one.runtime / "endpoints.json").read_text())) == before
        os.kill(worker, signal.SIGKILL)  # its successor finds the link by its path
        wait_for(lambda: one.connect().ask({"action": "list_devices"})["devices"][0]["generation"] == 2)
        assert one.ready().ask(DRAW)["state"] == "completed"


def test_connections_beyond_the_limit_of_open_files_wait_and_cost_nobody_else(tmp_path: Path) -> None:
    with service(tmp_path, ("sh", "-c", 'ulimit -n 160; exec "$0" "$@"')) as one:
        client = one.ready()
        before = one.endpoints()
        host, _, port = before["commands"].removeprefix("tcp://").rpartition(":")
        leaked = [socket.create_connection((host, int(port)), 5) for _ in range(300)]
        wait_for(lambda: "too many connections" in (tmp_path / "log").read_text())
        assert client.ask({"action": "ping"})["success"], "who is connected is served"
        worker = client.ask({"action": "list_devices"})["devices"][0]["pid"]
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: client.ask({"action": "list_devices"})["devices"][0]["generation"] == 2)
        for connection in leaked:
            connection.close()
        assert one.connect().ask({"action": "ping"})["success"], "who comes once there is room is served"
        assert one.endpoints() == before


def test_the_successor_of_a_client_that_hangs_is_served_under_the_same_routing_id(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        first = one.connect(identity=b"host-1")
        assert first.ask({"action": "ping"})["success"]
        second = one.connect(identity=b"host-1")
        assert second.ask({"action": "ping"})["success"]


def test_a_supervisor_that_was_paused_holds_its_own_silence_against_nobody(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("silence_ms = 1000\n")  # of the broker 5 s count at least
    with service(tmp_path, config=str(config)) as one:
        client = one.ready()
        before = one.endpoints()
        client.send({**DRAW, "steps": 300})
        one.process.send_signal(signal.SIGSTOP)
        time.sleep(5.7)
        one.process.send_signal(signal.SIGCONT)
        assert client.receive()[0]["state"] == "completed"
        assert one.endpoints() == before
        assert "the broker is ended" not in (tmp_path / "log").read_text()


def test_a_flood_of_the_control_lane_is_refused_beyond_its_bound_and_ends_no_worker_that_draws(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        client, flood = one.ready(), one.connect()
        assert client.ask({"action": "load_model", "model_id": "m"})["success"]
        client.send({**DRAW, "steps": 100})
        for number in range(20_000):
            flood.send({"action": "pin_model", "model_id": "m", "request_id": f"p{number}"})
        answers = [flood.receive()[0] for _ in range(20_000)]
        codes = {reply["error"]["code"] for reply in answers if reply["error"]}
        assert codes <= {"QUEUE_FULL"} and any(reply["success"] for reply in answers)
        assert client.receive()[0]["state"] == "completed"
        assert client.ask({"action": "list_devices"})["devices"][0]["generation"] == 1

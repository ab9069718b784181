"""The guarded endpoints over real sockets: who is let in, as what, and what the log says of the others."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from protocol import link, supervision
from protocol.enums import DeviceKind
from protocol.replies import Limits
from protocol.supervision import Door, Quota
from protocol.telemetry import DeviceIdentity
from settings.keys import KeyFile, KeyFolder, Role, read_key

Socket = zmq.Socket[bytes]
PATIENCE_MS = 10_000
SILENCE_MS = 400
ROOT = Path(__file__).parents[2]
PING = b'{"action":"ping"}'


class Broker:
    """A broker whose every endpoint is guarded, with a key of each role."""

    def __init__(self, folder: Path) -> None:
        self.keys = KeyFolder(folder / "keys")
        for name, role in (("host", Role.CLIENT), ("other", Role.CLIENT), ("gpu", Role.WORKER), ("boss", Role.ADMIN)):
            self.keys.make(name, role)
        spec = supervision.BrokerSpec(
            commands="tcp://127.0.0.1:*",
            events="tcp://127.0.0.1:*",
            link="tcp://127.0.0.1:*",
            devices=[supervision.DeviceSlot(device_id="virtual:0", kind=DeviceKind.VIRTUAL)],
            limits=Limits(),
            silence_ms=15_000,
            version="test",
            guarded=list(Door),
            keys=str(self.keys.path),
            quota=Quota(message_bytes=4096),
        )
        self.log = folder / "log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "broker", msgspec.json.encode(spec).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        ready = supervision.from_broker(self.process.stdout.readline().strip())
        assert isinstance(ready, supervision.Ready)
        self.addresses = {Door.COMMANDS: ready.commands, Door.EVENTS: ready.events, Door.WORKERS: ready.link}
        self.context: zmq.Context[Socket] = zmq.Context()
        self.sockets: list[Socket] = []

    def key(self, name: str) -> KeyFile:
        return read_key(self.keys.path / f"{name}.key")

    def connect(self, door: Door, key: KeyFile | None, kind: int = zmq.DEALER, identity: bytes = b"") -> Socket:
        socket = self.context.socket(kind)
        self.sockets.append(socket)
        socket.linger = 0
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        if key is not None:
            key.apply(socket)
        if kind == zmq.SUB:
            socket.subscribe("")
        socket.connect(self.addresses[door])
        return socket

    def logged(self, *words: str) -> str:
        """The first line of the log with all of these words."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while time.monotonic() < end:
            for line in self.log.read_text().splitlines():
                if all(word in line for word in words):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line with {words} in:\n{self.log.read_text()}")

    def disconnect(self) -> None:
        """Close every socket: a refused one would try again and again."""
        while self.sockets:
            self.sockets.pop().close()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.context.destroy(0)
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("auth"))
    yield broker
    broker.close()


@pytest.fixture
def broker(running: Broker) -> Iterator[Broker]:
    yield running
    running.disconnect()


def ask(socket: Socket, payload: bytes | dict[str, Any] = PING) -> Any:
    socket.send(payload if isinstance(payload, bytes) else msgspec.json.encode(payload))
    assert socket.poll(PATIENCE_MS), "no reply"
    return msgspec.json.decode(socket.recv())


def is_refused(socket: Socket, payload: bytes = PING) -> bool:
    socket.send(payload)
    return not socket.poll(SILENCE_MS)


def register() -> bytes:
    identity = DeviceIdentity(device_id="virtual:0", uuid="U", name="v", kind=DeviceKind.VIRTUAL, total_vram=1)
    header = link.Register(worker_id="w", generation=0, pid=os.getpid(), device=identity, ready=True)
    return link.encode(header)


@pytest.mark.parametrize("name", ["host", "boss"])
def test_clients_and_admins_may_command(broker: Broker, name: str) -> None:
    assert ask(broker.connect(Door.COMMANDS, broker.key(name)))["success"]


def test_a_key_that_nobody_admitted_is_refused_and_logged(broker: Broker) -> None:
    public, secret = zmq.curve_keypair()
    held = KeyFile(name="x", public=public.decode(), secret=secret.decode(), server=broker.keys.server().public)
    assert is_refused(broker.connect(Door.COMMANDS, held))
    line = broker.logged("a handshake was refused", "not admitted", public.decode())
    assert "127.0.0.1" in line
    assert "commands" in line


def test_a_wrong_server_key_is_refused_and_logged_with_its_address(broker: Broker) -> None:
    wrong = msgspec.structs.replace(broker.key("host"), server=zmq.curve_keypair()[0].decode())
    socket = broker.connect(Door.COMMANDS, wrong)
    assert is_refused(socket)
    broker.logged("a handshake was refused", "server key is not ours", "127.0.0.1:")


@pytest.mark.parametrize("door", list(Door))
def test_a_peer_without_curve_is_refused_and_logged(broker: Broker, door: Door) -> None:
    if door is Door.EVENTS:
        assert not broker.connect(door, None, zmq.SUB).poll(SILENCE_MS)
    else:
        assert is_refused(broker.connect(door, None), PING if door is Door.COMMANDS else register())
    broker.logged("a handshake was refused", "without CURVE", f'"endpoint": "{door.value}"')


@pytest.mark.parametrize("name", ["host", "boss"])
def test_no_clients_key_may_speak_on_the_worker_link(broker: Broker, name: str) -> None:
    assert is_refused(broker.connect(Door.WORKERS, broker.key(name)), register())
    broker.logged("a handshake was refused", f"its key {name} has the role", '"endpoint": "workers"')


def test_no_workers_key_may_command_whatever_its_routing_id(broker: Broker) -> None:
    assert is_refused(broker.connect(Door.COMMANDS, broker.key("gpu"), identity=b"host"))
    broker.logged("a handshake was refused", "its key gpu has the role worker", '"endpoint": "commands"')


def test_a_workers_key_may_register(broker: Broker) -> None:
    socket = broker.connect(Door.WORKERS, broker.key("gpu"))
    socket.send(register())
    assert socket.poll(PATIENCE_MS)
    assert isinstance(link.decode_to_worker(socket.recv()), link.Welcome)


def test_events_are_for_clients_and_admins(broker: Broker) -> None:
    admitted = [broker.connect(Door.EVENTS, broker.key(name), zmq.SUB) for name in ("host", "boss")]
    refused = broker.connect(Door.EVENTS, broker.key("gpu"), zmq.SUB)
    assert all(socket.poll(PATIENCE_MS) for socket in admitted)
    assert not refused.poll(SILENCE_MS)


def test_the_admin_lane_is_for_admins_keys_alone(broker: Broker) -> None:
    drain = {"action": "drain_device", "device_id": "virtual:0"}
    resume = {"action": "resume_device", "device_id": "virtual:0"}
    client = broker.connect(Door.COMMANDS, broker.key("host"), identity=b"boss")
    admin = broker.connect(Door.COMMANDS, broker.key("boss"))
    assert ask(client, drain)["error"]["code"] == "UNAUTHORIZED"
    assert ask(admin, drain)["success"]
    assert ask(admin, resume)["success"]


def test_the_greatest_message_is_taken_and_one_byte_more_is_not(broker: Broker) -> None:
    socket = broker.connect(Door.COMMANDS, broker.key("host"))
    assert ask(socket, PING.ljust(4096))["success"]
    refused = ask(socket, b'{"action":"ping","request_id":"large"}'.ljust(4097))
    assert (refused["error"]["code"], refused["request_id"]) == ("QUEUE_FULL", "large")
    assert not refused["error"]["retryable"]


def test_a_reply_never_goes_to_another_key_that_took_the_routing_id_over(broker: Broker) -> None:
    load = {"action": "generate", "model_id": "nobody-knows-yet", "prompt": "x", "timeout_seconds": 2}
    first = broker.connect(Door.COMMANDS, broker.key("host"), identity=b"same")
    first.send(msgspec.json.encode(load))
    assert ask(first)["success"]
    first.close()
    time.sleep(0.5)  # an id that is still in use would be refused to the second, for good
    second = broker.connect(Door.COMMANDS, broker.key("other"), identity=b"same")
    broker.logged("a reply has nobody to go to", (broker.key("host").public.encode() + b"same").hex())
    assert not second.poll(SILENCE_MS)
    assert ask(second)["success"]


def test_a_key_that_is_removed_is_refused_on_its_open_connection(broker: Broker) -> None:
    broker.keys.make("brief", Role.CLIENT)
    held = broker.key("brief")
    time.sleep(1.1)
    socket = broker.connect(Door.COMMANDS, held)
    assert ask(socket)["success"]
    broker.keys.remove("brief")
    time.sleep(1.1)
    assert ask(socket)["error"]["code"] == "UNAUTHORIZED"
    assert is_refused(broker.connect(Door.COMMANDS, held))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_MS / 1000
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_unauthorized(socket: Socket) -> bool:
    reply = ask(socket, {"action": "drain_device", "device_id": "virtual:0"})
    return not reply["success"] and reply["error"]["code"] == "UNAUTHORIZED"


def test_a_role_that_is_changed_in_place_is_seen_on_an_open_connection(broker: Broker) -> None:
    broker.keys.make("chief", Role.ADMIN)
    socket = broker.connect(Door.COMMANDS, broker.key("chief"))
    drain = {"action": "drain_device", "device_id": "virtual:0"}
    assert ask(socket, drain)["success"] and ask(socket, drain | {"action": "resume_device"})["success"]
    path = broker.keys.path / "chief.pub"
    path.write_text(path.read_text().replace('"admin"', '"client"'))
    wait_until(lambda: is_unauthorized(socket))
    assert ask(socket)["success"]
    broker.keys.remove("chief")


def with_a_device(broker: Broker) -> None:
    """Register one, so that there is something to publish."""
    worker = broker.connect(Door.WORKERS, broker.key("gpu"))
    worker.send(register())
    assert worker.poll(PATIENCE_MS)


def test_a_subscription_ends_with_its_key_and_others_go_on(broker: Broker) -> None:
    with_a_device(broker)
    broker.keys.make("viewer", Role.CLIENT)
    mine = broker.connect(Door.EVENTS, broker.key("viewer"), zmq.SUB)
    other = broker.connect(Door.EVENTS, broker.key("host"), zmq.SUB)
    caller = broker.connect(Door.COMMANDS, broker.key("host"))
    assert mine.poll(PATIENCE_MS) and other.poll(PATIENCE_MS)
    broker.keys.remove("viewer")
    time.sleep(1.0)
    while mine.poll(0):
        mine.recv_multipart()

    def hears() -> bool:
        ask(caller, {"action": "load_model", "model_id": "nobody", "timeout_seconds": 1})
        return bool(other.poll(100))

    wait_until(hears)
    assert not mine.poll(SILENCE_MS)


def test_a_subscription_ends_with_its_key_while_others_keep_the_broker_looking(broker: Broker) -> None:
    """Whoever's message or handshake makes the broker see the change: what follows from it is done."""
    with_a_device(broker)
    caller = broker.connect(Door.COMMANDS, broker.key("host"))
    for round_ in range(2):
        name = f"busy{round_}"
        broker.keys.make(name, Role.CLIENT)
        mine = broker.connect(Door.EVENTS, broker.key(name), zmq.SUB)
        assert mine.poll(PATIENCE_MS)
        broker.keys.remove(name)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            fresh = broker.connect(Door.COMMANDS, broker.key("host"))
            ask(fresh)
            fresh.close()
        while mine.poll(0):
            mine.recv_multipart()
        ask(caller, {"action": "load_model", "model_id": "nobody", "timeout_seconds": 1})
        assert not mine.poll(SILENCE_MS)


def test_a_worker_whose_key_goes_is_lost_and_cut_off(broker: Broker) -> None:
    broker.keys.make("gone", Role.WORKER)
    worker = broker.connect(Door.WORKERS, broker.key("gone"))
    worker.send(register())
    assert worker.poll(PATIENCE_MS) and worker.recv()
    broker.keys.remove("gone")
    time.sleep(1.0)
    worker.send(register())
    broker.logged("a worker whose key is admitted no more is cut off")
    worker.send(register())
    assert not worker.poll(SILENCE_MS)


@pytest.mark.parametrize("harm", ["gone", "loose"])
def test_a_folder_in_doubt_admits_nobody_until_it_is_mended(broker: Broker, harm: str) -> None:
    path, away = broker.keys.path, broker.keys.path.with_name("away")
    held = broker.key("host")
    socket = broker.connect(Door.COMMANDS, held)
    assert ask(socket)["success"]
    if harm == "gone":
        path.rename(away)
    else:
        path.chmod(0o777)
    try:
        wait_until(lambda: not ask(socket)["success"])
        assert ask(socket)["error"]["code"] == "UNAUTHORIZED"
        fresh = broker.connect(Door.COMMANDS, held)
        assert is_refused(fresh) if harm == "gone" else ask(fresh)["error"]["code"] == "UNAUTHORIZED"
        assert not broker.connect(Door.EVENTS, held, zmq.SUB).poll(SILENCE_MS)
        broker.logged("the allow-list admits less than it holds", "mode 0777" if harm == "loose" else "No such file")
    finally:
        if harm == "gone":
            away.rename(path)
        else:
            path.chmod(0o700)
    wait_until(lambda: bool(ask(socket)["success"]))
    assert ask(broker.connect(Door.COMMANDS, held))["success"]


def test_a_flood_of_refused_handshakes_is_told_in_few_lines(broker: Broker) -> None:
    before = broker.log.read_text().count("a handshake was refused")
    sockets = [broker.connect(Door.COMMANDS, None) for _ in range(100)]
    time.sleep(1.5)
    for socket in sockets:
        socket.close()
    assert broker.log.read_text().count("a handshake was refused") - before <= 40
    assert ask(broker.connect(Door.COMMANDS, broker.key("host")))["success"]

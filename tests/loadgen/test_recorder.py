"""A recorder: clients and broker see each other as without it, and what was asked can be asked again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from loadgen import trace
from loadgen.recorder import Recorder
from loadgen.replaying import scenario_of
from loadgen.running import run
from loadgen.scenario import checked
from tests.loadgen.echo import Echo


class Mirror:
    """A ROUTER that sends every message back with its frames, and remembers who sent it."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self.socket.last_endpoint.decode()
        self.seen: list[list[bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if self.socket.poll(50):
                frames = self.socket.recv_multipart()
                self.seen.append(frames)
                self.socket.send_multipart(frames)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.context.destroy(linger=0)


class Between:
    """A recorder in a thread, before a mirror."""

    def __init__(self, path: Path, **how: Any) -> None:
        self.mirror = Mirror()
        self.path = path
        self._stream = path.open("wb")
        self.recorder = Recorder("tcp://127.0.0.1:0", self.mirror.endpoint, self._stream, **how)
        self._thread = threading.Thread(target=self.recorder.run)
        self._thread.start()
        self._sockets: list[Any] = []

    def socket(self, kind: int, identity: bytes = b"") -> Any:
        socket = self.mirror.context.socket(kind)
        socket.linger, socket.rcvtimeo = 0, 10_000
        if identity:
            socket.identity = identity
        socket.connect(self.recorder.address)
        self._sockets.append(socket)
        return socket

    def lines(self) -> list[trace.Line]:
        self.close()
        return list(trace.read(self.path))

    def close(self) -> None:
        self.recorder.stop()
        self._thread.join()
        self._stream.close()


@pytest.fixture
def between(tmp_path: Path) -> Iterator[Between]:
    made = Between(tmp_path / "recording")
    yield made
    made.close()
    made.mirror.close()


BODY = json.dumps({"action": "ping", "request_id": "r", "state": "completed", "success": True}).encode()


@pytest.mark.parametrize("envelope", [[], [b""], [b"\x00\x00\x00\x01", b""]], ids=["bare", "delimiter", "correlation"])
def test_every_envelope_and_attachment_comes_back_unchanged(between: Between, envelope: list[bytes]) -> None:
    dealer = between.socket(zmq.DEALER)
    frames = [*envelope, BODY, b"\x00picture", b""]
    dealer.send_multipart(frames)
    assert dealer.recv_multipart() == frames
    command, answer = between.lines()
    assert isinstance(command, trace.Command) and command.payload == json.loads(BODY)
    assert [kept.bytes for kept in command.attachments] == [8, 0]
    assert isinstance(answer, trace.Answer) and (answer.request_id, answer.state) == ("r", "completed")


def test_a_req_socket_is_answered(between: Between) -> None:
    req = between.socket(zmq.REQ)
    req.send(BODY)
    assert req.recv() == BODY


def test_the_broker_sees_each_client_and_the_ids_that_they_chose(between: Between) -> None:
    for name in (b"studio", b"host", b""):
        socket = between.socket(zmq.DEALER, name)
        socket.send(BODY)
        assert socket.recv() == BODY
    assert [frames[0] for frames in between.mirror.seen[:2]] == [b"studio", b"host"]
    assert len({frames[0] for frames in between.mirror.seen}) == 3
    commands = [line for line in between.lines() if isinstance(line, trace.Command)]
    assert [line.client for line in commands] == [1, 2, 3]


def test_messagepack_and_nonsense_pass_too(between: Between) -> None:
    dealer = between.socket(zmq.DEALER)
    packed = msgspec.msgpack.encode({"action": "ping", "RequestId": "p", "State": "failed"})
    for body in (packed, b"\xff\x00", b"[1]"):
        dealer.send(body)
        assert dealer.recv() == body
    lines = between.lines()
    assert [type(line).__name__ for line in lines].count("Command") == 3
    (answer,) = [line for line in lines if isinstance(line, trace.Answer)]
    assert (answer.request_id, answer.state, answer.success) == ("p", "failed", False)


def test_what_was_recorded_is_asked_again_in_its_order_under_new_ids(between: Between) -> None:
    dealer = between.socket(zmq.DEALER)
    for number in range(5):
        dealer.send(json.dumps({"action": "list_models", "request_id": f"r{number}", "page": number + 1}).encode())
        dealer.recv()
    between.close()
    with Echo() as echo:
        scenario = checked(scenario_of(between.path, speed=2.0, patience_seconds=5.0))
        found = run(echo.endpoint, scenario)
    assert found.outcomes["completed"] == 5 and found.commands["list_models"].outcomes["completed"] == 5
    assert [command["page"] for command in echo.seen] == [1, 2, 3, 4, 5]
    assert all(command["request_id"].endswith(f"-r{number}") for number, command in enumerate(echo.seen))

"""The broker's process over real sockets, with a worker and a catalogue that the test plays itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from room import model, residency, success_of, telemetry

from protocol import link, supervision
from protocol.codec import encode_reply
from protocol.enums import DeviceKind
from protocol.replies import Limits
from protocol.telemetry import DeviceIdentity

Socket = zmq.Socket[bytes]
PATIENCE_MS = 10_000
ROOT = Path(__file__).parents[2]


class Peer(threading.Thread):
    """A device's worker, or the catalogue: registers, beats, and answers every assignment at once.

    Attachments come back with the answer of a `generate`.
    """

    def __init__(self, context: zmq.Context[Socket], address: str, device: str | None) -> None:
        super().__init__(daemon=True)
        self._device = device
        self._name = device or link.CATALOG_ID
        self._running = True
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, f"{self._name}/1/test".encode())
        self.socket.connect(address)

    def stop(self) -> None:
        self._running = False
        self.join()
        self.socket.close(linger=0)

    def run(self) -> None:
        self._register()
        while self._running:
            self._send(link.Beat(progress_count=0))
            while self.socket.poll(100):
                header, *body = self.socket.recv_multipart()
                message = link.decode_to_worker(header)
                if isinstance(message, link.Assign):
                    self._answer(message, body)

    def _register(self) -> None:
        identity = None
        if self._device is not None:
            kind = DeviceKind.VIRTUAL
            identity = DeviceIdentity(device_id=self._device, uuid="U-1", name="test", kind=kind, total_vram=1 << 30)
        ready = self._device is not None
        self._send(link.Register(worker_id=self._name, generation=1, pid=1, device=identity, ready=ready))
        if ready:
            self._send(link.Report(ready=True, telemetry=telemetry(), models=[residency("v")]))
        else:
            entry = model("v", path="/models/v.vmodel.json")
            self._send(link.CatalogEntries(entries=[entry], complete=True))

    def _answer(self, assign: link.Assign, body: list[bytes]) -> None:
        reply = success_of(assign)
        update = link.JobUpdate(
            request_id=assign.request_id, attempt=assign.attempt, state=reply.state, success=reply.success
        )
        self.socket.send_multipart([link.encode(update), encode_reply(reply, assign.spelling), *body[1:]])

    def _send(self, message: link.Message) -> None:
        self.socket.send(link.encode(message))


class Broker:
    """The process, its addresses, and sockets of clients."""

    def __init__(self) -> None:
        spec = supervision.BrokerSpec(
            commands="tcp://127.0.0.1:*",
            events="tcp://127.0.0.1:*",
            link="tcp://127.0.0.1:*",
            devices=[supervision.DeviceSlot(device_id="virtual:0", kind=DeviceKind.VIRTUAL)],
            limits=Limits(),
            silence_ms=15_000,
            version="test",
        )
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "broker", msgspec.json.encode(spec).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.stdin = self.process.stdin
        ready = supervision.from_broker(self.process.stdout.readline().strip())
        assert isinstance(ready, supervision.Ready)
        self.ready = ready
        self.context: zmq.Context[Socket] = zmq.Context()
        self.sockets: list[Socket] = []
        self.peers = [Peer(self.context, ready.link, "virtual:0"), Peer(self.context, ready.link, None)]
        for peer in self.peers:
            peer.start()

    def client(self, kind: int = zmq.DEALER) -> Socket:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(self.ready.commands)
        self.sockets.append(socket)
        return socket

    def close(self) -> None:
        self.stdin.close()
        for peer in self.peers:
            peer.stop()
        for socket in self.sockets:
            socket.close(linger=0)
        self.context.term()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


def receive(socket: Socket) -> list[bytes]:
    assert socket.poll(PATIENCE_MS), "no reply"
    return socket.recv_multipart()


def ping(request_id: str) -> bytes:
    return msgspec.json.encode({"action": "ping", "request_id": request_id})


def pong(payload: bytes, request_id: str) -> bool:
    reply: Any = msgspec.json.decode(payload)
    return bool(reply["success"] and reply["request_id"] == request_id)


def test_a_bare_dealer_is_answered(broker: Broker) -> None:
    socket = broker.client()
    socket.send(ping("bare"))
    (payload,) = receive(socket)
    assert pong(payload, "bare")


def test_req_is_answered_again_and_again(broker: Broker) -> None:
    socket = broker.client(zmq.REQ)
    for number in range(5):
        socket.send(ping(f"req-{number}"))
        assert pong(receive(socket)[0], f"req-{number}")


def test_a_correlating_req_is_answered(broker: Broker) -> None:
    socket = broker.client(zmq.REQ)
    socket.setsockopt(zmq.REQ_CORRELATE, 1)
    socket.send(ping("correlate"))
    assert pong(receive(socket)[0], "correlate")


@pytest.mark.parametrize("shape", [[b""], [b"\x00\xff\x00\x01", b""]])
def test_envelopes_come_back(broker: Broker, shape: list[bytes]) -> None:
    socket = broker.client()
    socket.send_multipart([*shape, ping("shape")])
    *envelope, payload = receive(socket)
    assert envelope == shape
    assert pong(payload, "shape")


def test_a_command_reaches_the_worker_and_its_attachments_come_back(broker: Broker) -> None:
    image = os.urandom(8 << 20)
    attachments = [{"name": "image-0", "media_type": "image/png", "bytes": len(image)}]
    command = {"action": "generate", "request_id": "big", "model_id": "v", "prompt": "x", "attachments": attachments}
    socket = broker.client()
    socket.send_multipart([b"", msgspec.json.encode(command), image])
    delimiter, payload, returned = receive(socket)
    assert delimiter == b""
    assert msgspec.json.decode(payload)["device_id"] == "virtual:0"
    assert returned == image


def test_a_catalogue_command_is_answered(broker: Broker) -> None:
    socket = broker.client()
    socket.send(b'{"action":"list_models","request_id":"list"}')
    assert msgspec.json.decode(receive(socket)[0])["action"] == "list_models"


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\x00" * 100],
        [b"", b""],
        [b"{"],
        [b"[]"],
        [b"\x93\x01\x02\x03"],
        [b"{}", b"x", b"y"],
        [b"\xff" * 4096],
        [b"x"] * 50,
        [b'{"action":' + b"[" * 5000],
    ],
)
def test_garbage_is_refused_and_the_broker_lives(broker: Broker, frames: list[bytes]) -> None:
    socket = broker.client()
    socket.send_multipart(frames)
    decode = msgspec.json.decode if frames[0][:1] != b"\x93" else msgspec.msgpack.decode
    refused: Any = decode(receive(socket)[-1])
    assert refused["error"]["code"] in ("MALFORMED_MESSAGE", "MISSING_PARAMETER")
    socket.send(ping("after"))
    assert pong(receive(socket)[-1], "after")


def test_garbage_on_the_worker_link_changes_nothing(broker: Broker) -> None:
    stranger = broker.context.socket(zmq.DEALER)
    stranger.connect(broker.ready.link)
    broker.sockets.append(stranger)
    for frames in ([b""], [b"\xc1garbage"], [link.encode(link.Beat(progress_count=1)), b"x"], [os.urandom(100)] * 9):
        stranger.send_multipart(frames)
    assert isinstance(link.decode_to_worker(receive(stranger)[0]), link.Welcome)
    socket = broker.client()
    socket.send(b'{"action":"list_models","request_id":"list-2"}')
    assert receive(socket)


def test_a_thousand_commands_in_flight_are_each_answered_once(broker: Broker) -> None:
    socket = broker.client()
    sent = [f"flight-{number}" for number in range(1000)]
    for request_id in sent:
        socket.send(ping(request_id))
    got = [msgspec.json.decode(receive(socket)[0])["request_id"] for _ in sent]
    assert got == sent
    assert not socket.poll(100)


def test_events_reach_a_subscriber(broker: Broker) -> None:
    socket = broker.context.socket(zmq.SUB)
    socket.connect(broker.ready.events)
    broker.sockets.append(socket)
    socket.subscribe("telemetry.virtual:0")
    topic, payload = receive(socket)
    assert (topic, msgspec.json.decode(payload)["device_id"]) == (b"telemetry.virtual:0", "virtual:0")


def test_the_end_of_its_standard_input_ends_the_broker() -> None:
    broker = Broker()
    broker.stdin.close()
    assert broker.process.wait(10) == 0
    broker.close()


def test_drain_ends_the_broker_with_status_0() -> None:
    broker = Broker()
    os.write(broker.stdin.fileno(), supervision.line(supervision.Drain(seconds=1)))
    assert broker.process.wait(10) == 0
    broker.close()

"""Frames and raw bytes against a real broker process: it lives, its memory stays, a well-behaved client is served."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Self

import msgspec
import psutil
import zmq

from broker import envelope
from protocol import supervision
from protocol.codec import decode_reply
from protocol.enums import DeviceKind
from protocol.replies import Limits
from tests.fuzz.inputs import Inputs

PATIENCE_MS = 20_000
IN_FLIGHT = 64


class Broker:
    """`python -m broker` on free ports, its data in a folder that goes with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vrambroker-fuzz-")
        spec = supervision.BrokerSpec(
            commands="tcp://127.0.0.1:*",
            events="tcp://127.0.0.1:*",
            link="tcp://127.0.0.1:*",
            devices=[supervision.DeviceSlot(device_id="virtual:0", kind=DeviceKind.VIRTUAL)],
            limits=Limits(),
            silence_ms=15_000,
            data=self._folder.name,
            version="fuzz",
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "broker", msgspec.json.encode(spec).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        ready = supervision.from_broker(self._process.stdout.readline().strip())
        assert isinstance(ready, supervision.Ready)
        self.commands, self.link = ready.commands, ready.link
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()
        self.context.term()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def connect(self, address: str = "") -> zmq.Socket[bytes]:
        one = self.context.socket(zmq.DEALER)
        one.setsockopt(zmq.LINGER, 0)
        one.connect(address or self.commands)
        self._sockets.append(one)
        return one


class Bystander:
    """A client that behaves; every one of its pings must be answered rightly."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._socket = broker.connect()
        self.answers = 0

    def ask(self) -> None:
        self.answers += 1
        self._socket.send(b'{"action":"ping","request_id":"b%d"}' % self.answers)
        assert self._socket.poll(PATIENCE_MS), f"no pong; the broker lives: {self._broker.alive}"
        reply = decode_reply(self._socket.recv_multipart()[-1])
        assert reply.success and reply.request_id == f"b{self.answers}"


def fuzz_frames(broker: Broker, seed: int, count: int) -> int:
    """Frame lists from a DEALER, some in flight at a time; how many replies came, each one readable."""
    inputs, bystander, peer = Inputs(seed), Bystander(broker), broker.connect()
    replies = 0
    for sent in range(count):
        frames = inputs.frames() or [b""]
        try:
            peer.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            time.sleep(0.01)
        if sent % IN_FLIGHT == 0:
            bystander.ask()
            replies += _read(peer)
    bystander.ask()
    return replies + _read(peer)


def _read(peer: zmq.Socket[bytes]) -> int:
    count = 0
    with contextlib.suppress(zmq.Again):
        while True:
            _, payload, _ = envelope.split(peer.recv_multipart(zmq.DONTWAIT))
            decode_reply(payload)
            count += 1
    return count


def fuzz_connections(broker: Broker, seed: int, count: int) -> None:
    """Raw connections to the commands endpoint and the worker link, cut off at any point."""
    inputs, bystander = Inputs(seed), Bystander(broker)
    for index in range(count):
        address = broker.commands if inputs.random.random() < 0.7 else broker.link
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=5) as raw, contextlib.suppress(OSError):
            for piece in inputs.connection():
                raw.sendall(piece)
        if index % IN_FLIGHT == 0:
            bystander.ask()
    bystander.ask()
